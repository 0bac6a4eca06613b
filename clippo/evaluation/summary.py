"""Summaries of many evaluators: a table in Markdown, a chart, and the mean of several runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from PIL import Image

from clippo.evaluation.figures import new_figure, picture_of
from clippo.results import Row

__all__ = ["chart", "headlines", "markdown", "mean_of_runs"]

# By the name of an evaluator: its metrics to show, each with that of what guessing reaches, or "".
Headlines = Mapping[str, Mapping[str, str]]

ROW_PX, WIDTH_PX = 22, 900
NO_PERCENTAGES = ("gap", "ratio", "MedR")  # parts of the names of such metrics


def headlines(rows: Sequence[Row], shown: Headlines) -> list[Row]:
    """The rows to show, with "guessing" where what guessing reaches is known.

    Of an evaluator of which nothing is to be shown, the first metric is.
    """
    own: dict[str, dict[str, Row]] = {}
    for row in rows:
        own.setdefault(row["evaluator"], {})[row["metric"]] = row
    found = []
    for evaluator, metrics in own.items():
        wanted = {m: g for m, g in shown.get(evaluator, {}).items() if m in metrics}
        for metric, guessing in (wanted or {next(iter(metrics)): ""}).items():
            known = {"guessing": metrics[guessing]["value"]} if guessing in metrics else {}
            found.append({**metrics[metric], **known})
    return found


def markdown(rows: Sequence[Row]) -> str:
    """Format the rows of `headlines`, or of several runs, as a table."""
    lines = ["| evaluator | metric | value | 95 % interval | guessing |", "|---|---|--:|--:|--:|"]
    before = ""
    for row in rows:
        interval = f"{row['low']:.1f} to {row['high']:.1f}" if "low" in row else ""
        if "deviation" in row:
            interval = f"± {row['deviation']:.1f} of {row['runs']} runs"
        guessing = f"{row['guessing']:.1f}" if "guessing" in row else ""
        evaluator = row["evaluator"] if row["evaluator"] != before else ""
        before = row["evaluator"]
        value = f"{row['value']:.1f}" if abs(row["value"]) >= 10 else f"{row['value']:.2f}"
        lines.append(f"| {evaluator} | {row['metric']} | {value} | {interval} | {guessing} |")
    return "\n".join(lines)


def mean_of_runs(results: Sequence[Sequence[Row]]) -> list[Row]:
    """The mean of each metric over runs that differ in their seeds, with its standard deviation.

    Args:
        results: the rows of each run. What one of them lacks is left out.

    Returns:
        Rows with "value", "deviation", "low" and "high" of Student's 95 % interval of the mean, and "runs".
    """
    tables = [{(row["evaluator"], row["metric"]): row for row in rows} for rows in results]
    found = []
    for (evaluator, metric), first in tables[0].items():
        if not all((evaluator, metric) in table for table in tables):
            continue
        values = [table[evaluator, metric]["value"] for table in tables]
        mean, deviation = statistics.fmean(values), statistics.stdev(values)
        half = student(len(values) - 1) * deviation / math.sqrt(len(values))
        known = {"guessing": first["guessing"]} if "guessing" in first else {}
        found.append({
            "evaluator": evaluator, "metric": metric, "value": mean, "deviation": deviation,
            "low": mean - half, "high": mean + half, "runs": len(values), **known,
        })  # fmt: skip
    return found


# Two-sided 95 % quantiles of Student's t by the degrees of freedom; beyond, 2.2 is a little too much.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def student(degrees: int) -> float:
    return STUDENT[min(degrees, len(STUDENT)) - 1]


def chart(rows: Sequence[Row], title: str) -> Image.Image:
    """Draw the rows of `headlines` that are percentages: value, interval, and what guessing reaches."""
    shown = [row for row in rows if not any(name in row["metric"] for name in NO_PERCENTAGES)]
    figure = new_figure(WIDTH_PX, 90 + ROW_PX * max(1, len(shown)))
    axes = figure.subplots()
    places = range(len(shown))
    for place, row in zip(places, shown, strict=True):
        if "low" in row:
            axes.plot([row["low"], row["high"]], [place, place], color="#0969da", linewidth=5, alpha=0.35)
        axes.plot(row["value"], place, "o", color="#0969da", markersize=5)
        if "guessing" in row:
            axes.plot(row["guessing"], place, "|", color="#cf222e", markersize=13, markeredgewidth=2)
    axes.set_yticks(list(places), [f"{row['evaluator']}: {row['metric']}" for row in shown], fontsize=8)
    axes.set_ylim(max(1, len(shown)) - 0.5, -0.5)
    axes.set_xlim(min([0.0, *(row["value"] - 3 for row in shown)]), 101)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("% with 95 % intervals; red: what guessing or the majority reaches")
    axes.set_title(title, fontsize=10)
    return picture_of(figure)
