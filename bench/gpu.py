"""Tests and benchmarks of the kernels on a GPU, in under ten minutes.

    python -m clippo.bench.gpu                       all ops, which share the time
    python -m clippo.bench.gpu --only attention      one op
    python -m clippo.bench.gpu --budget 1200         more seconds than the default of 530
    python -m clippo.bench.gpu --out results         folder of the results, bench/results by default

First the op's tests run, compiled for this GPU: times of an op that computes something else are worth
nothing. Then its benchmarks, and a table of ratios to the best peer of the same run. The results are written
to OUT/<gpu>/<date>-<commit>-<time>.json, with "-<op>" at the end where there is one op, after each op, with
the versions they were measured with, and each row at once to a file of JSON lines beside it, which is removed
at the end: whatever dies or is killed, only the benchmark in progress is lost. Runs in a checkout, and needs
PyTorch, Triton, NumPy, pytest and pytest-benchmark; where pytest-xdist is installed, tests compile on several
cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import torch

from clippo.bench.harness import ROWS_VARIABLE
from clippo.bench.report import RESULTS, count_not_run, table, write
from clippo.results import ROOT, Row, provenance
from clippo_kernels import tuning

__all__ = ["main"]

OPS = tuning.ops()
BUDGET_S = 530.0
# No benchmark starts when the time of its op is over. One that has started may take so long to end.
GRACE_S = 30.0
TIMED_OUT = -1000  # differs from all exit codes, which are negative where a signal ended a process


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m clippo.bench.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", choices=OPS, metavar="OP", help=f"one of: {', '.join(OPS)}")
    parser.add_argument(
        "--budget", type=float, default=BUDGET_S, metavar="SECONDS", help="time for all ops together"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    if not (ROOT / "tests").is_dir():
        print("bench.gpu: this is an installation without the tests; run it in a checkout of the repository.")
        return 1
    if not torch.cuda.is_available():
        print("bench.gpu: PyTorch finds no GPU here, so nothing was tested or measured.")
        return 0

    deadline = time.monotonic() + arguments.budget
    found = provenance()
    print(", ".join(f"{key} {value}" for key, value in found.items()), flush=True)
    ops = [arguments.only] if arguments.only else OPS
    # With the time, so that no run replaces the results of an earlier one.
    about = "-" + str(found["date"])[11:19].replace(":", "")
    about += f"-{arguments.only}" if arguments.only else ""
    # Written now, for the provenance of the lines that a killed run leaves.
    path = write(arguments.out, found, [], about).resolve()
    stamp = str(found["date"]).replace(":", "")
    rows: list[Row] = []
    not_run: list[Row] = []
    row_files: list[Path] = []
    failed = False
    for i, op in enumerate(ops):
        row_files.append(path.with_name(f"{stamp}-{op}.jsonl"))
        seconds = max(0.0, deadline - time.monotonic()) / (len(ops) - i)
        failed |= not measure_op(op, seconds, row_files[-1])
        op_rows, op_not_run = read_rows(row_files[-1])
        rows += op_rows
        not_run += count_not_run(op_not_run)
        write(arguments.out, found, rows, about, not_run)
        if op_rows:
            print(table(op_rows, op_not_run), flush=True)
    for file in row_files:
        file.unlink(missing_ok=True)
    for row in not_run:
        print(f"{row['test']}: {row['cases']} cases of {row['name']} did not run: {row['not_run']}")
    if rows:
        print(f"written to {path}")
    else:
        path.unlink()
    return int(failed)


def measure_op(op: str, seconds: float, row_file: Path) -> bool:
    """Test an op and measure it in about `seconds`; returns whether its tests passed and no process died."""
    tests, benchmarks = files_of(op)
    deadline = time.monotonic() + seconds
    workers = ["-n", str(min(8, os.cpu_count() or 1))] if find_spec("xdist") else []
    if code := pytest(seconds, tests, *workers):
        reason = f"did not end within {seconds:.0f} s" if code == TIMED_OUT else "did not pass"
        print(f"bench.gpu: the tests of {op} {reason}, so it was not measured.", flush=True)
        return False
    seconds = max(0.0, deadline - time.monotonic())
    # A peer that cannot run a shape fails, and is then named as missing.
    code = pytest(
        seconds + GRACE_S,
        benchmarks,
        f"--time-limit={seconds:.0f}",
        "--benchmark-quiet",
        "--tb=line",
        rows=row_file,
    )
    if code == TIMED_OUT:
        print(f"bench.gpu: the benchmarks of {op} were ended when their time was over.", flush=True)
    elif code < 0:
        print(f"bench.gpu: signal {-code} ended the benchmarks of {op}; the others were kept.", flush=True)
    return code >= 0 or code == TIMED_OUT


def files_of(op: str) -> tuple[str, str]:
    """The tests and the benchmarks of an op."""
    return f"tests/clippo_kernels/test_{op}.py", f"bench/suites/bench_{op}.py"


def pytest(seconds: float, *arguments: str, rows: Path | None = None) -> int:
    """Run pytest with kernels compiled and not interpreted; its exit code, or TIMED_OUT after `seconds`.

    Rows of benchmarks are appended to the file `rows`.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    if rows is not None:
        environment[ROWS_VARIABLE] = str(rows)
    try:
        return subprocess.run(command, cwd=ROOT, env=environment, timeout=seconds, check=False).returncode
    except subprocess.TimeoutExpired:
        return TIMED_OUT


def read_rows(path: Path) -> tuple[list[Row], list[Row]]:
    """Rows of benchmarks that ran, and of those that did not; none of either where there is no file."""
    rows: list[Row] = []
    not_run: list[Row] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # the last line of a process that was killed
            continue
        (not_run if "not_run" in row else rows).append(row)
    return rows, not_run


if __name__ == "__main__":
    sys.exit(main())
