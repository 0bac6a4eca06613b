import numpy as np
import pytest
import torch

from clippo.data.base import Example, Source, Text
from clippo.data.emoji import EmojiConfig
from clippo.data.transform import PlaceConfig, SquashConfig
from clippo.errors import UserError
from clippo.evaluation.intervals import difference_in_percent
from clippo.evaluation.retrieval import RetrievalConfig
from clippo.evaluation.robustness import KS, MAX_QUERIES, MEASURED, RATES, Robustness, RobustnessConfig
from clippo.model import ByteTextConfig, Clippo, ClippoConfig, RenderedTextConfig
from clippo.renderer import AlignedRenderer

DATA = EmojiConfig(languages=("en", "de"))
SIZES = {"width": 32, "depth": 1, "mlp_dim": 64, "num_heads": 2, "image_size": 64, "embed_dim": 32}


class Named(Source):
    """Pictures of one grey level each, which is their number, with two names."""

    def __init__(self, count=40, english="lettered {}", german="Bücher {}"):
        self.count = count
        self.names = {"en": english, "de": german}

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        texts = (Text(name.format(index), language) for language, name in self.names.items())
        return Example(str(index), np.full((2, 2, 3), index % 256, np.uint8), tuple(texts))


class Reader:
    """Knows pictures by their grey level and texts by the number at their end, if it knows their letters.

    Args:
        reads: says of a text whether it can read it.
    """

    def __init__(self, reads):
        self.reads = reads

    def encode_image(self, pixels):
        return torch.eye(256)[pixels[:, 0, 0, 0].long()]

    def encode_text(self, texts):
        known = torch.zeros(len(texts), 256)
        for row, text in zip(known, texts, strict=True):
            if self.reads(text):
                row[int(text.split()[-1])] = 1
        return known


def measured(model, source=None):
    return Robustness(source or Named(), SquashConfig().build(2))(model)


def test_a_model_of_whole_texts_is_lost_where_a_letter_changes():
    metrics = measured(Reader(lambda text: text.startswith(("lettered", "Bücher"))))
    assert metrics["clean/R@1"] == metrics["typos/clean/R@1"] == 100
    assert metrics["chance/R@10"] == pytest.approx(1000 / 40)
    for name in ("upper_case", "look_alikes", "full_width"):
        assert metrics[f"{name}/1/R@10"] == 0
        assert metrics[f"{name}/1/difference/R@10"] == -100
        assert metrics[f"{name}/clean/queries"] == 100
    recalls = [metrics[f"typos/{rate:g}/R@1"] for rate in RATES]
    assert 100 > recalls[0] > recalls[1] > recalls[2]
    shares = [metrics[f"typos/{rate:g}/letters_changed"] for rate in RATES]
    assert shares[0] < shares[1] < shares[2] <= 100
    difference = metrics["typos/0.1/difference/R@1"]
    assert difference == pytest.approx(recalls[0] - 100)
    assert -100 < difference.low < difference < difference.high < 0


@pytest.mark.slow
def test_the_same_model_gives_the_same_metrics_and_a_picture():
    model, evaluator = Reader(lambda text: "e" in text), Robustness(Named(), SquashConfig().build(2))
    assert evaluator(model) == evaluator(model) == measured(model)
    assert evaluator.picture(model).size == (1000, 480)


def test_the_queries_are_those_that_a_perturbation_can_change():
    metrics = measured(Reader(lambda text: text.startswith("Bücher")))
    assert metrics["clean/R@1"] == 50
    assert metrics["no_diacritics/clean/queries"] == 50
    assert metrics["no_diacritics/clean/R@1"] == 100
    assert metrics["no_diacritics/1/letters_changed"] == pytest.approx(100 / 6)


def test_a_model_that_lower_cases_is_not_moved_by_upper_case():
    metrics = measured(Reader(lambda text: text.lower().startswith(("lettered", "bücher"))))
    for rate in RATES:
        difference = metrics[f"upper_case/{rate:g}/difference/R@1"]
        assert (difference, difference.low, difference.high) == (0, 0, 0)


def test_perturbations_that_change_nothing_are_left_out():
    metrics = measured(Reader(lambda text: True), Named(english="図 {}", german="画 {}"))
    assert [*metrics] == ["chance/R@1", "chance/R@10", "clean/R@1", "clean/R@10"]


def test_images_of_the_same_text_are_right_as_well():
    class Twins(Named):
        def __getitem__(self, index):
            one = super().__getitem__(index)
            return Example(one.key, one.image, super().__getitem__(index // 2 * 2).texts)

    metrics = measured(Reader(lambda text: True), Twins())
    assert metrics["clean/R@1"] == 100
    assert metrics["chance/R@1"] == pytest.approx(200 / 40)


def test_of_many_texts_some_are_drawn():
    evaluator = Robustness(Named(MAX_QUERIES), SquashConfig().build(2))
    assert len(evaluator.examples) == len(evaluator.texts) == MAX_QUERIES
    assert 0.4 < np.mean([text.startswith("l") for text in evaluator.texts]) < 0.6
    assert evaluator.texts == Robustness(Named(MAX_QUERIES), SquashConfig().build(2)).texts


def test_few_texts_are_refused():
    with pytest.raises(UserError, match="^robustness needs at least 20 texts of images, got 18$"):
        Robustness(Named(9), SquashConfig().build(2))


def test_a_paired_difference_is_surer_than_two_recalls():
    rng = np.random.default_rng(0)
    before = rng.random(400) < 0.5
    after = before & (rng.random(400) < 0.9)
    difference = difference_in_percent(after, before)
    assert difference == pytest.approx(100 * (after.mean() - before.mean()))
    assert difference.low < difference < difference.high < 0
    assert difference.high - difference.low < 6  # of independent samples it would be 14
    doubled = difference_in_percent(np.repeat(after, 2), np.repeat(before, 2), np.repeat(np.arange(400), 2))
    assert doubled == pytest.approx(difference)
    assert doubled.low == pytest.approx(difference.low, abs=0.5)
    with pytest.raises(ValueError, match="of the same examples, got 3 and 2"):
        difference_in_percent([1, 0, 1], [1, 0])


@pytest.mark.slow
@pytest.mark.parametrize("text", [RenderedTextConfig(tokens="inked"), ByteTextConfig()])
def test_models_of_pixels_and_of_bytes(text):
    """On real names; unchanged ones are found as often as in retrieval."""
    torch.manual_seed(0)
    renderer = AlignedRenderer(64) if isinstance(text, RenderedTextConfig) else None
    model = Clippo(ClippoConfig(patch_size=16, text=text, **SIZES), renderer).eval()
    evaluator = RobustnessConfig().build(DATA, PlaceConfig(), 64)
    metrics = evaluator(model)
    retrieval = RetrievalConfig(captions="first").build(DATA, PlaceConfig(), 64)(model)
    for k in KS:
        expected = np.mean([retrieval[f"{language}/text_to_image/R@{k}"] for language in DATA.languages])
        assert metrics[f"clean/R@{k}"] == pytest.approx(expected)
    measured = {metric.split("/")[0] for metric in metrics} - {"clean", "chance"}
    assert measured == {*MEASURED}
    assert evaluator.headline.keys() <= metrics.keys()
    # This renderer draws upper-case letters as lower-case ones; bytes differ.
    moved = [metrics[f"upper_case/1/difference/R@{k}"] for k in KS]
    assert (moved == [0, 0]) == (renderer is not None)
    assert evaluator.fingerprint == DATA.build("held_out", image_size=64).fingerprint
