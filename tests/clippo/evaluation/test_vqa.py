from collections import Counter

import numpy as np
import pytest
import torch

from clippo.data.made_questions import MadeQuestionsConfig
from clippo.data.made_up import MadeUpConfig
from clippo.data.questions import Question, Questions
from clippo.data.transform import SquashConfig
from clippo.data.vqa2 import Vqa2Config
from clippo.errors import UserError
from clippo.evaluation.base import EvaluatorConfig
from clippo.evaluation.vqa import Vqa, VqaConfig
from clippo.model import ByteTextConfig, Clippo, ClippoConfig
from clippo.model.configs import from_dict, to_dict
from clippo.renderer import UnifontRenderer

SIZES = {
    "width": 32,
    "depth": 1,
    "mlp_dim": 64,
    "num_heads": 2,
    "patch_size": 16,
    "image_size": 64,
    "embed_dim": 32,
}
MODELS = ("drawn", "question_only", "picture_only", "late_fusion")
TEXTS = {"which one?": ("a", "b"), "how many?": ("2", "3", "4", "5")}  # the kinds are "letter" and "number"
ANSWERS = [answer for answers in TEXTS.values() for answer in answers]


class Pictures(Questions):
    """Pictures of grey noise; two questions about each, whose answers are random but equally frequent.

    The grey level of the first pixel names the picture.
    """

    def __init__(self, first: int, count: int) -> None:
        rng = np.random.default_rng(first)
        self.pixels = rng.integers(0, 256, (count, 20, 30, 1), dtype=np.uint8).repeat(3, axis=3)
        self.pixels[:, 0, 0] = np.arange(first, first + count)[:, None]
        self.asked = []
        for kind, (text, answers) in zip(("letter", "number"), TEXTS.items(), strict=True):
            given = rng.permutation(np.resize(answers, count)).tolist()
            for number, answer in enumerate(given):
                name = str(first + number)
                self.asked.append(Question(f"{name}/{kind}", name, text, (answer,) * 10, answer, kind))

    def image(self, index):
        return self.pixels[index % len(self.pixels)]


@pytest.fixture(autouse=True)
def few_epochs(monkeypatch):
    monkeypatch.setattr("clippo.evaluation.answer_probe.MAX_EPOCHS", 10)


@pytest.fixture(scope="module")
def parts():
    return Pictures(0, 80), Pictures(80, 40)


@pytest.fixture(scope="module")
def untrained() -> Clippo:
    torch.manual_seed(0)
    return Clippo(ClippoConfig(**SIZES), UnifontRenderer(64)).eval()


def test_a_model_that_knows_nothing_answers_by_chance(untrained, parts):
    evaluator = Vqa(*parts)
    metrics = evaluator(untrained)
    assert set(metrics) == {
        f"{n}/{k}" for n in (*MODELS, "majority", "chance") for k in ("all", "letter", "number")
    }
    assert [metrics[f"chance/{kind}"] for kind in ("all", "letter", "number")] == pytest.approx(
        [37.5, 50, 25]
    )
    for name in ("question_only", "late_fusion", "majority"):
        assert metrics[f"{name}/all"].low <= 37.5 <= metrics[f"{name}/all"].high
    for name in (
        "drawn",
        "picture_only",
    ):  # below chance where they mistake one kind of question for the other
        assert metrics[f"{name}/all"].low < 37.5
    torch.manual_seed(7)
    assert evaluator(untrained) == metrics


def test_a_model_that_is_told_the_answers_is_right(untrained, parts, monkeypatch):
    right = {(int(q.picture), q.text): q.answer for part in parts for q in part.asked}
    places = set()

    def encode_image_text(images, texts, *, position):
        places.add(position)
        known = [right.get((int(image[0, 0, 0]), text)) for image, text in zip(images, texts, strict=True)]
        return torch.tensor([[float(answer == one) for one in ANSWERS] for answer in known])

    monkeypatch.setattr(untrained, "encode_image_text", encode_image_text)
    monkeypatch.setattr(untrained, "encode_image", lambda images: torch.zeros(len(images), 3))
    evaluator = Vqa(*parts, position="middle")
    metrics = evaluator(untrained)
    assert places == {"middle"}
    assert [metrics[f"drawn/{kind}"] for kind in ("all", "letter", "number")] == [100, 100, 100]
    for name in MODELS[1:]:
        assert metrics[f"{name}/all"] < 60
    sheet = np.asarray(evaluator.picture(untrained)).astype(int)
    assert not (sheet[..., 0] > sheet[..., 1:].max(-1) + 150).any()  # no answer is red


def test_pictures_and_questions_apart_are_enough_where_they_hold_the_answer(untrained, parts, monkeypatch):
    """The picture tells the letter, and nothing tells the number."""
    letter = {int(q.picture): q.answer for part in parts for q in part.asked if q.kind == "letter"}

    def encode_image(images):
        return torch.tensor([[float(letter[int(image[0, 0, 0])] == "a")] for image in images])

    monkeypatch.setattr(untrained, "encode_image", encode_image)
    monkeypatch.setattr(untrained, "encode_image_text", lambda images, *_, **__: torch.ones(len(images), 2))
    monkeypatch.setattr(untrained, "encode_text", lambda texts: torch.eye(len(texts)))
    metrics = Vqa(*parts)(untrained)
    assert metrics["late_fusion/letter"] == 100
    assert metrics["late_fusion/number"].low < 25 < metrics["late_fusion/number"].high
    assert metrics["picture_only/all"] < 60  # it does not know which of the two is asked


class Listed(Questions):
    def __init__(self, *asked: tuple[str, str, list[str]]) -> None:
        """Questions given by picture, kind and answers."""
        self.asked = [
            Question(str(i), picture, "?", tuple(answers), Counter(answers).most_common(1)[0][0], kind)
            for i, (picture, kind, answers) in enumerate(asked)
        ]

    def image(self, index):
        return np.zeros((8, 8, 3), np.uint8)


def test_majority_and_chance_are_those_of_the_kind_of_question(untrained):
    train = Listed(
        *[(f"{i}", "number", ["2"] * 7 + ["3"] * 3) for i in range(3)],  # "3" counts 0.9 where it is right
        *[(f"{i}", "number", ["3"] * 10) for i in range(2)],
        *[(f"{i}", "other", ["cat"]) for i in range(4)],
    )
    held_out = Listed(
        ("x", "number", ["2"] * 1 + ["3"] * 9), ("y", "other", ["dog"]), ("z", "other", ["cat"])
    )
    metrics = Vqa(train, held_out, min_count=2)(untrained)
    assert metrics["majority/number"] == 100  # "3" is among the answers of five questions, "2" of three
    assert metrics["majority/other"] == 50
    assert metrics["chance/number"] == pytest.approx((30 + 100) / 2)
    assert metrics["chance/other"] == 50
    assert metrics["chance/all"] == pytest.approx((65 + 0 + 100) / 3)


def test_a_model_that_reads_bytes_answers_without_drawing(parts):
    torch.manual_seed(0)
    model = Clippo(ClippoConfig(**SIZES, text=ByteTextConfig())).eval()
    evaluator = Vqa(*parts)
    metrics = evaluator(model)
    assert {name.partition("/")[0] for name in metrics} == {
        "picture_only",
        "late_fusion",
        "majority",
        "chance",
    }
    assert evaluator.picture(model) is None


def test_the_picture_shows_questions_of_every_kind(untrained, parts):
    evaluator = Vqa(*parts)
    sheet = np.asarray(evaluator.picture(untrained)).astype(int)
    assert sheet.shape == (760, 960, 3)
    for channel in (0, 1):  # some answers are wrong, red, and some right, green
        others = np.delete(sheet, channel, 2).max(-1)
        assert (sheet[..., channel] > others + 60).any()


def test_what_cannot_be_measured_is_refused(parts):
    train, held_out = parts
    with pytest.raises(UserError, match="there must be questions .*; got 1 pictures and 80 questions"):
        Vqa(Listed(("x", "letter", ["a"])), held_out)
    with pytest.raises(UserError, match="there must be questions .*; got 80 pictures and 0 questions"):
        Vqa(train, Listed())
    with pytest.raises(UserError, match="min_count must be at most 40, .*; got 41"):
        Vqa(train, held_out, min_count=41)
    with pytest.raises(UserError, match="of the kind colour are measured but never trained"):
        Vqa(train, Listed(("x", "colour", ["red"])))


def test_the_configuration_is_kept_in_json():
    for questions in (MadeQuestionsConfig(train=140, seed=3), Vqa2Config(root="vqa")):
        config = VqaConfig(questions=questions, position="bottom")
        assert from_dict(EvaluatorConfig, to_dict(config)) == config
    with pytest.raises(UserError, match="vqa/v2_OpenEnded_mscoco_train2014_questions"):
        config.build(MadeUpConfig(), SquashConfig(), 64)


def test_vqa_v2_is_measured_from_its_files(untrained, vqa2_root):
    config = VqaConfig(questions=Vqa2Config(root=str(vqa2_root)), min_count=1)
    metrics = config.build(MadeUpConfig(), SquashConfig(), 64)(untrained)
    assert {name.partition("/")[2] for name in metrics} == {"all", "other"}
    assert metrics["majority/other"] == 100  # "net", the only answer


def test_the_fingerprint_is_that_of_both_parts(parts):
    assert Vqa(*parts).fingerprint == Vqa(Pictures(0, 80), Pictures(80, 40)).fingerprint
    assert Vqa(*parts).fingerprint != Vqa(parts[0], Pictures(81, 40)).fingerprint
