"""A run small enough for a test, on the real data."""

import pytest

from clippo.data.emoji import EmojiConfig, EmojiDataset
from clippo.model import TowerConfig
from clippo.renderer import UnifontRenderer
from clippo.training.config import TrainConfig


@pytest.fixture(scope="session")
def dataset() -> EmojiDataset:
    return EmojiDataset(EmojiConfig(languages=("en", "de", "zh")), UnifontRenderer(64), seed=0)


@pytest.fixture(scope="session")
def tiny_config() -> TrainConfig:
    """20 steps of a tower that learns something in them."""
    return TrainConfig(
        model=TowerConfig(width=32, depth=1, mlp_dim=64, heads=2, patch_size=16, image_size=48, out_dim=32),
        data=EmojiConfig(languages=("en", "de")),
        batch_size=16,
        steps=20,
        learning_rate=3e-3,
        warmup_steps=2,
        weight_decay=0.05,
        beta2=0.98,
        checkpoint_every=10,
        log_every=5,
    )
