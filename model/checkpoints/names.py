"""Names of parameters, without those of the modules that PyTorch wraps around others."""

from __future__ import annotations

__all__ = ["unwrapped_name"]

WRAPPERS = ("_orig_mod", "module")  # of torch.compile, and of DistributedDataParallel


def unwrapped_name(name: str) -> str:
    """`tower._orig_mod.head.weight` becomes `tower.head.weight`."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)
