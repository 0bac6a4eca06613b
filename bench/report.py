"""What is kept of a run of benchmarks: figures, their provenance, and a table of ratios to peers.

    pytest bench/bench_patch_embed.py --benchmark-json=figures.json
    python -m clippo.bench.report figures.json              writes bench/results/<device>/...json
    python -m clippo.bench.report figures.json --out DIR    writes DIR/<device>/...json

`python -m clippo.bench.gpu` does all of it on a GPU.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from clippo.results import ROOT, Row, provenance, write_results

OURS = (
    "clippo"  # benchmarks of this name are ours, and of names that begin with it, other ways through our ops
)
RESULTS = ROOT / "bench" / "results"


def rows_of(benchmarks: list[Row]) -> list[Row]:
    """What `harness.measure` left in pytest-benchmark's JSON, rounded to what it means."""
    return [
        {
            "group": b["group"],
            **{k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in b["extra_info"].items()},
            "rounds": b["stats"]["rounds"],
            "spread": float(f"{b['stats']['iqr'] / b['stats']['median']:.2g}"),
        }
        for b in benchmarks
        if "median_us" in b["extra_info"]
    ]


def table(rows: list[Row]) -> str:
    """As Markdown, a line a group: our time, the best peer's, their ratio, our share of the roofline."""
    lines = ["| | clippo, us | best peer, us | | peer / clippo | roofline |", "|---|--:|--:|---|--:|--:|"]
    for group in dict.fromkeys(row["group"] for row in rows):
        ours = [r for r in rows if r["group"] == group and r["name"] == OURS]
        peers = [r for r in rows if r["group"] == group and not r["name"].startswith(OURS)]
        if not ours or "share_of_roofline" not in ours[0]:
            continue
        time, share = ours[0]["median_us"], f"{ours[0]['share_of_roofline']:.0%}"
        if peers:
            best = min(peers, key=lambda r: r["median_us"])
            ratio = f"{best['median_us'] / time:.2f}x"
            lines.append(
                f"| {group} | {time:.1f} | {best['median_us']:.1f} | {best['name']} | {ratio} | {share} |"
            )
        else:
            lines.append(f"| {group} | {time:.1f} | | none ran | | {share} |")
    return "\n".join(lines)


def rates_table(rows: list[Row]) -> str:
    """As Markdown, strings per second: a line a renderer, a column a kind of text."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    lines = ["| | " + " | ".join(groups) + " |", "|---|" + "--:|" * len(groups)]
    for name in dict.fromkeys(row["name"] for row in rows):
        rates = {row["group"]: f"{row['strings_per_s']:,}" for row in rows if row["name"] == name}
        lines.append(f"| {name} | " + " | ".join(rates.get(group, "") for group in groups) + " |")
    return "\n".join(lines)


def write(out: Path, found: dict[str, Any], rows: list[Row], about: str = "") -> Path:
    """Write OUT/<device>/<date>-<commit>.json, a row a line; `about` joins the name."""
    device = re.sub(r"[^a-z0-9]+", "-", str(found["device"]).lower()).strip("-")
    path = out / device / f"{str(found['date'])[:10]}-{found['commit']}{about}.json"
    write_results(path, found, rows)
    return path


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m clippo.bench.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("figures", type=Path, help="what pytest-benchmark wrote")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the figures")
    arguments = parser.parse_args()
    rows = rows_of(json.loads(arguments.figures.read_text())["benchmarks"])
    if rates := [row for row in rows if "strings_per_s" in row]:
        print(rates_table(rates))
    if len(rates) < len(rows):
        print(table([row for row in rows if row not in rates]))
    print(f"written to {write(arguments.out, provenance(), rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
