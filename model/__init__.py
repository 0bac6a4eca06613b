"""The CLIPPO model: one ViT that reads photographs and rendered text (arXiv 2212.08045)."""

from clippo.model.checkpoints.big_vision import load_big_vision, load_vit, save_big_vision
from clippo.model.checkpoints.mteb import MtebEncoder
from clippo.model.checkpoints.open_clip import load_for_clip_benchmark, open_clip_trio
from clippo.model.clippo import Clippo, ClippoConfig
from clippo.model.layers import Attention, AttentionPool, Block, Mlp, PatchEmbed
from clippo.model.text_input import ByteText, ByteTextConfig, RenderedText, RenderedTextConfig
from clippo.model.tower import Encoder, Tower, TowerConfig
from clippo.model.variants import PUBLISHED, create_model, list_models

__all__ = [
    "PUBLISHED",
    "Attention",
    "AttentionPool",
    "Block",
    "ByteText",
    "ByteTextConfig",
    "Clippo",
    "ClippoConfig",
    "Encoder",
    "Mlp",
    "MtebEncoder",
    "PatchEmbed",
    "RenderedText",
    "RenderedTextConfig",
    "Tower",
    "TowerConfig",
    "create_model",
    "list_models",
    "load_big_vision",
    "load_for_clip_benchmark",
    "load_vit",
    "open_clip_trio",
    "save_big_vision",
]
