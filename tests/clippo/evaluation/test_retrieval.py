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
from model import Clippo, TowerConfig


@pytest.fixture(scope="module")
def untrained(dataset) -> Clippo:
    torch.manual_seed(0)
    config = TowerConfig(width=32, depth=1, mlp_dim=64, heads=2, patch_size=16, image_size=64, out_dim=32)
    return Clippo(config, dataset.renderer).eval()


def test_recall_matches_the_reference(reference_dir):
    """20 pictures with five captions each; ours has one partner a query, so the captions' side compares."""
    with np.load(reference_dir / "evaluation" / "retrieval_ref.npz") as file:
        similarity, owner, expected = (torch.from_numpy(file[name]) for name in ("sim", "corr", "t2i"))
    # Rows as queries, with a one-hot gallery: the product is the similarity itself. A query a row is needed,
    # so each batch takes one caption of every picture.
    hits = torch.zeros(3, dtype=torch.float64)
    for caption in range(5):
        columns = torch.stack([(owner == picture).nonzero()[caption, 0] for picture in range(20)])
        recall = recall_at_k(similarity[:, columns].T, torch.eye(20, dtype=similarity.dtype))
        hits += torch.tensor([recall[k] for k in (1, 5, 10)], dtype=torch.float64) / 500
    torch.testing.assert_close(hits, expected.double())


def test_recall_counts_partners_among_the_most_similar():
    queries = torch.eye(20)
    assert recall_at_k(queries, queries) == {1: 100, 5: 100, 10: 100}
    candidates = torch.eye(20).roll(3, 0)  # every partner is now orthogonal, and 18 others tie with it
    assert recall_at_k(queries, candidates) == {1: 0, 5: 0, 10: 0}
    # Query i prefers candidate i + d for d = 0, 1, 2, ... in this order; its partner is at d = 3.
    preference = torch.arange(20.0).flip(0)
    queries = torch.stack([preference.roll(i - 3) for i in range(20)])
    assert recall_at_k(queries, torch.eye(20)) == {1: 0, 5: 100, 10: 100}


def test_recall_of_many_queries_is_that_of_the_whole_matrix():
    torch.manual_seed(0)
    candidates = torch.randn(2500, 8)
    queries = candidates + torch.randn(2500, 8)
    top = (queries @ candidates.T).topk(10).indices == torch.arange(2500)[:, None]
    expected = {k: 100 * top[:, :k].any(1).float().mean().item() for k in (1, 5, 10)}
    assert recall_at_k(queries, candidates) == pytest.approx(expected)


def test_a_constant_embedding_earns_nothing():
    assert recall_at_k(torch.ones(50, 4), torch.ones(50, 4)) == {1: 0, 5: 0, 10: 0}


def test_evaluation_covers_every_language_split_and_direction(untrained, dataset):
    rows = evaluate_retrieval(untrained, dataset)
    assert len(rows) == 2 * 2 * len(dataset.config.languages)
    sizes = {"held out": dataset.held_out.sum(), "trained": (~dataset.held_out).sum()}
    for row in rows:
        assert row.candidates == sizes[row.concepts]
        assert row.chance[10] == pytest.approx(1000 / row.candidates)
        assert row.recall[1] <= row.recall[5] <= row.recall[10] < 10  # untrained


def test_table_shows_each_number_beside_its_chance():
    row = Recall("trained", "de", "text->image", 200, {1: 12.34, 5: 40.0, 10: 61.0})
    header, _, line = format_table([row]).splitlines()
    assert header.split() == ["concepts", "language", "direction", "among"] + [
        word for k in (1, 5, 10) for word in (f"R@{k}", "chance")
    ]
    assert line.split() == "trained de text->image 200 12.3% 0.50% 40.0% 2.50% 61.0% 5.00%".split()


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
    findings = sample_findings(untrained, dataset, per_language=2)
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
