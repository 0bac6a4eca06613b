"""Choice of the implementation that runs an op.

Triton runs on CUDA and ROCm tensors (PyTorch calls both "cuda") for the ops that have a Triton
implementation; the reference runs everywhere else. `CLIPPO_KERNELS_BACKEND=reference` or `=triton` forces
one. The variable is read at every call; code under `torch.compile` keeps what it was when traced.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

Implementations = Mapping[str, Callable[..., Any]]

BACKEND_VARIABLE = "CLIPPO_KERNELS_BACKEND"
BACKENDS = ("reference", "triton")


def select(op: str, device: torch.device, implementations: Implementations) -> Callable[..., Any]:
    """The implementation of `op` for tensors on `device`.

    `implementations` maps names of `BACKENDS` to callables of one signature and always has a "reference".
    Raises ValueError where the environment variable holds an unknown name, RuntimeError where it forces a
    backend that `op` does not have.
    """
    forced = os.environ.get(BACKEND_VARIABLE)
    if not forced:
        on_gpu = device.type == "cuda"
        return implementations["triton" if on_gpu and "triton" in implementations else "reference"]
    if forced not in BACKENDS:
        raise ValueError(f"{BACKEND_VARIABLE} must be one of {', '.join(BACKENDS)}, got {forced!r}")
    if forced not in implementations:
        raise RuntimeError(f"{BACKEND_VARIABLE}={forced}, but {op} has no {forced} implementation")
    return implementations[forced]
