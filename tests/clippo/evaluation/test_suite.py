import json

import numpy as np
import pytest
from PIL import Image

from clippo.data.emoji import EmojiConfig
from clippo.data.transform import PlaceConfig
from clippo.errors import UserError
from clippo.evaluation import suite
from clippo.evaluation.base import Estimate, Evaluator
from clippo.evaluation.suites import find_suite, suite_names
from clippo.model import create_model
from clippo.results import read_results


class Parameters(Evaluator):
    """Counts parameters, and remembers whether the model was in evaluation mode."""

    def __call__(self, model):
        self.was_training = model.training
        return {
            "all": float(sum(p.numel() for p in model.parameters())),
            "by/kind/matrices": 3.0,
            "by/kind/x": 1,
        }


class Drawn(Evaluator):
    def __call__(self, model):
        return {"R@1": 50.0}

    def picture(self, model):
        return Image.fromarray(np.zeros((4, 4), np.uint8))


@pytest.fixture
def model():
    return create_model("clippo-mu16", image_size=32, embed_dim=8).train()


def test_results_are_rows_a_table_and_files(model, tmp_path):
    evaluators = {"size": Parameters(), "drawn": Drawn()}
    rows = suite.evaluate(model, evaluators)
    assert evaluators["size"].was_training is False
    assert model.training
    count = sum(p.numel() for p in model.parameters())
    assert rows[0] == {"evaluator": "size", "metric": "all", "value": count}
    assert rows[-1] == {"evaluator": "drawn", "metric": "R@1", "value": 50.0}

    files = suite.report(tmp_path, rows, model, evaluators, step=7)
    assert [file.name for file in files] == ["results.json", "drawn.png"]
    results = read_results(files[0])
    assert results.rows == rows
    assert results.provenance["step"] == 7
    assert "torch" in results.provenance

    assert [line.split() for line in suite.table(rows).splitlines()] == [
        ["size", "all", "matrices", "x"],
        [f"{count:.2f}"],
        ["by/kind", "3.00", "1.00"],
        [],
        ["drawn", "R@1"],
        ["50.00"],
    ]


def test_a_table_of_many_lines_shows_the_first():
    rows = [{"evaluator": "recall", "metric": f"l{i}/R@1", "value": i} for i in range(100)]
    lines = suite.table(rows).splitlines()
    assert len(lines) == 1 + 24 + 1
    assert lines[-1] == "... and 76 more, in results.json"


class Guess(Evaluator):
    headline = {"top-1": "chance/top-1", "absent": ""}  # noqa: RUF012
    fingerprint = "abc"

    def __call__(self, model):
        return {"chance/top-1": 10.0, "top-1": Estimate(25.0, 20.0, 31.0), "more": 1.0}


class Config:
    """Builds an evaluator, or says that its data are not there."""

    def __init__(self, evaluator):
        self.evaluator = evaluator

    def build(self, data, transform, image_size):
        if self.evaluator is None:
            raise UserError("there is no folder data/imagenet")
        return self.evaluator


def test_what_is_there_is_measured_and_kept_after_each(model, tmp_path, monkeypatch):
    class Fails(Evaluator):
        def __call__(self, model):
            raise RuntimeError("the third fails")

    about = (EmojiConfig(), PlaceConfig(), tmp_path)
    configs = {"guess": Config(Guess()), "drawn": Config(Drawn()), "gone": Config(None)}
    measured = suite.measure(model, configs, *about, title="a title", skip_missing=True, source="x")
    assert measured.missing == {"gone": "there is no folder data/imagenet"}
    assert [path.name for path in measured.files] == [
        "results.json",
        "drawn.png",
        "summary.md",
        "summary.png",
    ]
    assert all(path.stat().st_size for path in measured.files)
    results = read_results(tmp_path / "results.json")
    assert results.rows == measured.rows
    assert results.rows[1] == {
        "evaluator": "guess", "metric": "top-1", "value": 25.0, "low": 20.0, "high": 31.0,
    }  # fmt: skip
    assert results.provenance["data"] == {"guess": "abc", "drawn": ""}
    assert results.provenance["seconds"].keys() == {"guess", "drawn"}
    assert (tmp_path / "summary.md").read_text().splitlines()[2:] == [
        "| guess | top-1 | 25.0 | 20.0 to 31.0 | 10.0 |",
        "| drawn | R@1 | 50.0 |  |  |",
    ]
    left_out = json.loads((tmp_path / "results.json").read_text())["missing"]
    assert left_out == [{"evaluator": "gone", "reason": "there is no folder data/imagenet"}]
    with pytest.raises(UserError, match="there is no folder data/imagenet"):
        suite.measure(model, configs, *about, title="")
    with pytest.raises(RuntimeError):
        suite.measure(model, {"guess": Config(Guess()), "fails": Config(Fails())}, *about, title="")
    assert len(read_results(tmp_path / "results.json").rows) == 3  # of the first


class Unreadable(Evaluator):
    def __call__(self, model):
        raise UserError("none of 8 examples can be read")


def test_what_cannot_be_measured_is_listed(model, tmp_path):
    about = (EmojiConfig(), PlaceConfig(), tmp_path / "out")
    configs = {"bad": Config(Unreadable()), "gone": Config(None)}
    reasons = {"bad": "none of 8 examples can be read", "gone": "there is no folder data/imagenet"}
    measured = suite.measure(model, configs, *about, title="", skip_missing=True)
    assert (measured.missing, measured.rows, measured.files) == (reasons, [], [])
    assert not (tmp_path / "out").exists()
    suite.measure(model, {"guess": Config(Guess()), **configs}, *about, title="", skip_missing=True)
    listed = json.loads((tmp_path / "out" / "results.json").read_text())["missing"]
    assert {row["evaluator"]: row["reason"] for row in listed} == reasons
    with pytest.raises(UserError, match="none of 8 examples can be read"):
        suite.measure(model, configs, *about, title="")


def test_suites_are_found_by_their_names(tmp_path):
    assert suite_names() == ["claims", "miniature", "paper"]
    for name in suite_names():
        assert len(find_suite(name, tmp_path)) > 10
    with pytest.raises(UserError, match="suite must be one of claims, miniature, paper; got 'mine'"):
        find_suite("mine", tmp_path)
