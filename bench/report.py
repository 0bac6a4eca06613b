"""What `python -m bench.gpu` keeps of a run: figures, their provenance, and a table of ratios to peers."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

OURS = (
    "clippo"  # benchmarks of this name are ours, and of names that begin with it, other ways through our ops
)
ROOT = Path(__file__).resolve().parents[1]

Row = dict[str, Any]


def provenance() -> dict[str, Any]:
    """Device, versions, commit and date of a run."""
    import triton

    device = torch.cuda.get_device_properties(0)
    return {
        "device": device.name,
        "multiprocessors": device.multi_processor_count,
        "memory_gib": round(device.total_memory / 2**30, 1),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda or torch.version.hip,
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def commit() -> str:
    """Short hash, with a + where tracked files differ from it; "unknown" outside of a git checkout."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.check_output(command, cwd=ROOT, text=True, stderr=subprocess.DEVNULL).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def rows_of(benchmarks: list[Row]) -> list[Row]:
    """The measured figures of pytest-benchmark's JSON, rounded to what they mean."""
    return [
        {
            "group": b["group"],
            **{k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in b["extra_info"].items()},
            "rounds": b["stats"]["rounds"],
            "spread": float(f"{b['stats']['iqr'] / b['stats']['median']:.2g}"),
        }
        for b in benchmarks
    ]


def table(rows: list[Row]) -> str:
    """As Markdown, a line a group: our time, the best peer's, their ratio, our share of the roofline."""
    lines = ["| | clippo, us | best peer, us | | peer / clippo | roofline |", "|---|--:|--:|---|--:|--:|"]
    for group in dict.fromkeys(row["group"] for row in rows):
        ours = [r for r in rows if r["group"] == group and r["name"] == OURS]
        peers = [r for r in rows if r["group"] == group and not r["name"].startswith(OURS)]
        if not ours:
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
