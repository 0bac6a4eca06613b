"""One process, or the several that torchrun starts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from clippo.errors import UserError


@dataclass(frozen=True)
class Processes:
    """This process among all: its rank of `count`, its device, and the group (None when it is alone)."""

    rank: int
    count: int
    device: torch.device
    group: dist.ProcessGroup | None

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    def part(self, batch_size: int) -> slice:
        """The rows of a batch that are this process's.

        Raises:
            UserError: the batch cannot be divided evenly.
        """
        if batch_size % self.count:
            raise UserError(f"batch_size must be a multiple of the {self.count} processes, got {batch_size}")
        rows = batch_size // self.count
        return slice(self.rank * rows, (self.rank + 1) * rows)

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes, in one message."""
        if self.group is None:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat, group=self.group)
        flat /= self.count
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))


@contextmanager
def join_processes() -> Iterator[Processes]:
    """Join the processes of torchrun, if it started this one; a GPU each where there are GPUs."""
    cuda = torch.cuda.is_available()
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if "WORLD_SIZE" not in os.environ:
        yield Processes(0, 1, device, None)
        return
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), device, dist.group.WORLD)
    finally:
        dist.destroy_process_group()
