"""Registration of operators, and what their autograd functions share."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def register(name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Define `torch.ops.clippo_kernels.<name>`, so that torch.compile and torch.export see one operator.

    `run` computes it on every device, `fake` gives shapes and dtypes alone. Gradients are the business of the
    autograd functions, also where torch.export has left only the operators; and an operator computes in the
    dtypes it is given, autocast or not.
    """

    def run_alone(x: Tensor, *args: Any) -> Any:
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False), on_device_of(x):
            return run(x, *args)

    torch.library.define(f"clippo_kernels::{name}", schema, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(f"clippo_kernels::{name}", "CompositeExplicitAutograd", run_alone)
    torch.library.register_fake(f"clippo_kernels::{name}", fake)


def on_device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be that of the tensors."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def refuse_second_derivative(name: str) -> None:
    """Called by a backward that is a kernel of its own and has no derivative."""
    # Grad mode is on in a backward only for create_graph=True. The result would come without a graph, and the
    # second-order term would be dropped silently. (torch.compile refuses by itself.)
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(f"{name} can be differentiated once, not with create_graph=True")


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in `dtype`, without an operator where it has that dtype.

    For results of an autograd function: torch.compile in torch 2.11 gives a function whose forward ends in a
    `.to` that does nothing gradients of 0.
    """
    return x if x.dtype == dtype else x.to(dtype)


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The dtype of products with `x`: that of autocast where it is on, which leaves float64 alone."""
    device_type = x.device.type
    if not torch.is_autocast_enabled(device_type) or x.dtype == torch.float64:
        return x.dtype
    return torch.get_autocast_dtype(device_type)


def to_autocast_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.to(autocast_dtype(x)) for x in tensors)
