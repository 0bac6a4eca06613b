"""Suites of evaluators: run them on a model, keep and print the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clippo.data.base import SourceConfig
from clippo.data.transform import TransformConfig
from clippo.evaluation.base import Estimate, Evaluator, EvaluatorConfig
from clippo.files import atomic_path
from clippo.model import Clippo
from clippo.results import Row, provenance, write_results

__all__ = ["build", "evaluate", "report", "table"]

RESULTS_FILE = "results.json"
MAX_LINES = 24  # of an evaluator in `table`; one of a hundred languages has hundreds


def build(
    configs: Mapping[str, EvaluatorConfig], data: SourceConfig, transform: TransformConfig, image_size: int
) -> dict[str, Evaluator]:
    """Make evaluators by name; see `EvaluatorConfig.build` for the other arguments."""
    return {name: config.build(data, transform, image_size) for name, config in configs.items()}


def evaluate(model: Clippo, evaluators: Mapping[str, Evaluator]) -> list[Row]:
    """Run the evaluators by name.

    Returns:
        A row of "evaluator", "metric" and "value" for each metric, and "low" and "high" of an `Estimate`.
    """
    was_training = model.training
    model.eval()
    rows = []
    for name, evaluator in tqdm(evaluators.items(), desc="evaluate", unit="evaluator", leave=False):
        metrics = evaluator(model)
        rows += [row(name, metric, value) for metric, value in metrics.items()]
    model.train(was_training)
    return rows


def row(evaluator: str, metric: str, value: float) -> Row:
    found: Row = {"evaluator": evaluator, "metric": metric, "value": float(value)}
    if isinstance(value, Estimate):
        found |= {"low": value.low, "high": value.high}
    return found


def report(
    folder: Path, rows: Sequence[Row], model: Clippo, evaluators: Mapping[str, Evaluator], **about: Any
) -> list[Path]:
    """Write `results.json`, and a picture an evaluator that has one, into a folder.

    Args:
        folder: where to write.
        rows: what `evaluate` gave.
        model, evaluators: as of `evaluate`.
        about: joins the provenance of the results, such as the number of steps.

    Returns:
        The files.
    """
    files = [folder / RESULTS_FILE]
    data = {name: evaluator.fingerprint for name, evaluator in evaluators.items()}
    write_results(files[0], provenance(**about, data=data), rows)
    for name, evaluator in evaluators.items():
        picture = evaluator.picture(model)
        if picture is not None:
            files.append(folder / f"{name}.png")
            with atomic_path(files[-1]) as path:
                picture.save(path)
    return files


def table(rows: Sequence[Row]) -> str:
    """Format rows as text: a block for each evaluator.

    A line has all metrics whose names differ only in their last part, which is the column. Of an evaluator
    with many lines the first are shown.
    """
    lines: list[str] = []
    for evaluator in dict.fromkeys(row["evaluator"] for row in rows):
        own = {row["metric"]: row["value"] for row in rows if row["evaluator"] == evaluator}
        split = {metric: metric.rpartition("/") for metric in own}
        columns = list(dict.fromkeys(last for _, _, last in split.values()))
        firsts = list(dict.fromkeys(first for first, _, _ in split.values()))
        width = max(map(len, [evaluator, *firsts]))
        lines += ["", f"{evaluator:<{width}}" + "".join(f"{column:>10}" for column in columns)]
        for first in firsts[:MAX_LINES]:
            values = (own.get(f"{first}/{column}" if first else column) for column in columns)
            cells = "".join(f"{'':>10}" if value is None else f"{value:>10.2f}" for value in values)
            lines.append(f"{first:<{width}}{cells}")
        if len(firsts) > MAX_LINES:
            lines.append(f"... and {len(firsts) - MAX_LINES} more, in {RESULTS_FILE}")
    return "\n".join(lines[1:])
