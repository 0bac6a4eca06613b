"""Fixtures that several packages' tests share."""

import os
from pathlib import Path

import pytest
import torch

# Without a GPU, the kernels run in Triton's interpreter. Triton decides when it is first imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is `long` as `slow` as well."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Arrays that the published code made, in $CLIPPO_REFERENCE or shared/reference beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "reference"
    folder = Path(os.environ.get("CLIPPO_REFERENCE", default))
    if not folder.is_dir():
        pytest.skip(f"reference arrays not found in {folder} (set CLIPPO_REFERENCE)")
    return folder
