from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture
def assert_as_accurate() -> Callable[[Tensor, Tensor, Tensor], None]:
    """Fails where an op is further from float64 than twice what plain PyTorch is at the same dtype."""

    def check(ours: Tensor, plain: Tensor, oracle: Tensor) -> None:
        assert ours.shape == oracle.shape
        assert oracle.dtype == torch.float64
        # The last bits of the largest value: plain PyTorch may happen to be exact on a few numbers.
        ulps = 4 * torch.finfo(plain.dtype).eps * oracle.abs().max()
        error, plain_error = ((x.double() - oracle).abs().max() for x in (ours, plain))
        assert error <= 2 * plain_error + ulps

    return check


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
