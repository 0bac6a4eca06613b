"""The CLIPPO model: one ViT that reads photographs and rendered text (arXiv 2212.08045)."""

from clippo.model.big_vision import load_big_vision, load_vit, save_big_vision
from clippo.model.clippo import Clippo
from clippo.model.tower import TowerConfig
from clippo.model.variants import PUBLISHED, create_model, list_models

__all__ = [
    "PUBLISHED",
    "Clippo",
    "TowerConfig",
    "create_model",
    "list_models",
    "load_big_vision",
    "load_vit",
    "save_big_vision",
]
