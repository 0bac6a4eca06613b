"""Argument checks shared by the ops. Errors name the argument, the expected value and the actual one."""

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["check_floating", "check_once", "check_same_device", "check_same_kind", "check_tensor"]


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
    """Check that `tensor` has the device and the dtype of `other`."""
    check_same_device(name, tensor, other_name, other)
    if tensor.dtype != other.dtype:
        raise TypeError(f"{name} must have dtype {other.dtype} like {other_name}, got {tensor.dtype}")


# The last check of each tensor's values: the function, the tensor's version at that time, and the limits.
checked_values = WeakIdKeyDictionary()


def check_once(values: torch.Tensor, limits: tuple[int, ...], check: Callable[..., None]) -> None:
    """Call `check(values, *limits)`, which reads values on the host, once per tensor until it is modified.

    The check is skipped under torch.compile and for fake tensors, because there are no values to read.
    """
    if torch.compiler.is_compiling() or isinstance(values, FakeTensor):
        return
    # Inference tensors have no version counter, so they are checked only once, even if they are modified
    # later: a check at every call would synchronize with the device in every layer.
    version = None if values.is_inference() else values._version
    checked = (check, version, *limits)
    if checked_values.get(values) != checked:
        check(values, *limits)
        checked_values[values] = checked
