"""Argument checks shared by the ops. Each names the argument, what was expected, and what came."""

from typing import Any

import torch


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
