"""What the benchmarks share. `make bench` runs them all; one core for the renderer, all for training."""

import pytest

from clippo.data.emoji import EmojiConfig, EmojiDataset
from clippo.training import recipes
from renderer import UnifontRenderer


@pytest.fixture(scope="session")
def dataset() -> EmojiDataset:
    return EmojiDataset(EmojiConfig(), UnifontRenderer(recipes.emoji().model.image_size))
