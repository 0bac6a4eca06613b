"""One process, or the several that torchrun starts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from clippo.errors import UserError

__all__ = ["DistributedContext", "join_processes"]


@dataclass(frozen=True)
class DistributedContext:
    """The place of this process in the run.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes.
        device: of this process.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def group(self) -> dist.ProcessGroup | None:
        """All processes; None if there is only one.

        It is not a field, because `destroy_process_group` ends the threads of gloo only if nobody else holds
        the group. Threads that outlive it sometimes abort the process while the interpreter exits.
        """
        return dist.group.WORLD if self.world_size > 1 else None

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def shard(self, batch_size: int) -> slice:
        """The rows of a batch that belong to this process.

        Raises:
            UserError: the batch cannot be divided evenly.
        """
        if batch_size % self.world_size:
            raise UserError(
                f"batch_size must be a multiple of the {self.world_size} processes, got {batch_size}"
            )
        rows = batch_size // self.world_size
        return slice(self.rank * rows, (self.rank + 1) * rows)

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes, in one message."""
        if self.group is None:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat, group=self.group)
        flat /= self.world_size
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def maximum(self, value: torch.Tensor) -> torch.Tensor:
        """The largest value over the processes, on each of them. No host waits for a device."""
        if self.group is not None:
            dist.all_reduce(value, dist.ReduceOp.MAX, group=self.group)
        return value

    def check_alike(self, **values: str) -> None:
        """Check that every process has the same values.

        Raises:
            UserError: on every process; it names the values that differ.
        """
        if self.group is None:
            return
        own = b"".join(hashlib.sha256(value.encode()).digest() for value in values.values())
        digest = torch.frombuffer(bytearray(own), dtype=torch.uint8).to(self.device)
        digests = [torch.empty_like(digest) for _ in range(self.world_size)]
        dist.all_gather(digests, digest, group=self.group)
        rows = torch.stack(digests).view(self.world_size, len(values), -1)
        differs = (rows != rows[:1]).any(-1)
        if differs.any():
            is_other = differs.any(0).tolist()
            names = [name.replace("_", " ") for name, other in zip(values, is_other, strict=True) if other]
            ranks = torch.nonzero(differs.any(1)).flatten().tolist()
            raise UserError(
                f"all processes of a run must have the same {', '.join(names)}; rank 0 and rank "
                f"{', '.join(map(str, ranks))} differ"
            )


@contextmanager
def join_processes() -> Iterator[DistributedContext]:
    """Join the processes of torchrun, if it started this one; a GPU each where there are GPUs."""
    cuda = torch.cuda.is_available()
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if "WORLD_SIZE" not in os.environ:
        yield DistributedContext(0, 1, device)
        return
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield DistributedContext(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
