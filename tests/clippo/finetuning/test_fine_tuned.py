"""A fine-tuned model is saved whole, loaded without unpickling, and predicts the same."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from clippo.data.transform import PlaceConfig
from clippo.errors import UserError
from clippo.finetuning.fine_tuned import About, FineTuned
from clippo.finetuning.objectives import Answers, Classification, Regression
from clippo.model import ByteTextConfig, Clippo, ClippoConfig
from tests.clippo.finetuning.conftest import SIZES

CLASSES = Classification(classes=("no", "yes", "perhaps"))
ABOUT = {
    "texts": About(task="t", reads="texts", objective=CLASSES),
    "scores": About(task="t", reads="texts", objective=Regression(mean=2.0, std=3.0)),
    "pictures": About(task="t", reads="pictures", objective=CLASSES, transform=PlaceConfig()),
    "questions": About(
        task="t", reads="questions", position="middle",
        objective=Answers(vocabulary=("a", "b", "c", "d"), majority={"letter": "a"}),
    ),
}  # fmt: skip
PICTURES = [
    Image.fromarray(np.random.default_rng(n).integers(0, 256, (30 + n, 40, 3), dtype=np.uint8))
    for n in range(4)
]
GIVEN = {
    "texts": {"texts": ["one", "two", "three", "four"]},
    "scores": {"texts": [("one", "two"), ("three", "four")]},
    "pictures": {"pictures": PICTURES},
    "questions": {"texts": ["what?", "who?", "where?", "when?"], "pictures": PICTURES},
}


def tuned_for(model, about) -> FineTuned:
    tuned = FineTuned(model, about)
    torch.nn.init.normal_(tuned.head.out.weight, generator=torch.Generator().manual_seed(0))
    tuned.head.mean.fill_(0.1)
    return tuned.eval()


@pytest.mark.parametrize(
    "name", ["texts", "scores", pytest.param("pictures", marks=pytest.mark.slow), "questions"]
)
def test_what_is_loaded_predicts_the_same(model, tmp_path, name):
    tuned = tuned_for(model, ABOUT[name])
    tuned.save_pretrained(tmp_path / "tuned")
    loaded = FineTuned.from_pretrained(tmp_path / "tuned")
    assert loaded.about == ABOUT[name]
    outputs = tuned.outputs(**GIVEN[name])
    assert torch.equal(loaded.outputs(**GIVEN[name]), outputs)
    predicted = loaded.predict(**GIVEN[name])
    assert predicted == tuned.predict(**GIVEN[name])
    assert len(predicted) == len(outputs)
    if name == "scores":
        assert predicted == pytest.approx((2 + 3 * outputs[:, 0]).tolist())
    assert not torch.equal(outputs[0], outputs[1])
    # The tower by itself is a model as others.
    assert Clippo.from_pretrained(tmp_path / "tuned").weights_sha256() == model.weights_sha256()


def test_pairs_are_joined_as_in_training(model):
    tuned = tuned_for(model, ABOUT["texts"])
    assert torch.equal(tuned.outputs([("a", "b")]), tuned.outputs(["a [SEP] b"]))
    assert tuned.predict([]) == []


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("texts", {"pictures": PICTURES}, "takes texts"),
        ("texts", {}, "takes texts"),
        ("pictures", {"texts": ["a"]}, "takes pictures"),
        ("questions", {"texts": ["a"]}, "takes texts and pictures"),
        ("questions", {"texts": ["a"], "pictures": PICTURES}, "texts must be as many as pictures, 4, got 1"),
    ],
)
def test_other_input_is_refused(model, name, given, message):
    with pytest.raises(UserError, match=message):
        tuned_for(model, ABOUT[name]).predict(**given)


def test_questions_need_a_model_that_reads_pixels():
    model = Clippo(ClippoConfig(**SIZES, text=ByteTextConfig()))
    with pytest.raises(UserError, match="it reads bytes"):
        FineTuned(model, ABOUT["questions"])
    assert FineTuned(model, ABOUT["texts"]).predict(["a"]) == ["no"]


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("head.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-1]), "damaged"),
        ("head.json", lambda path: path.write_text("{}"), "damaged"),
        ("head.json", lambda path: path.unlink(), "missing"),
        ("model.safetensors", lambda path: path.unlink(), "missing"),
    ],
)
def test_damaged_files_are_refused(model, tmp_path, file, damage, message):
    tuned_for(model, ABOUT["texts"]).save_pretrained(tmp_path)
    damage(tmp_path / file)
    with pytest.raises(UserError, match=f"cannot read a fine-tuned model from .*{message}"):
        FineTuned.from_pretrained(tmp_path)


def test_a_head_of_another_kind_is_refused(model, tmp_path):
    tuned_for(model, ABOUT["texts"]).save_pretrained(tmp_path)
    (tmp_path / "manifest.json").unlink()
    about = json.loads((tmp_path / "head.json").read_text())
    (tmp_path / "head.json").write_text(json.dumps({**about, "reads": "minds"}))
    with pytest.raises(UserError, match="reads must be one of texts, pictures, questions, got 'minds'"):
        FineTuned.from_pretrained(tmp_path)
    about["objective"]["classes"] = ["one", "two"]
    (tmp_path / "head.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="does not fit head.json"):
        FineTuned.from_pretrained(tmp_path)


def test_a_model_without_a_head_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="there is no .*head.json"):
        FineTuned.from_pretrained(tmp_path)
