"""Ranks of the right candidates in retrieval, without the matrix of all similarities.

A query is looked for among candidates by the dot products of their embeddings. Similarities are computed in
blocks, and of each block the candidates are counted that are not less similar than a right one. What ties
with a right candidate is before it, and so is what is not a number, so that a constant embedding earns
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Ranks", "RightCandidates", "rank_candidates"]

# Shape of a block of similarities, 2 MiB in float32: it stays in the cache of a core between the product and
# the counting. All products have this shape, because one of other sides may be rounded in another order, and
# equal embeddings must have equal similarities.
ROWS, COLUMNS = 1024, 512


@dataclass(frozen=True)
class RightCandidates:
    """The right candidates of each query. Queries with the same right candidates share a set.

    Attributes:
        sets: (Q,) int64 number of the set of each query.
        offsets: (S + 1,) int64 where each set begins in `members`, and the length of `members`.
        members: (M,) int64 indices of candidates, one set after the other.

    Raises:
        ValueError: a query has no right candidate.
    """

    sets: Tensor
    offsets: Tensor
    members: Tensor

    def __post_init__(self) -> None:
        counts = self.counts
        if len(counts) and not counts.min():
            raise ValueError(f"query {int(counts.argmin())} must have at least one right candidate")

    @classmethod
    def of_keys(
        cls, queries: Sequence[Iterable[int]], candidates: Sequence[Iterable[int]]
    ) -> RightCandidates:
        """Take as right the candidates that share a key with the query.

        Args:
            queries: the keys of each query, such as the number of its picture.
            candidates: the keys of each candidate.
        """
        holders: dict[int, list[int]] = {}
        for index, keys in enumerate(candidates):
            for key in keys:
                holders.setdefault(key, []).append(index)
        numbers: dict[frozenset[int], int] = {}
        sets = [numbers.setdefault(frozenset(keys), len(numbers)) for keys in queries]
        members = [sorted({index for key in keys for index in holders.get(key, ())}) for keys in numbers]
        offsets = torch.tensor([0, *map(len, members)]).cumsum(0)
        flat = torch.tensor([index for one in members for index in one], dtype=torch.int64)
        return cls(torch.tensor(sets, dtype=torch.int64), offsets, flat)

    @property
    def counts(self) -> Tensor:
        """(Q,) int64: how many candidates are right for each query."""
        return self.offsets.diff()[self.sets]

    def pairs(self, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The right candidates of some queries.

        Args:
            queries: (B,) indices.

        Returns:
            Three (P,) int64 tensors, one element a pair: the position of its query in `queries`, the number
            of the candidate among those of the query, and the index of the candidate.
        """
        counts = self.counts[queries]
        row = torch.arange(len(queries)).repeat_interleave(counts)
        place = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
        return row, place, self.members[self.offsets[self.sets[queries]][row] + place]


@dataclass(frozen=True)
class Ranks:
    """Where the right candidates of each query are, on the CPU.

    Attributes:
        best: (Q,) int64 rank of the first right candidate, from 1.
        average_precision: (Q,) float64, from 0 to 1: the mean over the right candidates of the share of right
            ones among those up to it.
    """

    best: Tensor
    average_precision: Tensor


def rank_candidates(
    queries: Tensor, candidates: Tensor, right: RightCandidates, group: dist.ProcessGroup | None = None
) -> Ranks:
    """Rank the candidates of each query by their similarity, and find the right ones.

    The memory that it takes does not grow with Q x N: at embed_dim 512 about 16 MiB for blocks, 50 bytes a
    query, and 32 KiB for each right candidate of the query that has most. On a CPU the time is that of the
    product queries @ candidates.T, and about a tenth of it more for each right candidate of a query.

    Args:
        queries: (Q, E) embeddings, float32 or float64.
        candidates: (N, E) embeddings of the same dtype and device.
        right: which candidates are right for each query.
        group: processes that share the work, each with all embeddings. All of them get all ranks.

    Raises:
        ValueError: the shapes or dtypes do not match.
    """
    check(queries, candidates, right)
    best = torch.zeros(len(queries), dtype=torch.int64)
    precision = torch.zeros(len(queries), dtype=torch.float64)
    # Queries with as many right candidates come together, since a block is counted once for each of the most.
    order = right.counts.argsort(stable=True)
    if group is not None:
        order = order[group.rank() :: group.size()]
    for start in range(0, len(order), ROWS):
        chosen = order[start : start + ROWS]
        pairs = right.pairs(chosen)
        wrong = wrong_before(queries[chosen.to(queries.device)], candidates, *pairs).cpu()
        number = torch.arange(1.0, 1 + wrong.shape[1], dtype=torch.float64)
        counts = right.counts[chosen]
        is_one = number <= counts[:, None]
        best[chosen] = 1 + wrong[:, 0]
        precision[chosen] = (is_one * number / (number + wrong)).sum(1) / counts
    if group is not None:
        for found in (best, precision):
            dist.all_reduce(found, group=group)
    return Ranks(best, precision)


def check(queries: Tensor, candidates: Tensor, right: RightCandidates) -> None:
    """Refuse embeddings that do not belong together."""
    if queries.ndim != 2 or candidates.ndim != 2 or queries.shape[1] != candidates.shape[1]:
        shapes = f"{tuple(queries.shape)} and {tuple(candidates.shape)}"
        raise ValueError(f"queries and candidates must be (Q, E) and (N, E), got {shapes}")
    if queries.dtype != candidates.dtype or queries.dtype not in (torch.float32, torch.float64):
        dtypes = f"{queries.dtype} and {candidates.dtype}"
        raise ValueError(f"queries and candidates must both be float32, or float64, got {dtypes}")
    if len(right.sets) != len(queries):
        raise ValueError(f"right must tell of {len(queries)} queries, got {len(right.sets)}")
    if len(right.members) and not 0 <= int(right.members.min()) <= int(right.members.max()) < len(candidates):
        raise ValueError(f"right must name candidates from 0 to {len(candidates) - 1}")


def wrong_before(queries: Tensor, candidates: Tensor, row: Tensor, place: Tensor, index: Tensor) -> Tensor:
    """How many wrong candidates are before each right one, for at most ROWS queries.

    Args:
        queries, candidates: as of `rank_candidates`.
        row, place, index: as `RightCandidates.pairs` returns them.

    Returns:
        (B, m) int64, ascending in each row, where m is the largest number of right candidates. A row with
        fewer ends with numbers that mean nothing.
    """
    row, place, index = (numbers.to(queries.device) for numbers in (row, place, index))
    block = filled(queries, ROWS)
    similarity, spare = block.new_empty(2, ROWS, COLUMNS)
    own = similarities_of(block, candidates, row, place, index)
    less = torch.zeros(own.shape, dtype=torch.float64, device=own.device)
    by_column = index.argsort()
    row, index = row[by_column], index[by_column]
    starts = torch.arange(0, len(candidates) + COLUMNS, COLUMNS, device=index.device)
    bounds = torch.searchsorted(index, starts).tolist()
    for number, columns in enumerate(candidates.split(COLUMNS)):
        torch.mm(block, filled(columns, COLUMNS).T, out=similarity)
        here = slice(bounds[number], bounds[number + 1])
        similarity[row[here], index[here] - number * COLUMNS] = -torch.inf  # right ones are before none
        for m, threshold in enumerate(own.split(1, dim=1), start=1):
            # Written as 0 and 1 of the same dtype and added up, this is several times as fast as with bools.
            is_less = torch.lt(similarity, threshold, out=similarity if m == own.shape[1] else spare)
            less[:, m - 1] += is_less[:, : len(columns)].sum(1)
    # Nothing is less than an own similarity of nan or -inf, not even the right candidates.
    counts = torch.bincount(row, minlength=len(queries))[:, None]
    wrong = (len(candidates) - less[: len(queries)].long()).minimum(len(candidates) - counts)
    return wrong.sort(1).values


def similarities_of(block: Tensor, candidates: Tensor, row: Tensor, place: Tensor, index: Tensor) -> Tensor:
    """The similarities of the right candidates, (ROWS, m), nan where a row has fewer than m.

    They are taken out of products of the same shape as those that they are compared with.
    """
    own = block.new_full((ROWS, int(place.max()) + 1), torch.nan)
    members, position = index.unique(return_inverse=True)
    for start in range(0, len(members), COLUMNS):
        similarity = block @ filled(candidates[members[start : start + COLUMNS]], COLUMNS).T
        here = (position >= start) & (position < start + COLUMNS)
        own[row[here], place[here]] = similarity[row[here], position[here] - start]
    return own


def filled(rows: Tensor, count: int) -> Tensor:
    """Rows, and zeros up to so many."""
    return rows if len(rows) == count else F.pad(rows, (0, 0, 0, count - len(rows)))
