import numpy as np
import pytest
from PIL import Image

from clippo.evaluation import suite
from clippo.evaluation.base import Evaluator
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
