"""Argument checks shared by the ops. Errors name the argument, the expected value and the actual one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.weak import WeakIdKeyDictionary

from ._ops import autocast_dtype

__all__ = [
    "check_floating",
    "check_once",
    "check_same_device",
    "check_same_kind",
    "check_tensor",
    "trusted_indices",
]


def check_tensor(name: str, value: Any, shape: str) -> None:
    """Check that `value` is a tensor with as many axes as `shape`, which is written like "(B, N, D)"."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a tensor of shape {shape}, got {type(value).__name__}")
    if value.ndim != shape.count(",") + (not shape.endswith(",)")):
        raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}")


def check_floating(name: str, tensor: torch.Tensor) -> None:
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating, got {tensor.dtype}")


def check_same_device(name: str, tensor: torch.Tensor, other_name: str, other: torch.Tensor) -> None:
    if tensor.device != other.device:
        raise ValueError(f"{name} must be on {other.device} like {other_name}, got {tensor.device}")


def check_same_kind(name: str, tensor: torch.Tensor, other_name: str, other: torch.Tensor) -> None:
    """Check that `tensor` has the device of `other` and, after the casts of autocast, its dtype."""
    check_same_device(name, tensor, other_name, other)
    if autocast_dtype(tensor) != autocast_dtype(other):
        raise TypeError(f"{name} must have dtype {other.dtype} like {other_name}, got {tensor.dtype}")


is_trusted = ContextVar("is_trusted", default=False)


@contextmanager
def trusted_indices() -> Iterator[None]:
    """Do not read the values of `cu_seqlens` and `keep_indices` that are on a GPU.

    The ops check these values once per tensor, for which the host waits until the GPU has computed all that
    was asked of it. A training step makes new tensors every time. In this context values on a CPU are still
    checked, so tensors may be checked there before they are copied to the GPU. Wrong values on a GPU make
    kernels read and write outside of their tensors.
    """
    token = is_trusted.set(True)
    try:
        yield
    finally:
        is_trusted.reset(token)


# The last check of each tensor's values: the function, the limits, and what tells whether they have changed.
checked_values = WeakIdKeyDictionary()


def check_once(values: torch.Tensor, limits: tuple[int, ...], check: Callable[..., None]) -> None:
    """Call `check(values, *limits)`, which reads values on the host, once per tensor until it is modified.

    The check is skipped under torch.compile and for fake and meta tensors, because there are no values to
    read, and in `trusted_indices` for those on a GPU. On a CPU the values are compared with a copy. On other
    devices PyTorch's count of modifications decides, because a look at the values would synchronize with the
    device in every layer; it does not see changes through `.data`, or by another library's kernel, nor any of
    an inference tensor.
    """
    if torch.compiler.is_compiling() or isinstance(values, FakeTensor) or values.is_meta:
        return
    if is_trusted.get() and values.device.type != "cpu":
        return
    before = checked_values.get(values)
    if before is not None and before[:2] == (check, limits) and is_unchanged(values, before[2]):
        return
    check(values, *limits)
    on_cpu = values.device.type == "cpu"
    checked_values[values] = (check, limits, values.clone() if on_cpu else version_of(values))


def is_unchanged(values: torch.Tensor, before: Any) -> bool:
    if isinstance(before, torch.Tensor):
        return torch.equal(values, before)
    return bool(version_of(values) == before)


def version_of(values: torch.Tensor) -> int | None:
    return None if values.is_inference() else values._version
