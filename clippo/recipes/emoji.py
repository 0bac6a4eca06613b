"""A small CLIPPO on emoji and their names in five languages."""

from __future__ import annotations

from clippo.data.emoji import EmojiConfig
from clippo.data.transform import PlaceConfig
from clippo.evaluation.retrieval import RetrievalConfig
from clippo.model import ClippoConfig, RenderedTextConfig
from clippo.renderer import AlignedRendererConfig
from clippo.training.config import TrainConfig
from clippo.training.losses import SoftmaxLossConfig
from clippo.training.optimizers import AdamWConfig

__all__ = ["recipe"]


def recipe() -> TrainConfig:
    """A small CLIPPO on emoji and their names in five languages.

    Command: `clippo train emoji` (or `make train`).
    Hardware: two cores of an AMD EPYC, about eight minutes.
    Result: the tables of README.md and docs/training.md, which also tells how the settings were found.
    """
    return TrainConfig(
        model=ClippoConfig(
            width=96,
            depth=3,
            mlp_dim=384,
            num_heads=3,
            patch_size=16,
            image_size=64,
            embed_dim=128,
            text=RenderedTextConfig(tokens="inked"),
        ),
        renderer=AlignedRendererConfig(),
        data=EmojiConfig(),
        transform=PlaceConfig(strength=0.25),
        loss=SoftmaxLossConfig(),
        optimizer=AdamWConfig(weight_decay=0.05, beta2=0.98),
        evaluators={  # of names, not of the aliases in English
            "trained": RetrievalConfig(queries="train", candidates="train", captions="first"),
            "held_out": RetrievalConfig(queries="held_out", candidates="held_out", captions="first"),
            "held_out_among_all": RetrievalConfig(queries="held_out", candidates="all", captions="first"),
        },
        batch_size=128,
        steps=3000,
        learning_rate=2e-3,
        warmup_steps=1200,
        residual_scale=0.2,
        workers=0,  # on two cores, a worker slows the steps down by as much as it saves
    )
