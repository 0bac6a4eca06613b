import json
import warnings

import numpy as np
import pytest
from PIL import Image

from clippo.errors import UserError
from clippo.training.curves import draw, line_of, running_mean
from clippo.training.history import read_histories
from clippo.training.run_folder import RunFolder

SIZE = (1200, 800)
BLUE, ORANGE = (31, 119, 180), (255, 127, 14)  # of the first and the second run
PANELS = {"loss": (0, 0), "evaluation": (0, 1), "grad_norm": (0, 2), "pairs_per_s": (1, 1)}


def run_of(folder, steps=(20, 40, 60), **changed) -> RunFolder:
    folder.mkdir()
    lines = []
    for step in steps:
        line = {
            "step": step, "loss": 4 - step / 100, "grad_norm": 1.0, "learning_rate": 1e-3, "pairs_per_s": 700,
            "step_time": 0.1, "data_time": 0.01, "skipped_steps": 0,
        }  # fmt: skip
        lines.append(json.dumps({**line, **changed}))
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    return RunFolder(folder)


def evaluated(run: RunFolder, *values: float) -> RunFolder:
    lines = [
        {"step": 20 * i, "held_out/mean/text_to_image/R@10": value, "held_out/chance/R@10": 3.0}
        for i, value in enumerate(values, start=1)
    ]
    run.evaluations_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def pixels(file) -> np.ndarray:
    with Image.open(file) as picture:
        assert picture.size == SIZE
        return np.asarray(picture.convert("RGB"))


def inked(image: np.ndarray, panel: str, colour) -> int:
    """How many pixels of a panel have about a colour."""
    row, column = PANELS[panel]
    part = image[60 + 370 * row : 430 + 370 * row, 400 * column : 400 * (column + 1)].astype(int)
    return int((np.abs(part - colour).max(-1) < 12).sum())


@pytest.mark.slow
def test_each_run_has_a_colour_in_each_panel(tmp_path):
    first = evaluated(run_of(tmp_path / "first"), 5, 10, 20)
    second = evaluated(run_of(tmp_path / "second", loss=2.0, pairs_per_s=300, grad_norm=2.0), 4, 6, 8)
    draw([first], tmp_path / "one.png")
    draw([first, second], tmp_path / "two.png")
    one, two = pixels(tmp_path / "one.png"), pixels(tmp_path / "two.png")
    for panel in PANELS:
        assert inked(one, panel, BLUE) > 100
        assert inked(one, panel, ORANGE) == 0
        assert inked(two, panel, BLUE) > 100
        assert inked(two, panel, ORANGE) > 100


def test_a_finished_run_is_drawn(finished, tmp_path):
    draw([RunFolder(finished)], tmp_path / "curves.png")
    image = pixels(tmp_path / "curves.png")
    assert all(inked(image, panel, BLUE) > 100 for panel in PANELS)
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


@pytest.mark.slow
def test_skipped_steps_are_marked(tmp_path):
    """By crosses at the top of the panel of the loss, which is constant and so in the middle."""
    draw([run_of(tmp_path / "none", loss=1.0)], tmp_path / "none.png")
    draw([run_of(tmp_path / "some", loss=1.0, skipped_steps=2)], tmp_path / "some.png")
    none, some = (inked(pixels(tmp_path / f"{name}.png")[:120], "loss", BLUE) for name in ("none", "some"))
    assert (none, some > 10) == (0, True)


@pytest.mark.slow
def test_what_cannot_be_drawn_is_left_out(tmp_path):
    run = run_of(tmp_path / "run")
    odd = [float("nan"), float("inf"), 1e305, 2.0]
    with run.metrics_file.open("a") as file:
        file.writelines(f"\n{json.dumps({'step': 80 + i, 'loss': value})}" for i, value in enumerate(odd))
        file.write('\n{"step": 90, "lo')
    [history] = read_histories([run])
    steps, values = line_of(history, "loss")
    assert steps.tolist() == [20, 40, 60, 83]
    assert values[-1] == 2.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw([run], tmp_path / "curves.png")
    assert inked(pixels(tmp_path / "curves.png"), "loss", BLUE) > 100


@pytest.mark.slow
@pytest.mark.parametrize("steps", [(), (20,)])
def test_runs_that_have_hardly_begun(tmp_path, steps):
    """Nothing, or a dot."""
    draw([run_of(tmp_path / "run", steps), RunFolder(tmp_path / "nowhere")], tmp_path / "curves.png")
    assert (inked(pixels(tmp_path / "curves.png"), "loss", BLUE) > 20) == bool(steps)


@pytest.mark.slow
def test_names_that_matplotlib_would_take_for_something_else(tmp_path):
    names = ["_hidden", "lr=$x_1$", "$\\frac{", "写真", "x" * 200]
    runs = [run_of(tmp_path / name) for name in names]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(runs, tmp_path / "curves.png")
    legend = pixels(tmp_path / "curves.png")[:60].astype(int)
    assert (np.abs(legend - BLUE).max(-1) < 12).any()  # of the first name


@pytest.mark.slow
def test_many_runs(tmp_path):
    draw([run_of(tmp_path / f"{number}") for number in range(30)], tmp_path / "curves.png")
    pixels(tmp_path / "curves.png")


@pytest.mark.slow
def test_a_picture_that_cannot_be_written_is_named(tmp_path):
    run = run_of(tmp_path / "run")
    for name in ("none/curves.png", "curves.unknown"):
        with pytest.raises(UserError, match=f"cannot write the picture .*{name}"):
            draw([run], tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_running_mean_keeps_lines_and_smooths_the_rest():
    rng = np.random.default_rng(0)
    line = np.arange(200.0)
    np.testing.assert_allclose(running_mean(line)[5:-5], line[5:-5])
    assert running_mean(rng.normal(size=200)).std() < 0.5
    assert running_mean(np.array([3.0])).tolist() == [3.0]
    assert running_mean(np.empty(0)).tolist() == []
