"""Registration of operators, and helpers that their autograd functions share."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

__all__ = ["autocast_dtype", "cast", "refuse_second_derivative", "register", "to_autocast_dtype"]


def register(name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """Define `torch.ops.clippo_kernels.<name>`, so that torch.compile and torch.export see one operator.

    `run` computes the operator on every device; `fake` returns its output shapes and dtypes for fake tensors.
    An operator has no gradient of its own, not even in an exported graph, where only the operators are left:
    the autograd functions define the gradients. An operator ignores autocast and computes in the dtypes of
    its arguments.

    Returns a function that runs the operator, without PyTorch's dispatcher where nothing would see it there:
    that takes longer than a launch.
    """

    def run_alone(x: Tensor, *args: Any) -> Any:
        # Inside of an autograd function there is usually nothing to turn off, and to do so takes longer than
        # to launch a kernel.
        if not torch.is_grad_enabled() and not is_autocast_enabled(x) and is_on_current_device(x):
            return run(x, *args)
        with torch.no_grad(), without_autocast(x), on_device_of(x):
            return run(x, *args)

    torch.library.define(f"clippo_kernels::{name}", schema, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(f"clippo_kernels::{name}", "CompositeExplicitAutograd", run_alone)
    torch.library.register_fake(f"clippo_kernels::{name}", fake)
    operator = getattr(torch.ops.clippo_kernels, name).default

    def call(x: Tensor, *args: Any) -> Any:
        return operator(x, *args) if is_observed(x, *args) else run_alone(x, *args)

    return call


# Classes of arguments that do not ask to see operators, as those of fake tensors and of symbolic sizes do.
ORDINARY = {Tensor, torch.nn.Parameter, type(None), int, float}


def is_observed(x: Tensor, *args: Any) -> bool:
    """Whether a compiler, a mode, a tracer, a profiler or an argument is to see an operator."""
    return (
        torch.compiler.is_compiling()
        or not ORDINARY.issuperset(map(type, (x, *args)))
        or x.is_meta
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._get_tracing_state() is not None
        or torch._C._autograd._profiler_enabled()
    )


# torch.compile cannot trace the question in torch 2.11. Marking a function as constant would import the
# compiler, which takes as long as importing all the rest of PyTorch.
WITH_AUTOCAST = frozenset(
    name
    for name in ("cpu", "cuda", "mps", "xpu", "hpu", "xla", "mtia", torch._C._get_privateuse1_backend_name())
    if torch.amp.is_autocast_available(name)
)


def is_autocast_enabled(x: Tensor) -> bool:
    device_type = x.device.type
    return device_type in WITH_AUTOCAST and torch.is_autocast_enabled(device_type)


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    device_type = x.device.type
    return torch.autocast(device_type, enabled=False) if device_type in WITH_AUTOCAST else nullcontext()


def is_on_current_device(x: Tensor) -> bool:
    return not x.is_cuda or x.get_device() == torch.cuda.current_device()


def on_device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Make the device of `x` the current one, because Triton launches kernels on the current device."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def refuse_second_derivative(name: str) -> None:
    """Raise in a backward with create_graph=True, because the kernel of that backward has no derivative."""
    # Grad mode is on in a backward only for create_graph=True. The result would have no graph, and the
    # second-order term would be dropped silently. (torch.compile raises an error of its own.)
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(f"{name} can be differentiated once, not with create_graph=True")


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert `x` to `dtype`, without adding an operator if `x` already has that dtype.

    This is for results of an autograd function: in torch 2.11, torch.compile returns gradients of 0 for a
    function whose forward ends in a `.to` that does nothing.
    """
    return x if x.dtype == dtype else x.to(dtype)


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The dtype of products with `x`: the autocast dtype if autocast is on. Autocast ignores float64."""
    if not is_autocast_enabled(x) or x.dtype == torch.float64:
        return x.dtype
    return torch.get_autocast_dtype(x.device.type)


def to_autocast_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Convert tensors on one device to the dtypes of products with them."""
    if not is_autocast_enabled(tensors[0]):
        return tensors
    return tuple([cast(x, autocast_dtype(x)) for x in tensors])
