"""Collectives for a batch whose rows are split over the ranks of a group; without a group, the identity.

The functional collectives are called by their operator names, which torch.compile traces and which have
stayed the same while their Python names changed several times.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gather_rows", "lse_over_ranks", "named_group", "sum_over_ranks", "sum_to_owners", "world_size"]


def world_size(group: dist.ProcessGroup | None) -> int:
    return 1 if group is None else dist.get_world_size(group)


def named_group(name: str) -> dist.ProcessGroup:
    """Look up a process group by its name, because an operator takes the name of a group, not the group."""
    return dist.distributed_c10d._resolve_process_group(name)  # type: ignore[attr-defined, arg-type]


def gather_rows(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """All-gather x (R, ...) of every rank: (W * R, ...)."""
    if group is None:
        return x
    gather = torch.ops._c10d_functional.all_gather_into_tensor
    return wait(gather(x.contiguous(), world_size(group), group.group_name))


def sum_over_ranks(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    return x if group is None else all_reduce(x, "sum", group)


def lse_over_ranks(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Elementwise log-sum-exp over the ranks."""
    if group is None:
        return x
    highest = all_reduce(x, "max", group)
    return highest + all_reduce((x - highest).exp(), "sum", group).log()


def sum_to_owners(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Reduce-scatter x (W * R, ...): return this rank's rows (R, ...) of the sum over ranks."""
    if group is None:
        return x
    scatter = torch.ops._c10d_functional.reduce_scatter_tensor
    return wait(scatter(x.contiguous(), "sum", world_size(group), group.group_name))


def all_reduce(x: Tensor, operation: str, group: dist.ProcessGroup) -> Tensor:
    return wait(torch.ops._c10d_functional.all_reduce(x, operation, group.group_name))


def wait(x: Tensor) -> Tensor:
    out: Tensor = torch.ops._c10d_functional.wait_tensor(x)
    return out
