import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clippo.bench.rehearsal import quicken_interpreter
from clippo_kernels.dispatch import BACKEND_VARIABLE

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their marks
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Mark all but one case of each test and backend as slow: the interpreter takes minutes for all.

    The case that is left is in the middle of the grid, which is usually a 16-bit dtype and a middling size.
    """
    grids: dict[tuple[Any, Any], list[pytest.Function]] = {}
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("long"):
            parameters = item.callspec.params if hasattr(item, "callspec") else {}
            grids.setdefault((item.function, parameters.get("backend")), []).append(item)
    for cases in grids.values():
        for item in cases:
            if item is not cases[len(cases) // 2]:
                item.add_marker("slow")


@pytest.fixture
def assert_as_accurate() -> Callable[[Tensor, Tensor, Tensor], None]:
    """Fails where an op is further from float64 than twice what plain PyTorch is at the same dtype."""

    def check(ours: Tensor, plain: Tensor, oracle: Tensor) -> None:
        assert ours.shape == oracle.shape
        assert oracle.dtype == torch.float64
        # The last bits of the largest value: plain PyTorch may happen to be exact on a few numbers. On CPUs
        # without AVX-512 its own fused attention, which the eager path calls, is up to 5 of them off.
        bits = 6 if torch.backends.cpu.get_cpu_capability() == "AVX2" else 4
        ulps = bits * torch.finfo(plain.dtype).eps * oracle.abs().max()
        error, plain_error = ((x.double() - oracle).abs().max() for x in (ours, plain))
        assert error <= 2 * plain_error + ulps

    return check


@pytest.fixture(params=["triton"] if torch.cuda.is_available() else ["eager", "triton"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with each implementation of the ops; on a GPU with the kernels alone."""
    monkeypatch.setenv(BACKEND_VARIABLE, request.param)
    return request.param


@pytest.fixture
def poisoned_memory() -> Callable[[], AbstractContextManager[None]]:
    """Memory that nobody wrote to is NaN: an output with a hole in it shows."""

    @contextmanager
    def poisoned() -> Iterator[None]:
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            assert torch.empty(3).isnan().all()
            yield
        finally:
            torch.use_deterministic_algorithms(False)

    return poisoned


class Allocations(TorchDispatchMode):
    """Collects the sizes in bytes of the memory that operators take, beside that of known tensors."""

    def __init__(self, *known):
        self.known = {x.untyped_storage().data_ptr() for x in known}
        self.sizes = []
        super().__init__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if torch.is_tensor(x) and x.untyped_storage().data_ptr() not in {*self.known, 0}:
                self.known.add(x.untyped_storage().data_ptr())
                self.sizes.append(x.untyped_storage().nbytes())
        return result


@pytest.fixture
def allocations() -> type[Allocations]:
    return Allocations


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def _on_gpu() -> Iterator[None]:
    """New tensors are on the GPU where there is one, and float32 products of PyTorch are not tf32 there."""
    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield
    torch.set_default_device(None)


@pytest.fixture(autouse=True, scope="session")
def _quick_interpreter() -> None:
    if INTERPRETED:
        quicken_interpreter()
