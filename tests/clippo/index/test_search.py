"""Searches among embeddings, against sorting all similarities."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clippo.errors import UserError
from clippo.index import search
from clippo.index.search import Graph, exact_search, near_duplicates, recall


def unit_vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("count", [0, 1, 5, 4096, 9001])
@pytest.mark.parametrize("top", [1, 7])
def test_exact_search_is_a_sort(count, top):
    queries, embeddings = unit_vectors(3, 24), unit_vectors(count, 24, seed=1).half()
    scores, rows = exact_search(queries, embeddings, top)
    expected, order = (queries.double() @ embeddings.double().T).sort(dim=1, descending=True)
    assert rows.shape == (3, min(top, count))
    torch.testing.assert_close(scores.double(), expected[:, :top], atol=1e-6, rtol=0)
    assert torch.equal(rows, order[:, :top])


def test_no_queries():
    scores, rows = exact_search(torch.empty(0, 8), unit_vectors(20, 8), 3)
    assert scores.shape == rows.shape == (0, 3)


@pytest.mark.parametrize("max_compared", [1, 40, 10**6])
def test_near_duplicates_are_those_of_the_first_of_a_group(monkeypatch, max_compared):
    """Of 60 vectors in the plane, each 1 degree after the one before, in random order."""
    monkeypatch.setattr(search, "MAX_COMPARED", max_compared)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    angles = torch.deg2rad(order.double())
    embeddings = torch.stack([angles.cos(), angles.sin()], 1).float()
    found = near_duplicates(embeddings, float(np.cos(np.deg2rad(5.5))))
    expected, left = [], list(range(60))
    while left:
        group = [row for row in left if abs(order[row] - order[left[0]]) <= 5]
        left = [row for row in left if row not in group]
        expected += [group] if len(group) > 1 else []
    assert found == expected
    assert len(found) > 3


def test_copies_are_one_group():
    embeddings = unit_vectors(50, 16).half()[[0] * 9000 + [1, 0]]
    assert near_duplicates(embeddings, 0.9999) == [[*range(9000), 9001]]
    assert near_duplicates(embeddings[:0], 0.5) == []
    for least in (0, 1, 1.5):
        with pytest.raises(ValueError, match="min_similarity must be above 0 and below 1"):
            near_duplicates(embeddings, least)


def test_recall_is_the_share_that_was_found():
    assert recall([[1, 2], [5]], [[2, 3], [5, 6]]) == 0.5


def test_a_graph_finds_most_and_follows_additions_and_removals(tmp_path):
    embeddings = unit_vectors(2000, 16).half()
    ids = np.arange(100, 2100)
    graph = Graph(16)
    assert len(graph.ids) == 0
    graph.update(ids[:1500], embeddings[:1500])
    graph.save(tmp_path / "a.graph")
    again = Graph(16)
    assert again.load(tmp_path / "a.graph")
    again.update(ids[500:], embeddings[500:])
    again.save(tmp_path / "a.graph")
    viewed = Graph(16)
    assert viewed.load(tmp_path / "a.graph", view=True)
    assert np.array_equal(viewed.ids, ids[500:])
    queries = unit_vectors(50, 16, seed=2)
    _, rows = exact_search(queries, embeddings[500:], 10)
    assert recall(viewed.find(queries, 10), ids[500:][rows.numpy()].tolist()) > 0.99


def test_a_graph_that_cannot_be_used_is_not_loaded(tmp_path):
    graph = Graph(16)
    graph.update(np.arange(1, 300), unit_vectors(299, 16).half())
    graph.save(tmp_path / "a.graph")
    content = (tmp_path / "a.graph").read_bytes()
    (tmp_path / "half.graph").write_bytes(content[: len(content) // 2])
    for view in (False, True):
        assert not Graph(16).load(tmp_path / "none.graph", view=view)
        assert not Graph(16).load(tmp_path / "half.graph", view=view)
        assert not Graph(8).load(tmp_path / "a.graph", view=view)


def test_a_graph_without_usearch(monkeypatch):
    def refuse(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(search, "import_module", refuse)
    with pytest.raises(UserError, match=r"a graph needs usearch: pip install 'clippo-kernels\[index\]'"):
        Graph(16)
