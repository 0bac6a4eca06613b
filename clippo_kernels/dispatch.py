"""Choice of the implementation that runs an op.

Triton runs on CUDA and ROCm tensors (PyTorch calls both "cuda") for the ops that have a Triton
implementation, if Triton is installed; the eager path runs everywhere else. `CLIPPO_KERNELS_BACKEND=eager`
or `=triton` forces one. The variable is read at every call, but code under `torch.compile` keeps the value
from tracing. If `TRITON_INTERPRET=1` is set as well, forced kernels also run on CPU tensors, slowly, in
Triton's interpreter.

The transforms of torch.func (grad, vmap, jvp, hessian) know nothing of kernels: inside of them, whatever is
forced, patch embedding runs eagerly, and attention and the losses with the whole matrix of logits.
"""

import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ["BACKEND_VARIABLE", "Implementations", "in_transform", "select"]

Implementations = Mapping[str, Callable[..., Any]]

BACKEND_VARIABLE = "CLIPPO_KERNELS_BACKEND"
BACKENDS = ("eager", "triton")
HAS_TRITON = importlib.util.find_spec("triton") is not None


def select(op: str, device: torch.device, implementations: Implementations) -> Callable[..., Any]:
    """Return the implementation of `op` for tensors on `device`.

    `implementations` maps names in `BACKENDS` to callables with the same signature and always has a
    "eager".

    Raises:
        ValueError: if the environment variable holds an unknown name.
        RuntimeError: if it forces a backend that `op` does not have or that the device cannot run.
    """
    if in_transform():
        return implementations["eager"]
    forced = os.environ.get(BACKEND_VARIABLE)
    if not forced:
        use_triton = device.type == "cuda" and HAS_TRITON and "triton" in implementations
        return implementations["triton" if use_triton else "eager"]
    if forced not in BACKENDS:
        raise ValueError(f"{BACKEND_VARIABLE} must be one of {', '.join(BACKENDS)}, got {forced!r}")
    if forced not in implementations:
        raise RuntimeError(
            f"{BACKEND_VARIABLE}={forced}, but {op} has no {forced} implementation for these tensors, "
            "as for all of float64"
        )
    if forced == "triton" and device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError(
            f"{BACKEND_VARIABLE}=triton needs tensors on a GPU, or TRITON_INTERPRET=1; got them on {device}"
        )
    return implementations[forced]


def in_transform() -> bool:
    """Whether a transform of torch.func is under way (outside of torch.compile, which traces them itself)."""
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None
