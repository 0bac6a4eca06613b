"""Trains models that differ in one thing, several seeds each, and puts them side by side.

    python -m clippo.bench.studies.compare_training emoji         the recipe alone, with all its metrics
    python -m clippo.bench.studies.compare_training dictionary    the same of another recipe
    python -m clippo.bench.studies.compare_training recipe        all patches of a text, inked ones, or bytes
    python -m clippo.bench.studies.compare_training tokens        the first two at two sizes, in short runs

Every run is a `clippo train` of its own, one after the other, in a folder of --out; runs that are there
already are not run again. The table goes to the terminal, and with the commands to a file in bench/results.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from clippo.bench.report import RESULTS, write
from clippo.results import Row, provenance, read_results

__all__ = ["main", "table"]

ALL = "--model.text.tokens all".split()
# Short runs of the emoji recipe, as in docs/training.md.
SHORT = "--steps 1250 --learning-rate 1e-3 --warmup-steps 500".split()
WIDE = [*SHORT, *"--model.image-size 96 --patch-dropout 0.5".split()]


@dataclass(frozen=True)
class Run:
    """One row of the table; `like` names the row whose seconds it gets instead of its steps."""

    name: str
    flags: Sequence[str]
    like: str = ""


RECIPES = ("emoji", "dictionary")  # the experiments on one recipe as it is; all others are on emoji
EXPERIMENTS = {
    "emoji": [Run("CLIPPO, inked", [])],
    "dictionary": [Run("CLIPPO, inked", [])],
    "recipe": [
        Run("CLIPPO, all", ALL),
        Run("CLIPPO, inked", []),
        Run("the same, as many seconds as all", [], like="CLIPPO, all"),
        Run("1T", "--model.text bytes".split()),
        Run("two towers", "--model.text bytes --model.num-towers 2".split()),
    ],
    "tokens": [
        Run("64 px, all", [*SHORT, *ALL]),
        Run("64 px, inked", SHORT),
        Run("96 px and half of each photograph, all", [*WIDE, *ALL]),
        Run("96 px and half of each photograph, inked", WIDE),
        Run("the same, as many seconds as all", WIDE, like="96 px and half of each photograph, all"),
    ],
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m clippo.bench.studies.compare_training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    arguments = parser.parse_args()

    runs = EXPERIMENTS[arguments.experiment]
    recipe = arguments.experiment if arguments.experiment in RECIPES else "emoji"
    measured: dict[str, list[dict[str, float]]] = {run.name: [] for run in runs}
    commands: dict[str, list[str]] = {}
    for i, seed in enumerate(arguments.seeds):
        for run in runs:
            flags = [*run.flags]
            if run.like:
                own = next(r.name for r in runs if r.flags == run.flags and not r.like)
                of_own, of_other = measured[own][i], measured[run.like][i]
                steps = max(1, round(of_own["steps"] * of_own["pairs_per_s"] / of_other["pairs_per_s"]))
                flags += ["--steps", str(steps)]
            folder = folder_of(arguments.out, recipe, flags, seed)
            command = ["clippo", "train", recipe, *flags, "--seed", str(seed), "--out", str(folder)]
            commands[run.name] = command[:-4]
            if not (folder / "results.json").exists():
                print(" ".join(command), file=sys.stderr)
                subprocess.run([sys.executable, "-m", *command, "--resume"], check=True)
            measured[run.name].append(read(folder))

    rows = [
        {"name": name, "command": " ".join(commands[name]), "seeds": arguments.seeds} | summary(of_seeds)
        for name, of_seeds in measured.items()
    ]
    print(table(rows))
    if arguments.experiment in RECIPES:
        folders = [folder_of(arguments.out, recipe, [], seed) for seed in arguments.seeds]
        rows += metric_rows(recipe, folders, arguments.seeds)
    print(f"\nwritten to {write(RESULTS, provenance(), rows, f'-training-{arguments.experiment}')}")
    return 0


def folder_of(out: Path, recipe: str, flags: Sequence[str], seed: int) -> Path:
    return out / ("-".join(flags).replace("-", "") or recipe) / str(seed)


def summary(of_seeds: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Means over the seeds, and the lists of the recalls."""
    means = {key: statistics.mean(run[key] for run in of_seeds) for key in of_seeds[0]}
    return means | {key: [run[key] for run in of_seeds] for key in means if key.startswith("recall")}


def metric_rows(recipe: str, folders: Sequence[Path], seeds: Sequence[int]) -> list[Row]:
    """A row for each metric of the results of runs that differ in their seed alone."""
    of_seeds = [read_results(folder / "results.json").rows for folder in folders]
    return [
        {
            "recipe": recipe,
            "seeds": list(seeds),
            "evaluator": rows[0]["evaluator"],
            "metric": rows[0]["metric"],
            "values": [row["value"] for row in rows],
        }
        for rows in zip(*of_seeds, strict=True)
    ]


def read(folder: Path) -> dict[str, float]:
    """Sizes, speed and mean recalls at 10 of one run."""
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    values = {
        (row["evaluator"], row["metric"]): row["value"] for row in read_results(folder / "results.json").rows
    }
    recalls = {
        (evaluator, metric.partition("/")[0]): value
        for (evaluator, metric), value in values.items()
        if metric.endswith("/text_to_image/R@10")
    }
    others = [
        value
        for (evaluator, language), value in recalls.items()
        if (evaluator == "trained" and language not in ("en", "mean"))
    ]
    [weights] = folder.glob("checkpoints/step-*/model.safetensors")
    with safe_open(weights, framework="pt") as file:
        tensors = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    return {
        "parameters": sum(math.prod(shape) for shape in tensors),
        "steps": last["step"],
        "seconds": last["elapsed_s"],
        "pairs_per_s": last["pairs_per_s"],
        "data_share": last["data_time"] / last["step_time"],
        "recall_en": recalls["trained", "en"],
        "recall_other": statistics.mean(others),
        "recall_held_out": recalls["held_out", "en"],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """In Markdown: means, and of recalls the least and the most of the seeds too."""
    lines = [
        "| | parameters | steps | seconds | pairs/s | R@10 English | other languages | held out |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        recalls = (
            f"{statistics.mean(row[key]):.1f} ({min(row[key]):.1f}-{max(row[key]):.1f})"
            for key in ("recall_en", "recall_other", "recall_held_out")
        )
        counts = f"{row['parameters'] / 1e6:.2f} M | {row['steps']:.0f} | {row['seconds']:.0f}"
        lines.append(f"| {row['name']} | {counts} | {row['pairs_per_s']:.0f} | {' | '.join(recalls)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
