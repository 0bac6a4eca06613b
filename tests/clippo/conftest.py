"""A run small enough for a test, on the real data."""

import dataclasses
from pathlib import Path

import pytest

from clippo.data.emoji import EmojiConfig, EmojiSource
from clippo.evaluation.retrieval import RetrievalConfig
from clippo.model import ClippoConfig
from clippo.recipes import find_recipe
from clippo.training import trainer
from clippo.training.config import TrainConfig
from clippo.training.trainer import train


@pytest.fixture(scope="session")
def emoji() -> EmojiSource:
    return EmojiConfig(languages=("en", "de", "zh")).build("all", image_size=64)


@pytest.fixture(scope="session")
def tiny_config() -> TrainConfig:
    """20 steps of a tower that learns something in them."""
    return dataclasses.replace(
        find_recipe("emoji")(),
        model=ClippoConfig(
            width=32, depth=1, mlp_dim=64, num_heads=2, patch_size=16, image_size=48, embed_dim=32
        ),
        data=EmojiConfig(languages=("en", "de")),
        evaluators={"held_out": RetrievalConfig(queries="held_out", candidates="held_out")},
        batch_size=16,
        steps=20,
        learning_rate=3e-3,
        warmup_steps=2,
        residual_scale=1.0,
        workers=0,
        eval_every=10,
        checkpoint_every=10,
        keep_checkpoints=1,
        log_every=5,
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny_config) -> Path:
    """The folder of a whole run of 20 steps."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(tiny_config, folder)
    return folder


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """Draw no learning curves, which takes half a second a run; `finished` has drawn its own."""
    monkeypatch.setattr(trainer, "draw", lambda runs, file: None)
