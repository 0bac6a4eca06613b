"""Ranks of right candidates in retrieval, against the bare product of the same blocks.

    pytest bench/suites/bench_retrieval.py                                   20,000 queries and candidates
    CLIPPO_BENCH_RETRIEVAL=100000 pytest bench/suites/bench_retrieval.py     as many as one likes

One core, float32, 512 features. Each query has one right candidate, or each picture five of the captions. The
peer only computes the similarities, and keeps none. Times are those of the processor; `peak_mib` is the peak
memory without the embeddings.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clippo.bench.harness import peak_cpu_memory
from clippo.evaluation.ranking import RightCandidates, rank_candidates

COUNT = int(os.environ.get("CLIPPO_BENCH_RETRIEVAL", "20000"))
EMBED_DIM = 512
ROUNDS = 3
# Of the shapes from 256 x 512 to 4096 x 4096, this is the one whose products are fastest.
PEER_ROWS, PEER_COLUMNS = 1024, 1024

pytestmark = pytest.mark.usefixtures("one_thread")


def bare_product(queries: Tensor, candidates: Tensor) -> None:
    block = torch.empty(PEER_ROWS, PEER_COLUMNS)
    for rows in queries.split(PEER_ROWS):
        for columns in candidates.split(PEER_COLUMNS):
            torch.mm(rows, columns.T, out=block[: len(rows), : len(columns)])


@pytest.mark.parametrize("captions", [1, 5])
@pytest.mark.parametrize("name", ["clippo", "bare product"])
@pytest.mark.benchmark(timer=time.process_time)
def test_retrieval(benchmark: Any, name: str, captions: int) -> None:
    generator = torch.Generator().manual_seed(0)
    counts = COUNT // captions, COUNT
    queries, candidates = (F.normalize(torch.randn(n, EMBED_DIM, generator=generator)) for n in counts)
    run: Callable[[], object]
    if name == "clippo":
        pictures, owners = [[i] for i in range(len(queries))], [[i // captions] for i in range(COUNT)]
        right = RightCandidates.of_keys(pictures, owners)
        run = lambda: rank_candidates(queries, candidates, right)  # noqa: E731
    else:
        run = lambda: bare_product(queries, candidates)  # noqa: E731
    benchmark.group = f"retrieval, {len(queries):,} x {COUNT:,}, {EMBED_DIM} features"
    benchmark.pedantic(run, rounds=ROUNDS, warmup_rounds=1)
    seconds = benchmark.stats["min"]
    benchmark.extra_info.update(
        name=name,
        queries=len(queries),
        candidates=COUNT,
        right=captions,
        median_us=1e6 * benchmark.stats["median"],
        gflops_per_s=round(2e-9 * EMBED_DIM * len(queries) * COUNT / seconds, 1),
        peak_mib=round(peak_cpu_memory(run) / 2**20, 1),
    )
