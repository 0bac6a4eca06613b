"""What the benchmarks share. `make bench` runs them all; one core for the renderer, all for training."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from clippo.data.emoji import EmojiDataset


deadline = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--time-limit", type=float, help="skip the benchmarks that are left after these seconds")


def pytest_configure(config: pytest.Config) -> None:
    limit = config.getoption("--time-limit")
    config.stash[deadline] = float("inf") if limit is None else time.monotonic() + limit


def pytest_runtest_setup(item: pytest.Item) -> None:
    if time.monotonic() > item.config.stash[deadline]:
        pytest.skip("out of time")


@pytest.fixture(scope="session")
def dataset() -> EmojiDataset:
    # Imported here: the benchmarks of the kernels run where the renderer's libraries are not installed.
    from clippo.data.emoji import EmojiConfig, EmojiDataset
    from clippo.renderer import UnifontRenderer
    from clippo.training import recipes

    return EmojiDataset(EmojiConfig(), UnifontRenderer(recipes.emoji().model.image_size))
