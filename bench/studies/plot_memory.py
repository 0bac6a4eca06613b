"""Draws what contrastive losses take of memory against the number of pairs, from measured results.

    python -m clippo.bench.studies.plot_memory bench/results/amd-epyc/<date>-<commit>.json

writes docs/img/contrastive_memory.png, or the file named by --out.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from clippo.bench.report import OURS
from clippo.results import ROOT

__all__ = ["main"]

CHANNELS = 768


def points(rows: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """(pairs, MiB) of each contestant, forward and backward, in order."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if row["group"].startswith("contrastive, both") and row["channels"] == CHANNELS:
            found.setdefault(row["name"], []).append((row["batch"], row["peak_mib"]))
    return {name: sorted(pairs) for name, pairs in found.items()}


def draw(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=150, layout="constrained")
    contestants = points(results["rows"])
    for name, pairs in contestants.items():
        ours = name == OURS
        axes.plot(
            *zip(*pairs, strict=True),
            marker="o",
            label=name,
            linewidth=2.5 if ours else 1.2,
            color="black" if ours else None,
            zorder=3 if ours else 2,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    batches = sorted({batch for pairs in contestants.values() for batch, _ in pairs})
    axes.set_xticks(batches, [f"{batch:,}" for batch in batches])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("pairs in the batch")
    axes.set_ylabel("peak memory without the inputs, MiB")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    found = results["provenance"]
    axes.set_title(
        f"Contrastive loss, forward and backward, {CHANNELS} channels\n"
        f"{found['device']}, torch {found['torch']}, commit {found['commit']}",
        fontsize=9,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m clippo.bench.studies.plot_memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path, help="what bench.report or bench.gpu wrote")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "img" / "contrastive_memory.png")
    arguments = parser.parse_args()
    draw(json.loads(arguments.results.read_text()), arguments.out)
    print(f"written to {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
