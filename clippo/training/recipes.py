"""Recipes: what to run, on what, and what came out."""

from __future__ import annotations

from clippo.data.emoji import EmojiConfig
from clippo.training.config import TrainConfig
from model import TowerConfig


def emoji() -> TrainConfig:
    """A small CLIPPO on emoji pictures and their names in five languages."""
    return TrainConfig(
        model=TowerConfig(width=96, depth=3, mlp_dim=384, heads=3, patch_size=16, image_size=64, out_dim=128),
        data=EmojiConfig(),
        batch_size=128,
        steps=3000,
        learning_rate=2e-3,
        warmup_steps=1200,
        weight_decay=0.05,
        beta2=0.98,
        residual_scale=0.2,
    )
