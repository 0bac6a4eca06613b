"""Search among embeddings: exact, approximate along a graph, and for near duplicates.

The exact search multiplies queries with all embeddings. It reads 2 N D bytes once for all queries and takes
2 Q N D FLOPs: for N = 100,000 pictures of D = 128 numbers 26 MB, and 26 MFLOP a query. Blocks of float16 are
turned to float32 in the cache, so that products and sums are those of float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clippo.errors import UserError
from clippo.files import atomic_path

__all__ = ["Graph", "Hit", "exact_search", "near_duplicates", "recall"]

BLOCK = 4096  # embeddings that are multiplied at a time
MAX_COMPARED = 2**26  # pairs whose similarities are compared at a time

# HNSW (Malkov and Yashunin, arXiv 1603.09320): edges of a node, and candidates that are kept in mind while a
# node is added and while a query is answered.
CONNECTIVITY, EXPANSION_ADD, EXPANSION_SEARCH = 16, 128, 256


@dataclass(frozen=True)
class Hit:
    """A picture that was found, and its cosine similarity to the query."""

    id: int
    score: float


def exact_search(queries: Tensor, embeddings: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Find the most similar of N embeddings.

    Args:
        queries: (Q, D) float32.
        embeddings: (N, D), any floating dtype.
        top: how many to find.

    Returns:
        Similarities, (Q, K) float32, descending, and rows, (Q, K) int64, with K the smaller of `top` and N.
    """
    scores, rows = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, len(embeddings), BLOCK):
        block = queries @ embeddings[start : start + BLOCK].float().T
        numbers = torch.arange(start, start + block.shape[1]).expand(len(queries), -1)
        together = torch.cat([scores, block], 1)
        scores, best = together.topk(min(top, together.shape[1]))
        rows = torch.cat([rows, numbers], 1).gather(1, best)
    return scores, rows


def near_duplicates(embeddings: Tensor, min_similarity: float) -> list[list[int]]:
    """Group embeddings with almost the same direction.

    In the order of the rows, each that is in no group yet begins one with all later ones that are in none and
    similar enough to it. So all of a group are similar to its first, and chains of small steps do not form.

    Args:
        embeddings: (N, D), any floating dtype.
        min_similarity: least cosine similarity to the first of the group, above 0 and below 1.

    Returns:
        The rows of each group of two or more, ascending.

    Raises:
        ValueError: `min_similarity` out of range.
    """
    if not 0 < min_similarity < 1:
        raise ValueError(f"min_similarity must be above 0 and below 1, got {min_similarity}")
    is_grouped = torch.zeros(len(embeddings), dtype=torch.bool)
    groups = []
    per_turn = max(1, min(BLOCK, MAX_COMPARED // max(1, len(embeddings))))
    for start in range(0, len(embeddings), per_turn):
        firsts = start + (~is_grouped[start : start + per_turn]).nonzero()[:, 0]
        z = unit(embeddings[firsts])
        is_near = torch.cat(
            [z @ unit(part).T >= min_similarity for part in embeddings[start:].split(BLOCK)], 1
        )
        has_other = is_near.sum(1) > 1  # than itself
        for first, near in zip(firsts[has_other].tolist(), is_near[has_other], strict=True):
            if is_grouped[first]:
                continue
            group = start + (near & ~is_grouped[start:]).nonzero()[:, 0]
            group = group[group >= first]
            is_grouped[group] = True
            if len(group) > 1:
                groups.append(group.tolist())
    return groups


def unit(z: Tensor) -> Tensor:
    """Embeddings in float32, whose lengths are those of float32."""
    return torch.nn.functional.normalize(z.float(), dim=1)


def recall(found: Sequence[Sequence[int]], exact: Sequence[Sequence[int]]) -> float:
    """Share of what an exact search finds that another has found, over all queries."""
    hits = sum(len({*own} & {*right}) for own, right in zip(found, exact, strict=True))
    return hits / sum(map(len, exact))


class Graph:
    """A graph (HNSW) of embeddings, along which a search looks at few of them.

    Args:
        embed_dim: D.

    Raises:
        UserError: usearch is not installed.
    """

    def __init__(self, embed_dim: int) -> None:
        try:
            usearch = import_module("usearch.index")
        except ImportError as error:
            raise UserError(f"a graph needs usearch: pip install 'clippo-kernels[index]'; {error}") from error
        self._graph: Any = usearch.Index(
            ndim=embed_dim, metric="cos", dtype="f16", connectivity=CONNECTIVITY,
            expansion_add=EXPANSION_ADD, expansion_search=EXPANSION_SEARCH,
        )  # fmt: skip

    @property
    def ids(self) -> np.ndarray:
        """(N,) int64 ids of its embeddings, ascending."""
        return np.sort(np.asarray(self._graph.keys[:]).astype(np.int64))

    def load(self, path: Path, *, view: bool = False) -> bool:
        """Read a file of `save`, or `view` it, so that a search reads what it needs of it.

        Returns:
            Whether there was one, of embeddings of this size.
        """
        embed_dim = self._graph.ndim
        with suppress(RuntimeError, OSError):  # it is damaged
            if path.is_file():
                (self._graph.view if view else self._graph.load)(str(path))
                if self._graph.ndim == embed_dim:
                    return True
        return False

    def save(self, path: Path) -> None:
        """Write the graph, whole or not at all."""
        with atomic_path(path) as unfinished:
            self._graph.save(str(unfinished))

    def update(self, ids: np.ndarray, embeddings: Tensor) -> None:
        """Remove what is not among the ids, (N,), and add what it lacks of them: embeddings (N, D)."""
        own = self.ids
        if len(gone := np.setdiff1d(own, ids)):
            self._graph.remove(gone.astype(np.uint64))
        if (is_new := ~np.isin(ids, own)).any():
            self._graph.add(ids[is_new].astype(np.uint64), embeddings[torch.from_numpy(is_new)].numpy())

    def find(self, queries: Tensor, top: int) -> list[list[int]]:
        """The ids of most of what is most similar to each of the queries, (Q, D) float32, best first."""
        found = [self._graph.search(query, top) for query in queries.numpy()]
        return [[int(key) for key in matches.keys] for matches in found]
