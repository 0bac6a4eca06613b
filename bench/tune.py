"""Measures the launch table of an op on this GPU.

    python -m clippo.bench.tune attention               writes the launch table of this GPU's architecture
    python -m clippo.bench.tune patch_embed --out FILE  writes FILE; where it exists, its rows are the start
    python -m clippo.bench.tune attention --kernel short_forward    one kernel
    python -m clippo.bench.tune attention --budget 500              starts no row after so many seconds

Each row of the table keeps its sizes. Its candidates are compiled ahead of time, on all cores; those that
spill, do not fit or miss the tensor cores are dropped, and what is left is timed at the row's largest sizes.
The fastest replaces the row, marked as measured, with its time and the device. The table is written after
each row, so that a run that is killed loses the row in progress.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from clippo.results import provenance
from clippo_kernels import tuning
from clippo_kernels.aot import compile_row, launches_of

__all__ = ["main"]

DEVICE = "cuda"
TOKENS = 256 * 196

Row = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m clippo.bench.tune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("op", choices=tuning.ops(), help="whose kernels to tune")
    parser.add_argument("--kernel", metavar="NAME", help="tune this kernel of the op alone")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="start no row after this time")
    parser.add_argument("--out", type=Path, help="the file to write")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench.tune: PyTorch finds no GPU here, so nothing was measured.")
        return 0

    name = tuning.architecture(torch.device(DEVICE))
    path = arguments.out or tuning.table_path(arguments.op, name)
    kernels = list(json.loads(tuning.table_path(arguments.op, name).read_text()))
    if arguments.kernel is not None:
        if arguments.kernel not in kernels:
            names = ", ".join(kernels)
            parser.error(f"--kernel must be a kernel of {arguments.op} ({names}), got {arguments.kernel}")
        kernels = [arguments.kernel]
    deadline = float("inf") if arguments.budget is None else time.monotonic() + arguments.budget
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        is_complete = tune(pool, name, arguments.op, kernels, path, deadline)
    print(f"written to {path}" if is_complete else f"the time is over; what was measured is in {path}")
    return 0


def tune(
    pool: ProcessPoolExecutor, name: str, op: str, kernels: list[str], path: Path, deadline: float
) -> bool:
    """Measure the rows of some kernels and write the table after each; returns whether all were reached."""
    found = provenance()
    device = ", ".join(f"{found[key]}" for key in ("device", "torch", "triton"))
    start = path if path.exists() else tuning.table_path(op, name)
    table = json.loads(start.read_text())
    for kernel in kernels:
        rows = table[kernel] = list(table[kernel])
        for i, row in enumerate(rows):
            if time.monotonic() > deadline:
                return False
            rows[i] = fastest(pool, name, f"{op}.{kernel}", row, device)
            # Replaced in one step: a process that is killed here, or reads the file now, finds a whole table.
            unfinished = path.with_suffix(".unfinished")
            unfinished.write_text(tuning.dumps(table))
            unfinished.replace(path)
    return True


def candidates(kernel: str, row: Row) -> list[Row]:
    """The row itself, and itself with every other combination of launch options."""
    op, _, name = kernel.partition(".")
    grids = import_module(f"clippo_kernels.{op}.examples").CANDIDATES
    grid = next(grid for prefix, grid in grids.items() if name.startswith(prefix))
    launches = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [row, *({**row, "launch": launch} for launch in launches if launch != row["launch"])]


def fastest(pool: ProcessPoolExecutor, name: str, kernel: str, row: Row, device: str) -> Row:
    """The candidate of the least time, or the row as it is where no candidate passes."""
    rows = candidates(kernel, row)
    reports = list(pool.map(compile_row, itertools.repeat(name), itertools.repeat(kernel), rows))
    passing = [r for r, report in zip(rows, reports, strict=True) if not report.problems]
    if not passing:
        print(f"{kernel} {row['at_most']}: stays as it is, because {reports[0].problems[0]}", flush=True)
        return row
    timed = [(seconds(name, kernel, r), r) for r in passing]
    best_s, best = min(timed, key=lambda pair: pair[0])
    print(f"{kernel} {row['at_most']}: {best['launch']}, {best_s * 1e6:.1f} us, of {len(timed)}", flush=True)
    return measured(best, best_s, device)


def measured(row: Row, seconds: float, device: str) -> Row:
    return {**row, "chosen_by": "measured", "us": round(seconds * 1e6, 1), "device": device}


def seconds(name: str, kernel: str, row: Row) -> float:
    """Median time of a launch at the row's largest sizes."""
    from triton.testing import do_bench

    function, programs, args, options = launches_of(name, kernel, row, TOKENS, DEVICE)[0]

    def launch() -> None:
        function[(programs,)](*args, **options)

    value: float = do_bench(launch, warmup=5, rep=30, return_mode="median") / 1e3  # all in milliseconds
    return value


if __name__ == "__main__":
    sys.exit(main())
