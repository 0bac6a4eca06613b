"""Study of what a model of minutes can do: the suite `miniature` on several runs.

    clippo data fetch dictionary; clippo data fetch texts; clippo data fetch digits
    python -m clippo.bench.studies.miniature runs/emoji runs/untrained

It writes bench/results, from which the table of docs/evaluation.md is made; the pictures are in the folder
`miniature` of each run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from clippo.bench.report import RESULTS, write
from clippo.evaluation import suite
from clippo.evaluation.suites import find_suite
from clippo.results import Row, provenance
from clippo.training.run_folder import RunFolder, load_model, with_renderer

__all__ = ["main", "table"]


def measured(folder: Path) -> list[Row]:
    """The headlines of a run, with its name and the seconds of each evaluator."""
    run = RunFolder(folder)
    config, model = run.config(), with_renderer(load_model(folder))
    found = suite.measure(
        model, find_suite("miniature", Path("data")), config.data, config.transform,
        run.path / "miniature", title=f"{run.path.name}: miniature", source=run.path.name,
    )  # fmt: skip
    return [{"model": run.path.name, **row} for row in found.headlines]


def table(rows: Sequence[Row]) -> str:
    """In Markdown: a line a metric, with its interval, a column a model, and what guessing reaches."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    by_metric: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        by_metric.setdefault((row["evaluator"], row["metric"]), {})[row["model"]] = row
    lines = [f"| | | {' | '.join(models)} | guessing |", "|---|---|" + "--:|" * (len(models) + 1)]
    before = ""
    for (evaluator, metric), own in by_metric.items():
        cells = [cell(own[model]) if model in own else "" for model in models]
        guessing = next((f"{row['guessing']:.1f}" for row in own.values() if "guessing" in row), "")
        name = f"`{evaluator}`" if evaluator != before else ""
        before = evaluator
        lines.append(f"| {name} | {metric} | {' | '.join(cells)} | {guessing} |")
    return "\n".join(lines)


def cell(row: Row) -> str:
    digits = 1 if abs(row["value"]) >= 10 else 2
    interval = f" ({row['low']:.{digits}f}-{row['high']:.{digits}f})" if "low" in row else ""
    return f"{row['value']:.{digits}f}{interval}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m clippo.bench.studies.miniature",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of `clippo train`")
    arguments = parser.parse_args()
    rows = [row for folder in arguments.runs for row in measured(folder)]
    print(table(rows))
    threads = torch.get_num_threads()
    print(f"\nwritten to {write(RESULTS, provenance(threads=threads), rows, '-miniature')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
