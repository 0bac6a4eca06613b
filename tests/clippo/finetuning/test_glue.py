"""All tasks of GLUE by one call: nine numbers, their average, and what is not there."""

import shutil

import numpy as np
import pytest
from PIL import Image

from clippo.data.transform import SquashConfig
from clippo.errors import UserError
from clippo.evaluation.text_tasks import GLUE
from clippo.finetuning import sweep as module
from clippo.finetuning.glue import finetune_glue
from clippo.finetuning.sweep import SweepConfig
from clippo.finetuning.tasks import load_named_task
from clippo.finetuning.trainer import FinetuneConfig
from clippo.results import read_results
from tests.clippo.evaluation.conftest import write_glue

CONFIG = SweepConfig(learning_rates=(1e-3,), run=FinetuneConfig(freeze=True, max_steps=2))
MAIN = {"cola": "matthews", "mrpc": "f1", "qqp": "f1", "stsb": "spearman"}


@pytest.fixture
def glue(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "draw_curves", lambda runs, task, metric: Image.new("RGB", (1, 1)))
    monkeypatch.setattr(module, "draw_confusions", lambda tuned, task, folder: None)
    return write_glue(tmp_path / "glue")


def loader(root):
    return lambda name: load_named_task(name, root=str(root), transform=SquashConfig(), image_size=48)


@pytest.mark.slow
def test_nine_numbers_and_their_average(model, glue, tmp_path):
    result = finetune_glue(model, loader(glue), CONFIG, tmp_path / "out", source="tiny")
    assert result.missing == {}
    *rows, average = result.rows
    main = [
        row["value"]
        for row in rows
        if row["metric"].rpartition("/")[2] == MAIN.get(row["evaluator"].removeprefix("glue/"), "accuracy")
    ]
    assert len(main) == 9
    assert (average["evaluator"], average["metric"]) == ("glue", "average")
    assert average["value"] == pytest.approx(np.mean(main))
    assert average["low"] < average["value"] < average["high"]
    assert {row["metric"] for row in rows if row["evaluator"] == "glue/mnli"} == {
        "matched/accuracy", "mismatched/accuracy",
    }  # fmt: skip
    written = read_results(tmp_path / "out/results.json")
    assert written.rows == result.rows
    assert written.provenance["learning_rates"] == dict.fromkeys(GLUE, 1e-3)
    assert (tmp_path / "out/cola/model/head.json").is_file()


@pytest.mark.slow
def test_tasks_that_are_not_there_are_listed(model, glue, tmp_path, capsys):
    for folder in ("CoLA", "MNLI", "QQP", "QNLI", "SST-2", "STS-B"):
        shutil.rmtree(glue / folder)
    result = finetune_glue(model, loader(glue), CONFIG, tmp_path / "out")
    assert {row["evaluator"] for row in result.rows} == {"glue/mrpc", "glue/rte"}
    assert set(result.missing) == {*GLUE} - {"mrpc", "rte"}
    assert "left out: cola: there is neither" in capsys.readouterr().out


def test_a_folder_without_glue_is_refused(model, tmp_path):
    with pytest.raises(UserError, match="no task of GLUE is there: there is neither"):
        finetune_glue(model, loader(tmp_path / "nowhere"), CONFIG, tmp_path / "out")
    assert not (tmp_path / "out").exists()
