from pathlib import Path

import numpy as np
import pytest
import torch

from clippo.evaluation import ranking
from clippo.evaluation.ranking import RightCandidates, rank_candidates

RNG = np.random.default_rng(0)


def definition(similarity, lists):
    """Ranks and average precision of a whole matrix: ties and nan go to the wrong candidates."""
    best, precision = [], []
    for row, right in zip(similarity, lists, strict=True):
        key = [(-np.inf if np.isnan(s) else s, 0) if i in right else (np.inf if np.isnan(s) else s, 1)
               for i, s in enumerate(row)]  # fmt: skip
        order = sorted(range(len(row)), key=key.__getitem__, reverse=True)
        places = [place for place, i in enumerate(order, 1) if i in right]
        best.append(places[0])
        precision.append(np.mean([number / place for number, place in enumerate(places, 1)]))
    return best, precision


def right_of(lists):
    offsets = torch.tensor([0, *map(len, lists)]).cumsum(0)
    return RightCandidates(torch.arange(len(lists)), offsets, torch.tensor([i for one in lists for i in one]))


@pytest.fixture(params=[(8, 16), (1024, 512)], ids=["many blocks", "one block"])
def blocks(request, monkeypatch):
    monkeypatch.setattr(ranking, "ROWS", request.param[0])
    monkeypatch.setattr(ranking, "COLUMNS", request.param[1])


# Embeddings of few small integers have exact products, and many ties.
KINDS = {
    "random": lambda n: torch.randn(n, 9),
    "float64": lambda n: torch.randn(n, 9, dtype=torch.float64),
    "ties": lambda n: torch.randint(-1, 2, (n, 3)).float(),
    "constant": lambda n: torch.ones(n, 4),
}


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_are_those_of_the_whole_matrix(blocks, kind):
    torch.manual_seed(0)
    queries, candidates = KINDS[kind](70), KINDS[kind](90)
    if kind == "ties":
        queries[3, 0] = candidates[5, 1] = torch.nan
        candidates[7, 1] = -torch.inf
    lists = [sorted(RNG.choice(90, RNG.integers(1, 6), replace=False).tolist()) for _ in range(69)]
    lists.append(list(range(90)))
    found = rank_candidates(queries, candidates, right_of(lists))
    best, precision = definition((queries @ candidates.T).numpy(), lists)
    assert found.best.tolist() == best
    assert found.average_precision.numpy() == pytest.approx(precision, abs=1e-12)


def test_average_precision_is_that_of_scikit_learn(blocks):
    metrics = pytest.importorskip("sklearn.metrics")
    torch.manual_seed(1)
    queries, candidates, is_right = torch.randn(40, 8), torch.randn(50, 8), torch.rand(40, 50) < 0.2
    is_right[:, 0] = True
    lists = [np.flatnonzero(row).tolist() for row in is_right.numpy()]
    found = rank_candidates(queries, candidates, right_of(lists))
    similarity = queries @ candidates.T
    expected = [
        metrics.average_precision_score(*both) for both in zip(is_right.int(), similarity, strict=True)
    ]
    assert found.average_precision.numpy() == pytest.approx(expected)


@pytest.mark.parametrize("E", [1, 7, 128, 513])
def test_a_constant_embedding_earns_nothing_however_it_is_rounded(E):
    torch.manual_seed(E)
    for N in (33, 1003, 1500):
        z = torch.nn.functional.normalize(torch.randn(1, E), dim=1).expand(N, E)
        keys = [[i] for i in range(N)]
        assert rank_candidates(z, z, RightCandidates.of_keys(keys, keys)).best.tolist() == [N] * N


def test_candidates_that_share_a_key_are_right():
    right = RightCandidates.of_keys([[3], [1, 2], [3]], [[1], [2, 3], [], [3, 3]])
    row, place, index = right.pairs(torch.tensor([1, 2]))
    assert (row.tolist(), place.tolist(), index.tolist()) == ([0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 3])
    assert right.counts.tolist() == [2, 2, 2]
    assert len(right.offsets) == 3  # the first query and the last share a set
    nothing = RightCandidates.of_keys([], [[1]])
    found = rank_candidates(torch.ones(0, 4), torch.ones(1, 4), nothing)
    assert len(found.best) == len(found.average_precision) == 0


@pytest.mark.parametrize(
    ("queries", "candidates", "message"),
    [
        (torch.ones(2, 3), torch.ones(2, 4), r"must be \(Q, E\) and \(N, E\), got \(2, 3\) and \(2, 4\)"),
        (torch.ones(2), torch.ones(2), r"must be \(Q, E\) and \(N, E\), got \(2,\) and \(2,\)"),
        (torch.ones(2, 3), torch.ones(2, 3).double(), "must both be float32, or float64, got"),
        (torch.ones(2, 3).half(), torch.ones(2, 3).half(), "must both be float32, or float64, got"),
        (torch.ones(3, 3), torch.ones(2, 3), "right must tell of 3 queries, got 2"),
        (torch.ones(2, 3), torch.ones(1, 3), "right must name candidates from 0 to 0"),
    ],
)
def test_what_does_not_belong_together_is_refused(queries, candidates, message):
    keys = [[0], [1]]
    with pytest.raises(ValueError, match=message):
        rank_candidates(queries, candidates, RightCandidates.of_keys(keys, keys))
    with pytest.raises(ValueError, match="query 1 must have at least one right candidate"):
        RightCandidates.of_keys(keys, [[0], []])


@pytest.mark.slow
def test_processes_share_the_queries(run_ranks, import_file, tmp_path):
    file = Path(__file__).with_name("ranking_worker.py")
    expected = rank_candidates(*import_file(file).data())
    for found in run_ranks(file, 2, tmp_path):
        torch.testing.assert_close(found, [expected.best, expected.average_precision], rtol=0, atol=0)
