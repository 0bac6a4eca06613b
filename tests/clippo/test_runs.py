"""`clippo runs`, on copies of a finished run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from clippo.cli import main
from clippo.cli.runs import folded, rounded, table, width_of
from clippo.data.emoji import EmojiConfig
from clippo.data.folder import FolderConfig
from clippo.files import write_text
from clippo.model.configs import to_dict
from clippo.training.run_folder import RunFolder


@pytest.fixture
def runs(finished, tmp_path, monkeypatch) -> Path:
    """A folder with a finished run, one of another rate that was cut off, and one that never started."""
    monkeypatch.setenv("COLUMNS", "140")
    folder = tmp_path / "runs"
    config = RunFolder(finished).config()
    for name, changes, kept in (("a", {}, 4), ("b", {"learning_rate": 0.5, "seed": 3}, 2), ("c", {}, 0)):
        shutil.copytree(finished, folder / name, ignore=shutil.ignore_patterns("checkpoints"))
        write_text(folder / name / "config.json", json.dumps(to_dict(replace(config, **changes))))
        for file in ("metrics.jsonl", "evaluations.jsonl"):
            lines = (folder / name / file).read_text().splitlines(keepends=True)
            (folder / name / file).write_text(
                "".join(lines[: kept if file == "metrics.jsonl" else kept // 2])
            )
    return folder


def shown(capsys, *arguments: object) -> str:
    main(["runs", *map(str, arguments)])
    return capsys.readouterr().out


def test_a_line_has_a_run_with_what_differs(runs, capsys):
    (runs / "notes").mkdir()
    (runs / "notes.txt").write_text("no run")
    evaluations = [json.loads(line) for line in (runs / "a/evaluations.jsonl").read_text().splitlines()]
    values = [line["held_out/mean/text_to_image/R@10"] for line in evaluations]
    metrics = json.loads((runs / "a/metrics.jsonl").read_text().splitlines()[-1])
    lines = [line.split("  ") for line in shown(capsys, runs).splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells[0] == ["run", "state", "loss", "best", "last", "pairs/s", "hours", "learning_rate", "seed"]
    assert cells[1] == [
        "a", "finished", rounded(metrics["loss"]), rounded(max(values)), rounded(values[-1]),
        rounded(metrics["pairs_per_s"]), "0.00", "0.003", "0",
    ]  # fmt: skip
    assert cells[2][:2] == ["b", "at step 10 of 20"]
    assert cells[2][-2:] == ["0.5", "3"]
    assert cells[3] == ["c", "never started", "-", "-", "-", "-", "0.00", "0.003", "0"]
    assert cells[5] == ["best, last: held_out/mean/text_to_image/R@10, at its highest and at the end"]
    assert len(cells) == 6


def test_a_run_stands_for_itself_and_once(runs, capsys):
    out = shown(capsys, runs / "b", runs, runs / "b" / "..")
    assert [line.split()[0] for line in out.splitlines()[1:4]] == ["b", "a", "c"]
    assert "seed" not in shown(capsys, runs / "a", runs / "c")


def test_the_folder_runs_is_the_default(runs, capsys, monkeypatch):
    monkeypatch.chdir(runs.parent)
    assert shown(capsys) == shown(capsys, "runs")


def test_a_terminal_that_is_narrow_gets_two_tables(runs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "75")
    out = shown(capsys, runs)
    assert max(map(len, out.splitlines())) <= 75
    _, parameters, _ = out.split("\n\n")
    assert [line.split() for line in parameters.splitlines()] == [
        ["run", "a", "b", "c"], ["learning_rate", "0.003", "0.5", "0.003"], ["seed", "0", "3", "0"],
    ]  # fmt: skip


def test_parts_of_other_types_are_compared_by_their_types(runs, capsys):
    config = RunFolder(runs / "b").config()
    other = replace(config, data=FolderConfig(path="x"), evaluators={}, trackers=("wandb",))
    write_text(runs / "b/config.json", json.dumps(to_dict(other)))
    write_text(
        runs / "c/config.json",
        json.dumps(to_dict(replace(config, data=EmojiConfig(languages=("en",)), evaluators={}))),
    )
    described = json.loads(shown(capsys, runs, "--json"))
    assert described[0]["parameters"] == {
        "data.type": "emoji", "evaluators.held_out.type": "retrieval", "learning_rate": 0.003, "seed": 0,
    }  # fmt: skip
    assert described[1]["parameters"] == {
        "data.type": "folder", "learning_rate": 0.5, "seed": 3, "trackers": ["wandb"],
    }  # fmt: skip
    assert json.loads(shown(capsys, runs / "a", runs / "c", "--json"))[1]["parameters"]["data.languages"] == [
        "en"
    ]


def test_json_has_all_metrics_and_no_nan(runs, capsys):
    with (runs / "b/metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "loss": NaN, "pairs_per_s": 5}\n')
    a, b, c = json.loads(
        shown(capsys, runs, "--json"), parse_constant=lambda name: pytest.fail(f"{name} is no JSON")
    )
    assert (a["name"], a["path"], a["state"]) == ("a", str(runs / "a"), "finished")
    last = json.loads((runs / "a/evaluations.jsonl").read_text().splitlines()[-1])
    assert a["evaluations"].keys() == {name for name in last if name != "step" and "chance" not in name}
    assert a["evaluations"]["held_out/en/text_to_image/R@5"]["last"] == last["held_out/en/text_to_image/R@5"]
    assert (b["loss"], b["pairs_per_s"], b["state"]) == (None, 5, "at step 11 of 20")
    assert (c["loss"], c["evaluations"], c["hours"]) == (None, {}, 0)


def test_damaged_runs_are_listed_with_what_is_wrong(runs, capsys):
    (runs / "a/config.json").write_text('{"steps": \x1b[2J')
    (runs / "b/config.json").unlink()
    with (runs / "b/metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "lo')
    out = shown(capsys, runs)
    lines = out.splitlines()
    assert lines[1].startswith("a    at step 20  ")
    assert lines[2].startswith("b    at step 10  ")
    assert lines[3].startswith("c    never started")
    [a] = [line for line in lines if line.startswith("a: ")]
    assert "config.json is not the configuration of a run" in a
    [b] = [line for line in lines if line.startswith("b: ")]
    assert b.endswith("it has no config.json; 1 damaged line in metrics.jsonl")
    assert "\x1b" not in out


def test_the_curves_of_all_are_drawn(runs, capsys):
    plot = runs.parent / "curves.png"
    assert "never started" in shown(capsys, runs, "--plot", plot)
    with Image.open(plot) as picture:
        assert picture.size == (1200, 800)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (0.0, "0"), (0.01234, "0.0123"), (4.561, "4.56"), (78.91, "78.9"), (1234.5, "1,234"),
        (-0.5, "-0.500"), (float("nan"), "nan"), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value, text):
    assert rounded(value) == text


def test_tables_are_folded():
    rows = [["run", "aaaa", "bbbb", "cccc"], ["x", "1", "2", "three"]]
    assert table(rows) == ["run  aaaa  bbbb  cccc", "x       1     2  three"]
    assert width_of(rows) == 22
    assert folded(rows, 22) == table(rows)
    assert folded(rows, 21) == ["run  aaaa  bbbb", "x       1     2", "", "run  cccc", "x    three"]
    assert folded(rows, 1)[:2] == ["run  aaaa", "x       1"]
