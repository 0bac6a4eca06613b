"""What runs have written of themselves, read for people: metrics, evaluations, and what is damaged."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from clippo.training.run_folder import RunFolder

__all__ = ["History", "Record", "headlines", "read_histories"]

Record = dict[str, float]  # a line, with its "step"

# What a person looks at first, in this order, among the evaluators of a run and the metrics of each.
FIRST_EVALUATORS = ("held_out",)
FIRST_METRICS = ("mean/text_to_image/R@10", "mean/text_to_image/R@1")


@dataclass(frozen=True)
class History:
    """What a run has written of itself so far.

    Attributes:
        name: of its folder, with as many folders above it as tell it from the other runs.
        metrics: the lines of metrics.jsonl, by their steps.
        evaluations: the lines of evaluations.jsonl, by their steps.
        problems: what is wrong with the two files, in words.
    """

    name: str
    metrics: list[Record]
    evaluations: list[Record]
    problems: list[str]

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """The steps and the values of a metric of metrics.jsonl or evaluations.jsonl."""
        found = [(line["step"], line[name]) for line in self.metrics + self.evaluations if name in line]
        return [step for step, _ in found], [value for _, value in found]

    def skipped(self) -> list[tuple[float, int]]:
        """The steps of the lines before which steps were skipped, and how many since the line before.

        Each process of a run counts its own from zero.
        """
        steps, counts = self.series("skipped_steps")
        new = [now if now < before else now - before for before, now in pairwise([0.0, *counts])]
        return [(step, int(count)) for step, count in zip(steps, new, strict=True) if 0 < count < math.inf]

    def hours(self) -> float:
        """Hours of training, of all processes of the run, each of which counts from zero."""
        _, seconds = self.series("elapsed_s")
        return sum(now for now, after in pairwise([*seconds, 0.0]) if after < now) / 3600


def read_histories(runs: Sequence[RunFolder]) -> list[History]:
    """Read what runs have written; missing files are empty, and lines that are damaged are left out."""
    names = distinct_names([run.path for run in runs])
    return [read_history(run, name) for run, name in zip(runs, names, strict=True)]


def read_history(run: RunFolder, name: str) -> History:
    metrics, damaged_metrics = read_records(run.metrics_file)
    evaluations, damaged_evaluations = read_records(run.evaluations_file)
    return History(name, metrics, evaluations, [*damaged_metrics, *damaged_evaluations])


def read_records(file: Path) -> tuple[list[Record], list[str]]:
    """The lines of a file of metrics by their steps, of each step the last, and what is wrong with it."""
    if not file.is_file():
        return [], [f"{file.name} is not a file"] if os.path.lexists(file) else []
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return [], [f"cannot read {file.name}: {error.strerror}"]
    by_step: dict[float, Record] = {}
    num_damaged = 0
    for line in lines:
        record = read_record(line)
        if record is None:
            num_damaged += 1
        else:
            by_step[record["step"]] = record
    plural = "s" if num_damaged > 1 else ""
    problems = [f"{num_damaged} damaged line{plural} in {file.name}"] if num_damaged else []
    return [by_step[step] for step in sorted(by_step)], problems


def read_record(line: str) -> Record | None:
    """The numbers of a line, None for one that is damaged or was cut off."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not is_number(content.get("step")):
        return None
    try:
        record = {key: float(value) for key, value in content.items() if is_number(value)}
    except OverflowError:  # an integer of hundreds of digits
        return None
    return record if 0 <= record["step"] < math.inf else None


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def headlines(histories: Sequence[History]) -> list[str]:
    """Names of evaluation metrics that tell most of these runs: one an evaluator, held-out examples first.

    Of an evaluator it is the text->image recall at 10, the mean over the languages, or else what it lists
    first. What guessing reaches ("chance/...") is left out.
    """
    names = dict.fromkeys(name for run in histories for line in run.evaluations for name in line)
    by_evaluator: dict[str, list[str]] = {}
    for name in names:
        evaluator, _, metric = name.partition("/")
        if metric and "chance" not in metric.split("/"):
            by_evaluator.setdefault(evaluator, []).append(metric)
    ordered = sorted(by_evaluator, key=lambda evaluator: rank(evaluator, FIRST_EVALUATORS))
    return [
        f"{evaluator}/{min(by_evaluator[evaluator], key=lambda metric: rank(metric, FIRST_METRICS))}"
        for evaluator in ordered
    ]


def rank(name: str, first: Sequence[str]) -> int:
    return first.index(name) if name in first else len(first)


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of paths, as many of each as tell it from the others."""
    parts = [path.resolve().parts for path in paths]
    names = []
    for own in parts:
        length = 1
        while length < len(own) and sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        names.append("/".join(own[-length:]))
    return names
