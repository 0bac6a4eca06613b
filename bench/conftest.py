"""Options and hooks of the benchmarks. `make bench` runs the headline ones, `make bench-all` all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from clippo.bench.cases import parameters_of

# The cases marked `headline`: of each subject one problem, with every contestant but those that a suite calls
# COMPILED. By the name of the benchmark, the parameters that a case must have.
HEADLINE: dict[str, dict[str, Any]] = {
    "test_packed": {"which": "both", "N": 197, "heads": "B"},
    "test_varlen": {"which": "both", "mixture": "captions and photographs"},
    "test_pool": {"which": "both", "N": 196},
    "test_on_device": {"which": "both", "geometry": "224/16", "B": 16},
    "test_contrastive": {"which": "both", "B": 2048, "D": 768},
    "test_sigmoid": {},
    "test_host": {"which": "forward"},
    "test_renderer": {"kind": "English", "seen": "unseen"},
    "test_peer": {"kind": "English"},
    "test_pages": {},
    "test_reportlab_and_pymupdf": {},
    "test_read": {},
    "test_decode": {},
    "test_loader": {},
    "test_text_tokens": {"canvas_px": 160, "dropped": 0.0},
    "test_load": {},
    "test_retrieval": {"captions": 1},
    "test_search": {},
}


@pytest.hookimpl(tryfirst=True)  # before -m chooses among the cases by their markers
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Mark the headline cases, and run the contestants last that a suite calls COMPILED.

    torch.compile takes minutes for all shapes of one, which must not keep the others from being measured.
    """
    for item in items:
        wanted = HEADLINE.get(item.originalname)
        if wanted is not None and wanted.items() <= parameters_of(item).items() and not is_compiled(item):
            item.add_marker("headline")
    items.sort(key=is_compiled)


def is_compiled(item: pytest.Function) -> bool:
    return parameters_of(item).get("name") in getattr(item.module, "COMPILED", ())


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Leave PyTorch one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
