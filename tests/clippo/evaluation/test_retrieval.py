import numpy as np
import pytest
import torch

from clippo.data.base import Example, Source, Text
from clippo.data.emoji import EmojiConfig
from clippo.data.transform import PlaceConfig, SquashConfig
from clippo.errors import UserError
from clippo.evaluation.embedding import embed_images
from clippo.evaluation.ranking import RightCandidates, rank_candidates
from clippo.evaluation.retrieval import Retrieval, RetrievalConfig, chance_of, find_images
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
    return RetrievalConfig(queries="held_out", candidates="all", captions="first").build(DATA, PLACE, 64)


def test_recall_matches_the_reference(reference_dir):
    """20 pictures, five captions each, in both directions."""
    with np.load(reference_dir / "evaluation" / "retrieval_ref.npz") as file:
        similarity, owners = torch.from_numpy(file["sim"]), [[i] for i in file["corr"].tolist()]
        expected = {direction: file[direction].tolist() for direction in ("i2t", "t2i")}
    pictures = [[i] for i in range(20)]
    # Against one-hot candidates a query is its own row of similarities.
    found = {
        "i2t": rank_candidates(similarity, torch.eye(100), RightCandidates.of_keys(pictures, owners)),
        "t2i": rank_candidates(similarity.T, torch.eye(20), RightCandidates.of_keys(owners, pictures)),
    }
    for direction, ranks in found.items():
        recalls = [(ranks.best <= k).double().mean().item() for k in (1, 5, 10)]
        assert recalls == pytest.approx(expected[direction])


@pytest.mark.parametrize(
    ("counts", "N"), [([1] * 30, 30), ([5] * 8, 40), ([1, 3, 3, 20], 24), ([1], 1), ([4], 4)]
)
def test_chance_is_what_random_orders_reach(counts, N):
    rng = np.random.default_rng(0)
    drawn = [[1 + np.sort(rng.permutation(N)[:m]) for m in counts] for _ in range(10_000 // len(counts))]
    best = np.array([[places[0] for places in one] for one in drawn])
    precisions = [(np.arange(1, len(places) + 1) / places).mean() for one in drawn for places in one]
    chance = chance_of(np.array(counts), N)
    for k in (1, 5, 10):
        assert chance[f"R@{k}"] == pytest.approx(100 * (best <= k).mean(), rel=0.1)
    assert chance["mAP"] == pytest.approx(100 * np.mean(precisions), rel=0.05)
    assert chance["MedR"] == pytest.approx(np.median(best), abs=1)


def test_chance_of_one_right_candidate():
    chance = chance_of(np.ones(7, np.int64), 30)
    assert [chance[f"R@{k}"] for k in (1, 5, 10)] == pytest.approx([100 / 30, 500 / 30, 1000 / 30])
    assert chance["mAP"] == pytest.approx(100 * np.mean(1 / np.arange(1, 31)))
    assert chance["MedR"] == 15.5


class Captioned(Source):
    """200 pictures of one colour with two English captions and a German one; some have the second alike."""

    def __init__(self, alike=()):
        self.alike = alike

    def __len__(self):
        return 200

    def __getitem__(self, index):
        second = "the same" if index in self.alike else f"en {index} again"
        texts = (Text(f"en {index}", "en"), Text(second, "en"), Text(f"de {index}", "de"))
        return Example(str(index), np.full((8, 8, 3), index, np.uint8), texts)


class Told(torch.nn.Module):
    """A model that is told the embedding of each picture, by its colour, and of each text."""

    def __init__(self, images, texts):
        super().__init__()
        self.images, self.texts = images, texts

    def encode_image(self, pixels):
        return self.images[pixels[:, 0, 0, 0].long()]

    def encode_text(self, texts):
        return torch.stack([self.texts[text] for text in texts])


def measured(source, images, texts, **fields):
    """The metrics of the model that embeds picture i as images[i], and its three texts as texts[i]."""
    told = {
        text.text: z for i in reversed(range(200)) for text, z in zip(source[i].texts, texts[i], strict=True)
    }
    return Retrieval(source, source, SquashConfig().build(8), **fields)(Told(images, told))


EYE = torch.eye(200)
EYE_OF_TEXTS = EYE[:, None].expand(200, 3, 200)


def test_a_model_that_is_told_the_answers():
    metrics = measured(Captioned(), EYE, EYE_OF_TEXTS)
    for name, value in metrics.items():
        if "chance" not in name:
            assert value == (1 if name.endswith("MedR") else 100)
    assert metrics["en/chance/R@5"] == pytest.approx(500 / 200)
    assert metrics["en/chance/image_to_text/R@5"] == chance_of(np.full(200, 2), 400)["R@5"]
    assert metrics["de/text_to_image/R@1"].low > 98


def test_a_model_that_knows_nothing():
    torch.manual_seed(0)
    metrics = measured(Captioned(), torch.randn(200, 16), torch.randn(200, 3, 16))
    found = {name: value for name, value in metrics.items() if "chance" not in name}
    for name, value in found.items():
        language, direction, last = name.split("/")
        rows = {"text_to_image": "chance", "image_to_text": "chance/image_to_text"}
        chance = metrics[
            f"{rows[direction]}/{last}" if language == "mean" else f"{language}/{rows[direction]}/{last}"
        ]
        if name.startswith("mean/") and last == "MedR":
            assert value == pytest.approx(chance, rel=0.2)
        else:
            assert value.low <= chance <= value.high, name
    assert len(found) == 3 * 2 * 5


def test_several_captions_and_a_text_of_two_pictures():
    """The text that pictures 3 and 8 share is embedded as picture 3 is."""
    source = Captioned(alike=(3, 8))
    metrics = measured(source, EYE, EYE_OF_TEXTS)
    # One of 400 captions finds 3 and not its own, 8, which ties with 198 others.
    assert metrics["en/text_to_image/R@1"] == pytest.approx(100 * 399 / 400)
    assert metrics["en/text_to_image/mAP"] == pytest.approx(100 * (399 + 1 / 200) / 400)
    # Picture 3 has the shared caption of 8 before its own two, and picture 8 its second one after all others.
    assert metrics["en/image_to_text/R@1"] == pytest.approx(100 * 199 / 200)
    expected = (198 + (1 / 2 + 2 / 3) / 2 + (1 + 2 / 400) / 2) / 200
    assert metrics["en/image_to_text/mAP"] == pytest.approx(100 * expected)
    assert metrics["mean/text_to_image/R@1"] == pytest.approx(100 * (399 / 400 + 1) / 2)

    metrics = measured(source, EYE, EYE_OF_TEXTS, merge_equal_texts=True)
    assert metrics["en/text_to_image/R@1"] == metrics["en/image_to_text/R@1"] == 100
    expected = (398 + 2 * (1 + 2 / 200) / 2) / 400
    assert metrics["en/text_to_image/mAP"] == pytest.approx(100 * expected)
    expected = (199 + (1 + 2 / 399 + 3 / 400) / 3) / 200
    assert metrics["en/image_to_text/mAP"] == pytest.approx(100 * expected)

    metrics = measured(source, EYE, EYE_OF_TEXTS, captions="first")
    assert metrics["en/text_to_image/mAP"] == metrics["en/image_to_text/mAP"] == 100
    assert metrics["en/chance/image_to_text/R@1"] == pytest.approx(0.5)


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


class Parts(Source):
    """Some pictures, each with a text in a language of its own, and some pairs of texts, in turn."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index % 2:
            return Example(str(index), None, (Text(f"first {index}"), Text(f"second {index}")))
        return Example(str(index), np.full((8, 8, 3), index, np.uint8), (Text(f"name {index}", f"l{index}"),))


def test_images_and_pairs_of_texts_are_embedded_in_their_order(untrained):
    examples, transform = [Parts(5)[index] for index in range(5)], SquashConfig().build(64)
    z = embed_images(untrained, examples, transform, batch_size=2)
    for index, example in enumerate(examples):
        torch.testing.assert_close(z[index], embed_images(untrained, [example], transform)[0])
    torch.testing.assert_close(z[3], untrained.encode_text(["first 3"])[0])


def test_no_language_and_no_example(untrained):
    evaluator = Retrieval(source := Parts(38), source, SquashConfig().build(64))
    assert evaluator(untrained) == {}
    assert evaluator.picture(untrained) is None
    with pytest.raises(UserError, match="at least one example that can be read, got none"):
        Retrieval(source := Parts(0), source, SquashConfig().build(64))


@pytest.mark.slow
def test_another_source_than_that_of_the_run_is_measured():
    config = RetrievalConfig(data=EmojiConfig(languages=("en", "fr")))
    assert len(config.build(DATA, PLACE, 64).texts_by_language()["fr"]) == 318


@pytest.mark.slow
def test_every_language_and_direction_is_measured(untrained, evaluator):
    metrics = evaluator(untrained)
    assert metrics["chance/R@10"] == pytest.approx(1000 / len(evaluator.examples))
    for language in ("en", "de"):
        for direction in ("text_to_image", "image_to_text"):
            recall = [metrics[f"{language}/{direction}/R@{k}"] for k in (1, 5, 10)]
            assert recall == sorted(recall)
            assert recall[-1] < 10  # untrained
    assert len(metrics) == 5 * (2 + 2 + 2 * 4)  # chance and the mean in each direction, both by language
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
    assert all(value == 100 for name, value in metrics.items() if "chance" not in name and "R@" in name)
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
