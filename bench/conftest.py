"""Options and hooks of the benchmarks. `make bench` runs them all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from clippo.bench.cases import parameters_of


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Run the contestants last that a suite calls COMPILED.

    torch.compile takes minutes for all shapes of one, which must not keep the others from being measured.
    """
    items.sort(key=lambda item: parameters_of(item).get("name") in getattr(item.module, "COMPILED", ()))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Leave PyTorch one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
