import numpy as np
import pytest
import torch

from clippo.data.base import Example, Source, Text
from clippo.data.emoji import EmojiConfig
from clippo.data.transform import PlaceConfig, SquashConfig
from clippo.evaluation.embedding import embed_images
from clippo.evaluation.retrieval import (
    Retrieval,
    RetrievalConfig,
    chance_at_k,
    find_images,
    recall_at_k,
)
from clippo.evaluation.sheet import Finding, draw_sheet
from clippo.model import Clippo, ClippoConfig
from clippo.renderer import UnifontRenderer

DATA = EmojiConfig(languages=("en", "de"))
PLACE = PlaceConfig()
SIZES = ClippoConfig(width=32, depth=1, mlp_dim=64, num_heads=2, patch_size=16, image_size=64, embed_dim=32)


@pytest.fixture(scope="module")
def untrained() -> Clippo:
    torch.manual_seed(0)
    return Clippo(SIZES, UnifontRenderer(64)).eval()


@pytest.fixture(scope="module")
def evaluator() -> Retrieval:
    return RetrievalConfig(queries="held_out", candidates="all").build(DATA, PLACE, 64)


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


def test_equal_texts_are_right_as_well():
    """Candidates 0 and 1 have the same text, and the query of each is nearest to the other."""
    queries = torch.eye(4)[[1, 0, 2, 3]]
    own, groups = torch.arange(4), torch.tensor([0, 0, 2, 3])
    assert recall_at_k(queries, torch.eye(4), own)[1] == 50
    assert recall_at_k(queries, torch.eye(4), own, groups)[1] == 100
    assert recall_at_k(torch.ones(50, 4), torch.ones(50, 4), torch.arange(50), torch.arange(50) // 2)[10] == 0


def test_chance_is_what_random_embeddings_reach():
    torch.manual_seed(0)
    groups = torch.tensor([0, 0, 0, 3, 4, 4, *range(6, 30)])
    found = []
    for _ in range(300):
        queries, candidates = torch.randn(2, 30, 16)
        found.append(recall_at_k(queries, candidates, torch.arange(30), groups))
    chance = chance_at_k(torch.arange(30), groups)
    for k in (1, 5, 10):
        assert np.mean([recall[k] for recall in found]) == pytest.approx(chance[k], rel=0.1)
    assert chance_at_k(torch.arange(30), torch.arange(30))[5] == pytest.approx(500 / 30)
    assert chance_at_k(torch.arange(4), torch.arange(4))[10] == 100


class Named(Source):
    """30 pictures, all with an English name, 25 with a German one, and 5 with a Danish one."""

    def __len__(self):
        return 30

    def __getitem__(self, index):
        names = {"en": 30, "de": 25, "da": 5}
        texts = tuple(Text(f"{code} {index}", code) for code, count in names.items() if index < count)
        return Example(str(index), np.full((8, 8, 3), index, np.uint8), texts)


def test_a_language_is_measured_among_the_examples_that_have_it(untrained):
    evaluator = Retrieval(source := Named(), source, SquashConfig().build(64))
    metrics = evaluator(untrained)
    languages = {name.partition("/")[0] for name in metrics}
    assert languages == {"chance", "mean", "en", "de"}
    assert metrics["en/chance/R@1"] == pytest.approx(100 / 30)
    assert metrics["de/chance/R@1"] == pytest.approx(100 / 25)
    assert metrics["chance/R@1"] == pytest.approx((100 / 25 + 100 / 30) / 2)


def test_another_source_than_that_of_the_run_is_measured():
    config = RetrievalConfig(data=EmojiConfig(languages=("en", "fr")))
    assert len(config.build(DATA, PLACE, 64).texts_by_language()["fr"]) == 318


def test_a_constant_embedding_earns_nothing():
    assert recall_at_k(torch.ones(50, 4), torch.ones(50, 4), torch.arange(50)) == {1: 0, 5: 0, 10: 0}


@pytest.mark.parametrize("where", ["queries", "candidates", "one query"])
def test_what_is_not_a_number_is_not_found(where):
    queries, candidates = torch.eye(8)[:4], -torch.eye(8)
    if where == "candidates":
        candidates = torch.full((50, 8), torch.nan)
    else:
        queries[: 4 if where == "queries" else 1] = torch.nan
    recall = recall_at_k(queries, candidates, torch.arange(4))
    assert recall[1] == recall[5] == 0


@pytest.mark.slow
def test_every_language_and_direction_is_measured(untrained, evaluator):
    metrics = evaluator(untrained)
    assert metrics["chance/R@10"] == pytest.approx(1000 / len(evaluator.examples))
    for language in ("en", "de"):
        for direction in ("text_to_image", "image_to_text"):
            recall = [metrics[f"{language}/{direction}/R@{k}"] for k in (1, 5, 10)]
            assert recall == sorted(recall)
            assert recall[-1] < 10  # untrained
    assert len(metrics) == 3 * (1 + 2 + 2 * 3)  # at three k: chance, two means, three rows a language
    both = [metrics[f"{language}/text_to_image/R@10"] for language in ("en", "de")]
    assert metrics["mean/text_to_image/R@10"] == pytest.approx(sum(both) / 2)
    assert evaluator(untrained) == metrics


@pytest.mark.slow
def test_queries_are_found_among_the_candidates_by_their_keys(untrained, evaluator, monkeypatch):
    """A model that knows all is right about everything."""
    held_out = {example.key for example in DATA.build("held_out", image_size=64)}
    assert {evaluator.examples[index].key for index in evaluator.queries} == held_out
    known = torch.eye(len(evaluator.examples))
    monkeypatch.setattr("clippo.evaluation.retrieval.embed_images", lambda *_: known)
    monkeypatch.setattr(untrained, "encode_text", lambda texts: known)
    metrics = evaluator(untrained)
    assert all(value == 100 for name, value in metrics.items() if "chance" not in name)
    train = DATA.build("train", image_size=64)
    with pytest.raises(ValueError, match="queries must be among the candidates, but '.*' is not"):
        Retrieval(DATA.build("held_out", image_size=64), train, PLACE.build(64))


def test_batches_do_not_change_embeddings(untrained, evaluator):
    examples, transform = evaluator.examples[:50], PLACE.build(64)
    images = embed_images(untrained, examples, transform)
    assert images.shape == (50, 32)
    torch.testing.assert_close(embed_images(untrained, examples, transform, batch_size=7), images)
    pixels = torch.from_numpy(np.stack([transform(examples[i].image) for i in (5, 40)]))
    torch.testing.assert_close(images[[5, 40]], untrained.encode_image(pixels))


def test_the_nearest_images_are_found(untrained, evaluator):
    examples, transform = evaluator.examples[:300], PLACE.build(64)
    images = embed_images(untrained, examples, transform)
    scores, found = find_images(untrained, images, ["dog face", "狗脸"], top=3)
    similarity = untrained.encode_text(["dog face", "狗脸"]) @ images.T
    assert found == similarity.topk(3).indices.tolist()
    assert scores == similarity.topk(3).values.tolist()


def test_sheet_frames_what_was_wanted(untrained, evaluator):
    findings = [Finding("dog", [0, 1, 2], wanted=1), Finding("cat", [3])]
    sheet = np.asarray(draw_sheet(untrained, evaluator.examples, PLACE.build(64), findings))
    green = (sheet == (46, 160, 67)).all(-1)
    assert green.sum() == pytest.approx(4 * 3 * 99, rel=0.02)
    columns = np.flatnonzero(green.any(0))
    pitch = 96 + 8
    assert 2 * pitch < columns.min() < columns.max() < 3 * pitch + 16
    assert not green[pitch + 8 :].any()


def test_picture_has_two_queries_in_each_language(untrained, evaluator):
    picture = evaluator.picture(untrained)
    assert picture.size == (6 * 104 + 16, 4 * 104 + 8)
