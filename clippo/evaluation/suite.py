"""Suites of evaluators: run them on a model, keep and print the results."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clippo.data.base import SourceConfig
from clippo.data.transform import TransformConfig
from clippo.errors import UserError
from clippo.evaluation.base import Estimate, Evaluator, EvaluatorConfig
from clippo.evaluation.summary import chart, headlines, markdown
from clippo.files import atomic_path, write_text
from clippo.model import Clippo
from clippo.results import Row, provenance, write_results

__all__ = ["RESULTS_FILE", "Measured", "build", "evaluate", "measure", "report", "table"]

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
    bar = tqdm(
        evaluators.items(), desc="evaluate", unit="evaluator", leave=False, disable=len(evaluators) == 1
    )
    for name, evaluator in bar:
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
    return files + draw(model, evaluators, folder)


@dataclass(frozen=True)
class Measured:
    """Result of `measure`.

    Attributes:
        rows: as of `evaluate`.
        headlines: the rows that say most, see `clippo.evaluation.summary`.
        missing: evaluators that could not run, and why.
        files: what was written.
    """

    rows: list[Row]
    headlines: list[Row]
    missing: dict[str, str]
    files: list[Path]


def measure(
    model: Clippo,
    configs: Mapping[str, EvaluatorConfig],
    data: SourceConfig,
    transform: TransformConfig,
    folder: Path,
    *,
    title: str,
    skip_missing: bool = False,
    **about: Any,
) -> Measured:
    """Make evaluators one after the other, run each, and write what is known after each into a folder.

    The folder gets `results.json`, a picture an evaluator that has one, and `summary.md` and `summary.png`;
    nothing if no evaluator could run.

    Args:
        model: to be measured.
        configs: the evaluators by name.
        data, transform: as of `EvaluatorConfig.build`.
        folder: where to write.
        title: of the chart.
        skip_missing: leave out evaluators whose data are not there, or cannot be measured on.
        about: joins the provenance of the results.

    Raises:
        UserError: as of `EvaluatorConfig.build`, or from an evaluator.
    """
    rows: list[Row] = []
    missing: dict[str, str] = {}
    shown: dict[str, Mapping[str, str]] = {}
    fingerprints: dict[str, str] = {}
    seconds: dict[str, float] = {}
    results, *pictures = (folder / name for name in (RESULTS_FILE, "summary.md", "summary.png"))
    bar = tqdm(configs.items(), desc="evaluate", unit="evaluator", leave=False)
    for name, config in bar:
        bar.set_postfix_str(name)
        begun = time.perf_counter()
        try:
            evaluator = config.build(data, transform, model.config.image_size)
            rows += evaluate(model, {name: evaluator})
        except UserError as error:
            if not skip_missing:
                raise
            missing[name] = str(error)
        else:
            shown[name], fingerprints[name] = evaluator.headline, evaluator.fingerprint
            pictures = [*draw(model, {name: evaluator}, folder), *pictures]
            seconds[name] = round(time.perf_counter() - begun, 1)
        if rows:
            known = provenance(**about, data=fingerprints, seconds=seconds)
            left_out = [{"evaluator": name, "reason": reason} for name, reason in missing.items()]
            write_results(results, known, rows, missing=left_out)
    found = headlines(rows, shown)
    if found:
        write_text(folder / "summary.md", markdown(found) + "\n")
        with atomic_path(folder / "summary.png") as path:
            chart(found, title).save(path)
    files = [results, *pictures] if found else []
    return Measured(rows, found, missing, files)


def draw(model: Clippo, evaluators: Mapping[str, Evaluator], folder: Path) -> list[Path]:
    """Write the picture of each evaluator that has one into a folder, and return the files."""
    files = []
    for name, evaluator in evaluators.items():
        picture = evaluator.picture(model)
        if picture is not None:
            folder.mkdir(parents=True, exist_ok=True)
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
        widths = [max(10, len(column) + 2) for column in columns]
        heads = (f"{column:>{own}}" for column, own in zip(columns, widths, strict=True))
        lines += ["", f"{evaluator:<{width}}" + "".join(heads)]
        for first in firsts[:MAX_LINES]:
            values = (own.get(f"{first}/{column}" if first else column) for column in columns)
            cells = (
                f"{'' if value is None else format(value, '.2f'):>{own_width}}"
                for value, own_width in zip(values, widths, strict=True)
            )
            lines.append(f"{first:<{width}}{''.join(cells)}")
        if len(firsts) > MAX_LINES:
            lines.append(f"... and {len(firsts) - MAX_LINES} more, in {RESULTS_FILE}")
    return "\n".join(lines[1:])
