"""Fixtures that several packages' tests share."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

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
def import_file() -> Callable[[Path], ModuleType]:
    """Imports a file that is in no package."""

    def import_path(path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return import_path


@pytest.fixture(scope="session")
def run_ranks() -> Callable[[Path, int, Path], list[Any]]:
    """Runs a file for each rank, `FILE RANK WORLD_SIZE STORE OUT`, and gives what each saved to its OUT."""

    def run(worker: Path, world_size: int, folder: Path) -> list[Any]:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        outs = [folder / f"{rank}.pt" for rank in range(world_size)]
        processes = [
            subprocess.Popen(
                [sys.executable, worker, str(rank), str(world_size), folder / "store", out],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, out in enumerate(outs)
        ]
        try:
            for process in processes:
                _, errors = process.communicate(timeout=240)
                assert process.returncode == 0, errors
        finally:
            for process in processes:
                process.kill()
        return [torch.load(out) for out in outs]

    return run


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Arrays that the published code made, in $CLIPPO_REFERENCE or shared/reference beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "reference"
    folder = Path(os.environ.get("CLIPPO_REFERENCE", default))
    if not folder.is_dir():
        pytest.skip(f"reference arrays not found in {folder} (set CLIPPO_REFERENCE)")
    return folder
