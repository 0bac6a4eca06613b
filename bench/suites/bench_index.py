"""Search among the embeddings of an index: all of them, or along a graph (HNSW, usearch).

    pytest bench/suites/bench_index.py                              100,000 embeddings
    CLIPPO_BENCH_INDEX=1000000 pytest bench/suites/bench_index.py   as many as one likes

One thread, 128 features, one query at a time, the first ten. The embeddings are unit vectors around 1,000
centres, at about 45 degrees from them, in float16; so are the queries, in float32. Times are those of the
processor; `recall` is the share of what a product in float64 finds. The peer keeps all embeddings in float32
and multiplies a query with them. The graph takes two minutes to build: `build_s`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clippo.index.search import Graph, exact_search, recall

COUNT = int(os.environ.get("CLIPPO_BENCH_INDEX", "100000"))
EMBED_DIM = 128
CENTRES, SPREAD = 1000, 1.0
QUERIES, TOP = 200, 10

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def problem() -> tuple[Tensor, Tensor, list[list[int]]]:
    """Embeddings, (COUNT, D) float16, queries, (Q, D), and the rows that are right for each."""
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(CENTRES, EMBED_DIM, generator=generator))

    def drawn(count: int) -> Tensor:
        own = centres[torch.randint(CENTRES, (count,), generator=generator)]
        return F.normalize(own + SPREAD * F.normalize(torch.randn(count, EMBED_DIM, generator=generator)))

    embeddings, queries = drawn(COUNT).half(), drawn(QUERIES)
    scores = queries.double() @ embeddings.double().T
    return embeddings, queries, scores.topk(TOP).indices.tolist()


@pytest.mark.parametrize("name", ["clippo", "clippo, along the graph", "product in float32"])
@pytest.mark.benchmark(timer=time.process_time)
def test_search(benchmark: Any, problem: tuple[Tensor, Tensor, list[list[int]]], name: str) -> None:
    embeddings, queries, right = problem
    build_s = 0.0
    search: Callable[[Tensor], list[list[int]]]
    if name == "clippo":
        search = lambda query: exact_search(query, embeddings, TOP)[1].tolist()  # noqa: E731
    elif name == "product in float32":
        whole = embeddings.float()
        search = lambda query: (query @ whole.T).topk(TOP).indices.tolist()  # noqa: E731
    else:
        start, graph = time.process_time(), Graph(EMBED_DIM)
        graph.update(np.arange(COUNT), embeddings)
        build_s = time.process_time() - start
        search = lambda query: graph.find(query, TOP)  # noqa: E731
    found = [own for query in queries for own in search(query[None])]
    benchmark.group = f"search, {COUNT:,} x {EMBED_DIM}"
    benchmark.pedantic(lambda: [search(query[None]) for query in queries[:20]], rounds=5, warmup_rounds=1)
    benchmark.extra_info.update(
        name=name,
        embeddings=COUNT,
        ms_per_query=round(1e3 * benchmark.stats["min"] / 20, 2),
        recall=round(recall(found, right), 4),
        build_s=round(build_s, 1),
    )
