"""Operators of a loss whose texts are not gathered: a ring exchange over the ranks of a group.

In every step, each rank calls the `local` operator with the texts that it holds and sends them to the next
rank at the same time. In the backward, the gradients of the texts are sent one step later, and reach the
ranks that own the texts after W steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .positives import Positives
from .problem import Problem

__all__ = ["backward", "contrastive_forward", "sigmoid_forward"]

Local = Callable[..., Any]  # returns what the function of the same name returns


class Exchange:
    """Send a tensor to the next rank and receive that of the previous rank, asynchronously."""

    def __init__(self, sent: Tensor, group: dist.ProcessGroup) -> None:
        rank, size = dist.get_rank(group), dist.get_world_size(group)
        after, before = (dist.get_global_rank(group, (rank + step) % size) for step in (1, -1))
        self.sent, self.received = sent, torch.empty_like(sent)  # kept alive until both transfers are done
        self.works = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, sent, after, group),
                dist.P2POp(dist.irecv, self.received, before, group),
            ]
        )

    def wait(self) -> Tensor:
        for work in self.works:
            work.wait()
        return self.received


def ring_exchange(text: Tensor, group: dist.ProcessGroup) -> Iterator[tuple[slice, Tensor]]:
    """Yield the texts of every rank, own texts first, each with its slice in the texts of all ranks."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    text = text.contiguous()
    for step in range(size):
        exchange = Exchange(text, group) if step + 1 < size else None
        first = (rank - step) % size * len(text)
        yield slice(first, first + len(text)), text
        if exchange is not None:
            text = exchange.wait()


def contrastive_forward(
    local: Local, group: dist.ProcessGroup, image: Tensor, text: Tensor, scale: Tensor, positives: Positives
) -> tuple[Tensor, ...]:
    rows = slice(0, len(image))
    totals, columns_lse = None, {}
    for columns, block in ring_exchange(text, group):
        row_lse, column_lse, positive = local(image, block, scale, positives.block(rows, columns))
        columns_lse[columns.start] = column_lse
        if totals is None:
            totals = row_lse, positive
        else:
            totals = torch.logaddexp(totals[0], row_lse), totals[1] + positive
    assert totals is not None
    return totals[0], torch.cat([lse for _, lse in sorted(columns_lse.items())]), totals[1]


def sigmoid_forward(
    local: Local,
    group: dist.ProcessGroup,
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    positives: Positives,
) -> Tensor:
    rows = slice(0, len(image))
    sums = [
        local(image, block, scale, bias, positives.block(rows, columns))
        for columns, block in ring_exchange(text, group)
    ]
    return torch.stack(sums).sum(0)


def backward(
    local: Local,
    group: dist.ProcessGroup,
    problem: Problem,
    image_dtype: torch.dtype,
    text_dtype: torch.dtype,
) -> tuple[Tensor, ...]:
    image, rows, dtype = problem.image, slice(0, len(problem.image)), problem.factor.dtype
    dimage, dscale = image.new_zeros(image.shape, dtype=dtype), torch.zeros_like(problem.scale)
    behind: Exchange | None = None
    for columns, block in ring_exchange(problem.text, group):
        dimage_part, dblock, dscale_part = local(
            problem.block(rows, columns)._replace(text=block), dtype, dtype
        )
        dimage += dimage_part
        dscale += dscale_part
        if behind is not None:
            dblock += behind.wait()
        behind = Exchange(dblock, group)
    assert behind is not None
    return dimage.to(image_dtype), behind.wait().to(text_dtype), dscale
