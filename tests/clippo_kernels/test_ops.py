import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from clippo_kernels._ops import is_observed


class Mode(TorchDispatchMode):
    pass


def test_ordinary_arguments_are_not_observed():
    x = torch.zeros(2)
    assert not is_observed(x, torch.nn.Parameter(x), None, 3, 0.5)
    with torch.no_grad(), torch.autocast("cpu"), torch.inference_mode():
        assert not is_observed(x)


@pytest.mark.parametrize(
    "observer",
    [Mode, lambda: torch.device("cpu"), torch.profiler.profile],
    ids=["dispatch mode", "function mode", "profiler"],
)
def test_observers(observer):
    x = torch.zeros(2)
    with observer():
        assert is_observed(x)
    assert not is_observed(x)


def test_observing_arguments():
    x = torch.zeros(2)
    assert is_observed(x.to("meta"))
    with FakeTensorMode():
        fake = torch.zeros(2)
    assert is_observed(fake)
    assert is_observed(x, fake)
    assert is_observed(x, torch.SymInt(0))


def test_tracing():
    seen = []

    def function(x):
        seen.append(is_observed(x))
        return x + 1

    torch.jit.trace(function, torch.zeros(2), check_trace=False)
    assert seen == [True]
