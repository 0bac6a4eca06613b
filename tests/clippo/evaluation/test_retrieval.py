import numpy as np
import pytest
import torch

from clippo.evaluation.pictures import Finding, draw_sheet, find_pictures, sample_findings
from clippo.evaluation.retrieval import (
    Recall,
    embed_pictures,
    embed_texts,
    evaluate_retrieval,
    format_table,
    recall_at_k,
)
from clippo.model import Clippo, TowerConfig


@pytest.fixture(scope="module")
def untrained(dataset) -> Clippo:
    torch.manual_seed(0)
    config = TowerConfig(width=32, depth=1, mlp_dim=64, heads=2, patch_size=16, image_size=64, out_dim=32)
    return Clippo(config, dataset.renderer).eval()


def test_recall_matches_the_reference(reference_dir):
    """20 pictures, five captions each: the captions are the queries."""
    with np.load(reference_dir / "evaluation" / "retrieval_ref.npz") as file:
        similarity, owner, expected = (torch.from_numpy(file[name]) for name in ("sim", "corr", "t2i"))
    # Against one-hot candidates a query is its own row of similarities.
    recall = recall_at_k(similarity.T, torch.eye(20, dtype=similarity.dtype), owner.long())
    assert [recall[k] / 100 for k in (1, 5, 10)] == pytest.approx(expected.tolist())


def test_recall_counts_partners_among_the_most_similar():
    own = torch.arange(20)
    assert recall_at_k(torch.eye(20), torch.eye(20), own) == {1: 100, 5: 100, 10: 100}
    # Every partner is orthogonal, and ties with 18 others.
    assert recall_at_k(torch.eye(20), torch.eye(20).roll(3, 0), own) == {1: 0, 5: 0, 10: 0}
    # A query prefers candidates 0, 1, 2, ... in this order.
    queries = torch.arange(20.0).flip(0).expand(4, 20)
    partners = torch.tensor([0, 3, 7, 15])
    assert recall_at_k(queries, torch.eye(20), partners) == {1: 25, 5: 50, 10: 75}


def test_recall_of_many_queries_is_that_of_the_whole_matrix():
    torch.manual_seed(0)
    candidates = torch.randn(3000, 8)
    partners = torch.randperm(3000)[:2500]
    queries = candidates[partners] + torch.randn(2500, 8)
    top = (queries @ candidates.T).topk(10).indices == partners[:, None]
    expected = {k: 100 * top[:, :k].any(1).float().mean().item() for k in (1, 5, 10)}
    assert recall_at_k(queries, candidates, partners) == pytest.approx(expected)


def test_a_constant_embedding_earns_nothing():
    assert recall_at_k(torch.ones(50, 4), torch.ones(50, 4), torch.arange(50)) == {1: 0, 5: 0, 10: 0}


def test_evaluation_covers_every_language_split_and_direction(untrained, dataset):
    rows = evaluate_retrieval(untrained, dataset)
    sizes = {
        "trained": (~dataset.held_out).sum(),
        "held out": dataset.held_out.sum(),
        "all": len(dataset.concepts),
    }
    assert len(rows) == 3 * 2 * len(dataset.config.languages)
    assert {(row.concepts, row.among) for row in rows} == {
        ("trained", "trained"),
        ("held out", "held out"),
        ("held out", "all"),
    }
    for row in rows:
        assert row.candidates == sizes[row.among]
        assert row.chance[10] == pytest.approx(1000 / row.candidates)
        assert row.recall[1] <= row.recall[5] <= row.recall[10] < 10  # untrained


def test_evaluation_finds_the_right_partners(untrained, dataset, monkeypatch):
    """A model that knows all is right about everything, whichever candidates it chooses among."""
    known = torch.eye(len(dataset.concepts))
    monkeypatch.setattr("clippo.evaluation.retrieval.embed_pictures", lambda *_: known)
    monkeypatch.setattr("clippo.evaluation.retrieval.embed_texts", lambda *_: known)
    assert all(row.recall[1] == 100 for row in evaluate_retrieval(untrained, dataset))


def test_table_shows_each_number_beside_its_chance():
    row = Recall("held out", "all", "de", "text->image", 200, {1: 12.34, 5: 40.0, 10: 61.0})
    header, _, line = format_table([row]).splitlines()
    assert header.split() == "concepts among language direction R@1 chance R@5 chance R@10 chance".split()
    assert line.split() == "held out 200 all de text->image 12.3% 0.50% 40.0% 2.50% 61.0% 5.00%".split()


def test_batches_do_not_change_embeddings(untrained, dataset):
    texts = [concept.names["en"] for concept in dataset.concepts[:50]]
    torch.testing.assert_close(embed_texts(untrained, texts, 7), embed_texts(untrained, texts, 50))
    pictures = embed_pictures(untrained, dataset)
    assert pictures.shape == (len(dataset.concepts), 32)
    some = untrained.encode_image(torch.from_numpy(dataset.draw([5, 700])))
    torch.testing.assert_close(pictures[[5, 700]], some)


def test_findings_are_the_nearest_pictures(untrained, dataset):
    scores, found = find_pictures(untrained, dataset, ["dog face", "狗脸"], top=3)
    similarity = embed_texts(untrained, ["dog face", "狗脸"]) @ embed_pictures(untrained, dataset).T
    assert found == similarity.topk(3).indices.tolist()
    assert scores == similarity.topk(3).values.tolist()


def test_sampled_findings_alternate_between_trained_and_held_out(untrained, dataset):
    findings = sample_findings(untrained, dataset)
    assert [bool(dataset.held_out[f.wanted]) for f in findings] == [False, True] * 3
    for finding, language in zip(findings, ["en", "en", "de", "de", "zh", "zh"], strict=True):
        assert finding.text == dataset.concepts[finding.wanted].names[language]
        assert len(finding.found) == 5


def test_sheet_frames_what_was_wanted(dataset):
    sheet = np.asarray(draw_sheet(dataset, [Finding("dog", [0, 1, 2], wanted=1), Finding("cat", [3])]))
    green = (sheet == (46, 160, 67)).all(-1)
    assert green.sum() == pytest.approx(4 * 3 * 99, rel=0.02)
    columns = np.flatnonzero(green.any(0))
    pitch = 96 + 8
    assert 2 * pitch < columns.min() < columns.max() < 3 * pitch + 16
    assert not green[pitch + 8 :].any()
