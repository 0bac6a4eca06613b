"""All tasks of GLUE (arXiv 1804.07461) by one command, and their average."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clippo.errors import UserError
from clippo.evaluation.base import Estimate
from clippo.evaluation.glue import average
from clippo.evaluation.text_tasks import GLUE
from clippo.finetuning.sweep import SweepConfig, SweepResult, sweep
from clippo.finetuning.tasks import Task
from clippo.model import Clippo
from clippo.results import Row, provenance, write_results

__all__ = ["GlueResult", "finetune_glue"]


@dataclass(frozen=True)
class GlueResult:
    """Results of the tasks.

    Attributes:
        rows: of all tasks and, where all eight are there, "average".
        missing: the tasks that are not there, and why.
        files: what was written.
    """

    rows: list[Row]
    missing: Mapping[str, str]
    files: list[Path]


def finetune_glue(
    model: Clippo, load: Callable[[str], Task], config: SweepConfig, out: Path, **about: Any
) -> GlueResult:
    """Fine-tune a model for each task of GLUE that is there, each into a folder of its own below `out`.

    The average is that of nine main metrics, as the two sets of MNLI count by themselves. What is known is
    kept after each task.

    Args:
        model: is not changed.
        load: reads the task of a name, such as "glue/cola".
        config: as of `sweep`.
        out: the folder.
        about: joins the provenance of the results.

    Raises:
        UserError: none of the tasks is there; see also `sweep`.
    """
    tasks: dict[str, Task] = {}
    missing: dict[str, str] = {}
    for name in GLUE:
        try:
            tasks[name] = load(f"glue/{name}")
        except UserError as error:
            missing[name] = str(error)
    if not tasks:
        raise UserError(f"no task of GLUE is there: {next(iter(missing.values()))}")
    for name, reason in missing.items():
        print(f"left out: {name}: {reason}")
    rows: list[Row] = []
    results: dict[str, SweepResult] = {}
    file = out / "results.json"
    left_out = [{"task": name, "reason": reason} for name, reason in missing.items()]
    for name, task in tasks.items():
        results[name] = sweep(model, task, config, out / name, **about)
        rows += results[name].rows
        chosen = {name: result.learning_rate for name, result in results.items()}
        if set(results) == set(GLUE):
            rows.append(average_row(results))
        write_results(file, provenance(**about, learning_rates=chosen), rows, missing=left_out)
    return GlueResult(rows, missing, [file])


def average_row(results: Mapping[str, SweepResult]) -> Row:
    """The mean of the main metrics with its interval."""
    found, guessing = [], []
    for name, result in results.items():
        main = GLUE[name].metrics[0]
        for row in result.rows:
            if row["metric"].rpartition("/")[2] == main:
                found.append(Estimate(row["value"], row["low"], row["high"]))
                guessing.append(row["guessing"])
    mean = average(found)
    return {
        "evaluator": "glue", "metric": "average", "value": float(mean), "low": mean.low, "high": mean.high,
        "guessing": sum(guessing) / len(guessing),
    }  # fmt: skip
