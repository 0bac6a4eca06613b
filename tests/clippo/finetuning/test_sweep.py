"""A sweep chooses on the examples for that, keeps what has ended, and goes on where it was cut off."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from clippo.errors import UserError
from clippo.finetuning import sweep as module
from clippo.finetuning.fine_tuned import FineTuned
from clippo.finetuning.sweep import SweepConfig, default_learning_rates, sweep
from clippo.finetuning.trainer import FinetuneConfig
from clippo.results import read_results
from clippo.training.run_folder import RunFolder

RUN = FinetuneConfig(freeze=True, max_steps=12)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Draw nothing, which takes half a second a run; one test does."""
    monkeypatch.setattr(module, "draw_curves", lambda runs, task, metric: Image.new("RGB", (1, 1)))
    monkeypatch.setattr(module, "draw_confusions", lambda tuned, task, folder: None)


def result(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.mark.slow
def test_a_sweep_chooses_by_dev_and_reports_the_mean_of_its_tests(model, easy, tmp_path):
    config = SweepConfig(learning_rates=(1e-5, 3e-3), seeds=2, run=RUN)
    swept = sweep(model, easy, config, tmp_path / "out", source="tiny")
    runs = {(r, s): result(tmp_path / f"out/lr-{r:g}-seed-{s}") for r in (1e-5, 3e-3) for s in (0, 1)}
    dev = {
        rate: np.mean([runs[rate, seed]["dev"]["accuracy"]["value"] for seed in (0, 1)])
        for rate in (1e-5, 3e-3)
    }
    assert dev[3e-3] > dev[1e-5]
    assert swept.learning_rate == 3e-3
    [accuracy] = swept.rows
    tests = [runs[3e-3, seed]["tests"][""]["accuracy"] for seed in (0, 1)]
    assert accuracy["value"] == pytest.approx(np.mean([test["value"] for test in tests]))
    assert accuracy["runs"] == 2
    # Student's t of one degree of freedom
    half = 12.706 * np.std([test["value"] for test in tests], ddof=1) / 2**0.5
    assert accuracy["high"] - accuracy["value"] == pytest.approx(half)
    assert accuracy["guessing"] == tests[0]["guessing"]
    written = read_results(tmp_path / "out/results.json")
    assert written.rows == swept.rows
    assert written.provenance["learning_rate"] == 3e-3
    assert written.provenance["source"] == "tiny"

    # The model with the best dev metric of all runs is kept, and predicts what was measured.
    best = max(runs, key=lambda key: runs[key]["dev"]["accuracy"]["value"])
    [kept] = (tmp_path / "out").glob("lr-*/model")
    assert kept == swept.model.resolve() == (tmp_path / f"out/lr-{best[0]:g}-seed-{best[1]}/model").resolve()
    tuned, test = FineTuned.from_pretrained(swept.model), easy.tests[""]
    found = np.array(tuned.predict(test.inputs.strings)) == np.array(["wide", "narrow"])[test.targets]
    assert 100 * found.mean() == pytest.approx(runs[best]["tests"][""]["accuracy"]["value"])


def test_runs_that_have_ended_are_not_done_again(model, easy, tmp_path, capsys):
    sweep(model, easy, SweepConfig(learning_rates=(1e-3,), run=RUN), tmp_path / "out")
    first = tmp_path / "out/lr-0.001-seed-0/metrics.jsonl"
    before = first.stat().st_mtime_ns, first.read_text()
    # One that was cut off has no result.json.
    cut = tmp_path / "out/lr-0.001-seed-1"
    cut.mkdir()
    (cut / "metrics.jsonl").write_text('{"step": 1, "loss": 9')
    capsys.readouterr()
    swept = sweep(model, easy, SweepConfig(learning_rates=(1e-3,), seeds=2, run=RUN), tmp_path / "out")
    said = capsys.readouterr().out
    assert "run 1 of 2, learning rate 0.001, seed 0 is there already" in said
    assert (first.stat().st_mtime_ns, first.read_text()) == before
    assert (cut / "metrics.jsonl").read_text().count("\n") == 12
    assert swept.rows[0]["runs"] == 2
    with pytest.raises(UserError, match="another configuration: run.max_steps is 12 there and 13 here"):
        sweep(
            model, easy, SweepConfig(learning_rates=(1e-3,), run=replace(RUN, max_steps=13)), tmp_path / "out"
        )
    other = replace(easy, fingerprint="other")
    with pytest.raises(UserError, match="another configuration: data is"):
        sweep(model, other, SweepConfig(learning_rates=(1e-3,), run=RUN), tmp_path / "out")


@pytest.mark.slow
def test_a_rate_that_diverges_is_not_chosen(model, easy, tmp_path):
    config = SweepConfig(learning_rates=(1e30, 1e-3), run=RUN)
    swept = sweep(model, easy, config, tmp_path / "out")
    assert "not finite" in result(tmp_path / "out/lr-1e+30-seed-0")["diverged"]
    assert swept.learning_rate == 1e-3
    with pytest.raises(UserError, match="no learning rate was without a loss that is not finite"):
        sweep(model, easy, replace(config, learning_rates=(1e30,)), tmp_path / "other")


@pytest.mark.slow
def test_a_model_that_somebody_has_removed_is_missed(model, easy, tmp_path):
    config = SweepConfig(learning_rates=(1e-3,), run=RUN)
    sweep(model, easy, config, tmp_path / "out")
    shutil.rmtree(tmp_path / "out/lr-0.001-seed-0/model")
    with pytest.raises(UserError, match="is gone: remove the folder"):
        sweep(model, easy, config, tmp_path / "out")


def test_one_process_at_a_time(model, easy, tmp_path, monkeypatch):
    config = SweepConfig(learning_rates=(1e-3,), run=RUN)
    with RunFolder(tmp_path / "out").locked(), pytest.raises(UserError, match="another process is training"):
        sweep(model, easy, config, tmp_path / "out")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="takes one process, and torchrun has started 2"):
        sweep(model, easy, config, tmp_path / "out")


def test_a_folder_with_something_else_is_left_alone(model, easy, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no fine-tuning"):
        sweep(model, easy, SweepConfig(learning_rates=(1e-3,), run=RUN), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_pictures_of_a_sweep(model, easy, tmp_path, monkeypatch):
    monkeypatch.undo()
    sweep(model, easy, SweepConfig(learning_rates=(1e-3,), run=RUN), tmp_path / "out")
    assert (tmp_path / "out/curves.png").is_file()
    assert (tmp_path / "out/lr-0.001-seed-0/confusion.png").is_file()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rates": ()}, "learning_rates must be one or more"),
        ({"learning_rates": (1e-3, 1e-3)}, "all different"),
        ({"learning_rates": (1e-3, 1.0000001e-3)}, "all different, got 0.001 0.001"),
        ({"learning_rates": (-1.0,)}, "learning_rate must be finite and above 0"),
        ({"learning_rates": (1e-3,), "seeds": 0}, "seeds must be at least 1"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        SweepConfig(**values)


def test_default_learning_rates_are_those_of_bert_for_its_width():
    assert default_learning_rates(768) == (5e-5, 4e-5, 3e-5, 2e-5)
    assert default_learning_rates(96) == (4e-4, 3.2e-4, 2.4e-4, 1.6e-4)
    assert default_learning_rates(96, freeze=True) == (1e-3,)
