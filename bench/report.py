"""Results of a run of benchmarks: rows of numbers, their provenance, and a table of ratios to peers.

    pytest bench/suites/bench_patch_embed.py --benchmark-json=benchmarks.json
    python -m clippo.bench.report benchmarks.json              writes bench/results/<device>/...json
    python -m clippo.bench.report benchmarks.json --out DIR    writes DIR/<device>/...json
    python -m clippo.bench.report benchmarks.json --summary    prints one table of all and writes nothing

`python -m clippo.bench.gpu` does all of it on a GPU.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from clippo.results import Row, provenance, write_results

__all__ = [
    "OURS",
    "RESULTS",
    "comparison",
    "main",
    "markdown",
    "path_of",
    "row_of",
    "steps_table",
    "summary",
    "table",
    "write",
]

# The contestant that is this project. Names that begin with it are variants of it, and never count as peers.
OURS = "clippo"
RESULTS = Path(__file__).resolve().parent / "results"


def rows_of(benchmarks: list[Row]) -> list[Row]:
    """The rows of pytest-benchmark's JSON, of the benchmarks that say what their times mean."""
    return [
        row_of(b["name"], b["group"], b["extra_info"], b["stats"])
        for b in benchmarks
        if "median_us" in b["extra_info"]
    ]


def row_of(name: str, group: str, extra_info: Row, stats: Any) -> Row:
    """The row of one benchmark, with its numbers rounded to their significant digits.

    `spread` is the interquartile range of the times as a share of their median.
    """
    return {
        "test": name.partition("[")[0],
        "group": group,
        **{k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in extra_info.items()},
        "rounds": stats["rounds"],
        "spread": float(f"{stats['iqr'] / stats['median']:.2g}"),
    }


def table(rows: list[Row], not_run: Iterable[Row] = ()) -> str:
    """As Markdown, a line a group: our time, the best peer's, their ratio, our share of the roofline, and the
    peers without a time. Peers are those that any group of the same test has, and those in `not_run`. Times
    are medians with their interquartile ranges.
    """
    lines = [
        "| | clippo, us | best peer, us | | peer / clippo | roofline | did not run |",
        "|---|--:|--:|---|--:|--:|---|",
    ]
    contestants = {(row["test"], row["name"]): None for row in (*rows, *not_run)}
    for group in dict.fromkeys(row["group"] for row in rows):
        timed = {row["name"]: row for row in rows if row["group"] == group}
        if "share_of_roofline" not in timed.get(OURS, {}):
            continue
        ours = timed[OURS]
        share = f"{ours['share_of_roofline']:.0%}"
        peers = [name for test, name in contestants if test == ours["test"] and not name.startswith(OURS)]
        missing = ", ".join(name for name in peers if name not in timed)
        ran = [timed[name] for name in peers if name in timed]
        columns = ["", "none ran", ""]
        if ran:
            best = min(ran, key=lambda row: row["median_us"])
            columns = [time_of(best), best["name"], f"{best['median_us'] / ours['median_us']:.2f}x"]
        lines.append(f"| {' | '.join([group, time_of(ours), *columns, share, missing])} |")
    return "\n".join(lines)


def time_of(row: Row) -> str:
    """The median of a row in microseconds, and the interquartile range, such as "12.3 ± 1%"."""
    return f"{row['median_us']:.1f} ± {row['spread']:.0%}"


def steps_table(rows: list[Row]) -> str:
    """As Markdown, training steps: a line a group and contestant, with the share of the data sheet's peak."""
    lines = [
        [
            f"{row['group']}, {row['name']}",
            f"{row['median_us'] / 1e3:.1f}",
            f"{row['pairs_per_s']:,.0f}",
            "" if row["mfu"] is None else f"{row['mfu']:.1%}",
            f"{row['peak_mib'] / 1024:.1f}",
        ]
        for row in rows
    ]
    return markdown(["", "step, ms", "pairs/s", "MFU", "peak, GiB"], lines)


def comparison(a: list[Row], b: list[Row]) -> str:
    """As Markdown, the times of two runs: a line for each benchmark that both have.

    The last column says "faster" or "slower" of B where the medians differ by more than the interquartile
    ranges of both together.
    """
    first, second = ({(row["test"], row["group"], row["name"]): row for row in rows} for rows in (a, b))
    lines = [
        "| | | A, us | B, us | B / A | B is |",
        "|---|---|--:|--:|--:|---|",
    ]
    for key in (key for key in first if key in second):
        one, other = first[key], second[key]
        ranges = [row["median_us"] * row["spread"] for row in (one, other)]
        difference = other["median_us"] - one["median_us"]
        verdict = ""
        if abs(difference) > sum(ranges):
            verdict = "slower" if difference > 0 else "faster"
        ratio = f"{other['median_us'] / one['median_us']:.2f}x"
        lines.append(f"| {' | '.join([key[1], key[2], time_of(one), time_of(other), ratio, verdict])} |")
    for name, own, others in (("A", first, second), ("B", second, first)):
        if alone := [key for key in own if key not in others]:
            lines.append(f"\n{len(alone)} benchmarks are in {name} alone.")
    return "\n".join(lines)


def rates_table(rows: list[Row]) -> str:
    """As Markdown, strings per second: a line a renderer, a column a kind of text."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    lines = ["| | " + " | ".join(groups) + " |", "|---|" + "--:|" * len(groups)]
    for name in dict.fromkeys(row["name"] for row in rows):
        rates = {row["group"]: f"{row['strings_per_s']:,}" for row in rows if row["name"] == name}
        lines.append(f"| {name} | " + " | ".join(rates.get(group, "") for group in groups) + " |")
    return "\n".join(lines)


def summary(rows: list[Row]) -> str:
    """As Markdown, a line a benchmark: its median time with the interquartile range, and that time as a
    multiple of ours where the group has one of ours.
    """
    ours = {row["group"]: row["median_us"] for row in rows if row["name"] == OURS}
    lines = [
        [
            f"{row['group']}: {row['name']}",
            f"{row['median_us'] / 1e3:.4g} ± {row['spread']:.0%}",
            f"{row['median_us'] / ours[row['group']]:.2f}x" if row["group"] in ours else "",
        ]
        for row in sorted(rows, key=lambda row: row["group"])
    ]
    return markdown(["", "ms", "of clippo's"], lines)


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table whose first column is a label and whose other columns are figures."""
    rule = "|---|" + "--:|" * (len(header) - 1)
    header_line, *body = (f"| {' | '.join(cells)} |" for cells in (header, *lines))
    return "\n".join([header_line, rule, *body])


def path_of(out: Path, found: dict[str, Any], about: str = "") -> Path:
    """OUT/<device>/<date>-<commit>.json; `about` joins the name."""
    device = re.sub(r"[^a-z0-9]+", "-", str(found["device"]).lower()).strip("-")
    return out / device / f"{str(found['date'])[:10]}-{found['commit']}{about}.json"


def write(out: Path, found: dict[str, Any], rows: list[Row], about: str = "") -> Path:
    """Write OUT/<device>/<date>-<commit>.json, a row a line; `about` joins the name."""
    path = path_of(out, found, about)
    write_results(path, found, rows)
    return path


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m clippo.bench.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("benchmarks", type=Path, help="the JSON that pytest-benchmark wrote")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--summary", action="store_true", help="print one table of all, and write nothing")
    arguments = parser.parse_args()
    rows = rows_of(json.loads(arguments.benchmarks.read_text())["benchmarks"])
    if arguments.summary:
        print(summary(rows))
        return 0
    if rates := [row for row in rows if "strings_per_s" in row]:
        print(rates_table(rates))
    if len(rates) < len(rows):
        print(table([row for row in rows if row not in rates]))
    print(f"written to {write(arguments.out, provenance(), rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
