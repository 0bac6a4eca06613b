"""Choice of the implementation that runs an op.

Triton runs on CUDA and ROCm tensors (PyTorch calls both "cuda") for the ops that have a Triton
implementation, if Triton is installed; the eager path runs everywhere else. `backend="eager"` or `"triton"`
forces one for a call and its backward, and `CLIPPO_KERNELS_BACKEND=eager` or `=triton` for all calls without
that argument. The variable is read at every call, but code under torch.compile keeps the choice of its
tracing. If `TRITON_INTERPRET=1` is set as well, forced kernels also run on CPU tensors, slowly, in Triton's
interpreter.

If "triton" is forced under torch.export, the operators stay in the graph, whatever the device. They run
kernels where these can run and the eager path elsewhere, so that a program that was exported on a CPU runs
kernels on a GPU.

The transforms of torch.func (grad, vmap, jvp, hessian) know nothing of kernels: inside of them, whatever is
forced, patch embedding runs eagerly, and attention and the losses with the whole matrix of logits.
"""

import importlib.util
import os

import torch

__all__ = ["BACKEND_VARIABLE", "can_launch", "choose_backend", "in_transform"]

BACKEND_VARIABLE = "CLIPPO_KERNELS_BACKEND"
BACKENDS = ("eager", "triton")
HAS_TRITON = importlib.util.find_spec("triton") is not None


def choose_backend(op: str, device: torch.device, has_kernels: bool, backend: str | None) -> str:
    """Return the backend that runs `op` for tensors on `device`, "eager" or "triton".

    Args:
        op: name of the public function, for errors.
        device: device of the tensors.
        has_kernels: whether the op has a Triton implementation for tensors of these dtypes.
        backend: argument of the call; None leaves the choice to the environment variable and the device.

    Raises:
        ValueError: if the argument or the environment variable is not the name of a backend.
        RuntimeError: if it forces kernels that `op` does not have or that the device cannot run.
    """
    source, forced = "backend", backend
    if backend is None:
        source, forced = BACKEND_VARIABLE, os.environ.get(BACKEND_VARIABLE) or None
    if forced is not None and forced not in BACKENDS:
        raise ValueError(f"{source} must be one of {', '.join(BACKENDS)}, got {forced!r}")
    if forced == "eager" or in_transform():
        return "eager"
    if forced is None:
        return "triton" if device.type == "cuda" and HAS_TRITON and has_kernels else "eager"
    if not has_kernels:
        raise RuntimeError(
            f"{source}={forced}, but {op} has no {forced} implementation for these tensors, "
            "as for all of float64"
        )
    if not can_launch(device) and not torch.compiler.is_exporting():
        raise RuntimeError(
            f"{source}={forced} needs Triton, and tensors on a GPU or TRITON_INTERPRET=1; "
            f"got them on {device}"
        )
    return "triton"


def can_launch(device: torch.device) -> bool:
    """Whether kernels run on tensors on `device`: on a GPU, and in Triton's interpreter on all."""
    return HAS_TRITON and (device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1")


def in_transform() -> bool:
    """Whether a transform of torch.func is under way (outside of torch.compile, which traces them itself)."""
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None
