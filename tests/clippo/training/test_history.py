import json
import os

import pytest

from clippo.training.history import headlines, read_histories
from clippo.training.run_folder import RunFolder


def history_of(folder, metrics=(), evaluations=()):
    """What is read of a run that has written these lines, of JSON or text."""
    folder.mkdir(exist_ok=True)
    for name, lines in (("metrics", metrics), ("evaluations", evaluations)):
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (folder / f"{name}.jsonl").write_text("\n".join(texts))
    [history] = read_histories([RunFolder(folder)])
    return history


def test_lines_that_are_damaged_are_left_out_and_counted(tmp_path):
    broken = (
        "", "{", "null", "[1]", '{"loss": 1}', '{"step": "1"}', '{"step": true}', '{"step": NaN}',
        '{"step": -1}', '{"step": 5, "loss": 1' + "0" * 400 + "}", "[" * 10_000,
    )  # fmt: skip
    lines = [{"step": 1, "loss": 3.0, "note": "x", "none": None}, *broken, '{"step": 2, "loss": NaN}']
    history = history_of(tmp_path / "run", [*lines, '{"step": 3, "lo'])
    assert history.metrics[0] == {"step": 1, "loss": 3.0}
    assert [line["step"] for line in history.metrics] == [1, 2]
    assert history.problems == [f"{len(broken) + 1} damaged lines in metrics.jsonl"]
    steps, values = history.series("loss")
    assert (steps, values[0], str(values[1])) == ([1, 2], 3.0, "nan")


def test_of_a_step_the_last_line_counts(tmp_path):
    history = history_of(tmp_path / "run", [{"step": s, "loss": i} for i, s in enumerate((1, 2, 3, 2))])
    assert history.series("loss") == ([1, 2, 3], [0, 3, 2])


def test_files_that_are_missing_are_empty_and_others_are_a_problem(tmp_path):
    [history] = read_histories([RunFolder(tmp_path / "none")])
    assert (history.name, history.metrics, history.evaluations, history.problems) == ("none", [], [], [])
    os.mkfifo(tmp_path / "metrics.jsonl")
    (tmp_path / "evaluations.jsonl").mkdir()
    [history] = read_histories([RunFolder(tmp_path)])
    assert history.problems == ["metrics.jsonl is not a file", "evaluations.jsonl is not a file"]


def test_each_process_of_a_run_counts_from_zero(tmp_path):
    """Three processes: to step 30, to step 50 and to step 60."""
    counted = [(10, 0, 900), (20, 2, 1800), (30, 2, 2700), (40, 1, 900), (50, 4, 1800), (60, 0, 900)]
    lines = [{"step": step, "skipped_steps": n, "elapsed_s": s} for step, n, s in counted]
    history = history_of(tmp_path / "run", lines)
    assert history.skipped() == [(20, 2), (40, 1), (50, 3)]
    assert history.hours() == (2700 + 1800 + 900) / 3600
    assert history_of(tmp_path / "other", [{"step": 1}]).hours() == 0
    assert history_of(tmp_path / "odd", [{"step": 1, "skipped_steps": float("inf")}]).skipped() == []


def test_runs_are_named_by_what_tells_them_apart(tmp_path):
    paths = [tmp_path / "a" / "emoji", tmp_path / "b" / "emoji", tmp_path / "b" / "own"]
    assert [history.name for history in read_histories([RunFolder(path) for path in paths])] == [
        "a/emoji", "b/emoji", "own",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], []),
        (["loss"], []),
        (
            [
                "trained/chance/R@10", "trained/en/text_to_image/R@10", "trained/mean/text_to_image/R@10",
                "held_out/mean/text_to_image/R@1", "held_out/mean/image_to_text/R@10",
            ],
            ["held_out/mean/text_to_image/R@1", "trained/mean/text_to_image/R@10"],
        ),
        (["gap/distance", "gap/other", "a/b/accuracy"], ["gap/distance", "a/b/accuracy"]),
    ],
)  # fmt: skip
def test_headlines_are_one_an_evaluator(tmp_path, names, expected):
    history = history_of(tmp_path / "run", evaluations=[{"step": 1, **dict.fromkeys(names, 1.0)}])
    assert headlines([history]) == expected
