"""One process, or the several that torchrun starts, and how they share a model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from clippo.errors import UserError

__all__ = ["DistributedContext", "Parallel", "parallelize", "release"]

Parallel = Literal["ddp", "fsdp"]

TIMEOUT = timedelta(hours=2)  # the others wait while the main process evaluates


@dataclass(frozen=True)
class DistributedContext:
    """The place of this process in the run.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes.
        device: of this process.
        is_distributed: whether torchrun has started this process, alone or with others.
    """

    rank: int
    world_size: int
    device: torch.device
    is_distributed: bool = False

    @classmethod
    def from_environment(cls) -> DistributedContext:
        """Read what torchrun has written into the environment; a GPU for each process where there are GPUs.

        Raises:
            UserError: there are fewer GPUs than processes on this machine.
        """
        local_rank, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if gpus and local_rank >= gpus:
            raise UserError(
                f"torchrun must start at most as many processes as there are GPUs, {gpus}, got "
                f"--nproc-per-node of at least {local_rank + 1}"
            )
        device = torch.device("cuda", local_rank) if gpus else torch.device("cpu")
        rank, world_size = (
            int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1))
        )
        return cls(rank, world_size, device, "WORLD_SIZE" in os.environ)

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Context in which the processes can exchange tensors."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if not self.is_distributed:
            yield
            return
        # Through gloo, hosts can exchange what they know without waiting for their GPUs.
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT)
        try:
            yield
        finally:
            dist.destroy_process_group()

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

    def maximum(self, value: Tensor) -> Tensor:
        """The largest value over the processes, on each of them; of a GPU's, no host waits for it."""
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
        digest = torch.frombuffer(bytearray(own), dtype=torch.uint8)
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


def parallelize(
    module: nn.Module, context: DistributedContext, parallel: Parallel, *, bfloat16: bool
) -> nn.Module:
    """Let the processes of a run share the gradients of a module, or its parameters as well.

    "ddp": each process holds all parameters, and gradients are averaged in buckets while the backward pass
    goes on (Li et al., arXiv 2006.15704). "fsdp": each holds a part of every parameter, of its gradient and
    of the state of the optimizer, and blocks are gathered when they are needed (FSDP2, `fully_shard`).

    Args:
        module: has transformer blocks, in each `nn.ModuleList` that is named "blocks". The parameters outside
            of them are gathered together, in float32.
        bfloat16: gather the parameters of blocks in bfloat16. Gradients are summed in float32.

    Returns:
        The module to call in training.

    Raises:
        UserError: "fsdp" without torchrun.
    """
    if parallel == "fsdp":
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # two seconds, with SymPy

        if not context.is_distributed:
            raise UserError("parallel must be ddp without torchrun, which starts the processes, got fsdp")
        in_bfloat16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for block in blocks_of(module):
            fully_shard(block, mp_policy=in_bfloat16 if bfloat16 else MixedPrecisionPolicy())
        fully_shard(module)
        return module
    if context.world_size > 1:
        return DistributedDataParallel(module, gradient_as_bucket_view=True)
    return module


def release(module: nn.Module) -> None:
    """Let go of the process group that a module of `parallelize` holds, before the group is destroyed.

    Of gloo's group, the last owner joins threads that may wait for the interpreter, and both wait for ever.
    """
    if isinstance(module, DistributedDataParallel):
        del module.reducer, module.logger, module.process_group


def blocks_of(module: nn.Module) -> list[nn.Module]:
    lists = [part for name, part in module.named_modules() if name.rpartition(".")[2] == "blocks"]
    return [block for part in lists for block in part.children()]
