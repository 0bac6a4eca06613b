"""Memory of the process that trains."""

from __future__ import annotations

import resource
import sys

import torch

__all__ = ["keep_freed_memory", "memory_bytes"]


def keep_freed_memory() -> None:
    """Raise glibc's mmap threshold to 32 MiB, so that the memory of freed activations is reused.

    Larger blocks than the threshold are returned to the system when they are freed, and mapped again page by
    page, which takes 8 % of a step of the emoji recipe on two cores. glibc raises the threshold to the size
    of the largest block that was freed, up to 32 MiB; other C libraries are not affected.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


def memory_bytes(device: torch.device) -> int:
    """The most memory that this process has taken so far: of its GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
