"""Argument checks shared by the ops. Each names the argument, what was expected, and what came."""

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.weak import WeakIdKeyDictionary


def check_tensor(name: str, value: Any, shape: str) -> None:
    """`value` is a tensor with as many axes as `shape`, written as "(B, N, D)"."""
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
    """`tensor` has the device and the dtype of `other`."""
    check_same_device(name, tensor, other_name, other)
    if tensor.dtype != other.dtype:
        raise TypeError(f"{name} must have dtype {other.dtype} like {other_name}, got {tensor.dtype}")


# The version of each tensor when its values were checked, and what for.
checked_values = WeakIdKeyDictionary()


def check_once(values: torch.Tensor, limits: tuple[int, ...], check: Callable[..., None]) -> None:
    """`check(values, *limits)`, which reads values on the host: once for a tensor that is not changed.

    Not at all where there are no values yet: while compiling, and of fake tensors.
    """
    if torch.compiler.is_compiling() or isinstance(values, FakeTensor):
        return
    # An inference tensor does not count its versions, so that it is checked once whatever becomes of it: a
    # check at every call would wait for the device in every layer.
    version = None if values.is_inference() else values._version
    checked = (check, version, *limits)
    if checked_values.get(values) != checked:
        check(values, *limits)
        checked_values[values] = checked
