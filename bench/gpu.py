"""Tests and benchmarks of the kernels on a GPU, in under nine minutes.

    python -m clippo.bench.gpu                       everything
    python -m clippo.bench.gpu --only attention      one op
    python -m clippo.bench.gpu --out results         where the figures go, bench/results by default

First the op's tests run, compiled for this GPU: figures of an op that computes something else are worth
nothing. Then its benchmarks, and a table of ratios to the best peer of the same run. The figures are written
to OUT/<gpu>/<date>-<commit>.json with the versions they were measured with. Needs PyTorch, Triton, NumPy,
pytest and pytest-benchmark; where pytest-xdist is installed, tests compile on several cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import torch

from clippo.bench.report import RESULTS, ROOT, Row, provenance, rows_of, table, write

OPS = {
    "attention": ("tests/clippo_kernels/test_attention.py", "bench/bench_attention.py"),
    "contrastive": ("tests/clippo_kernels/test_contrastive.py", "bench/bench_contrastive.py"),
    "patch_embed": ("tests/clippo_kernels/test_patch_embed.py", "bench/bench_patch_embed.py"),
}
BUDGET_S = 530.0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m clippo.bench.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", choices=OPS, metavar="OP", help=f"one of: {', '.join(OPS)}")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the figures")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench.gpu: PyTorch finds no GPU here, so nothing was tested or measured.")
        return 0

    deadline = time.monotonic() + BUDGET_S
    found = provenance()
    print(", ".join(f"{key} {value}" for key, value in found.items()), flush=True)
    rows: list[Row] = []
    failed = False
    for op in [arguments.only] if arguments.only else OPS:
        tests, benchmarks = OPS[op]
        workers = ["-n", str(min(8, os.cpu_count() or 1))] if find_spec("xdist") else []
        if not pytest(tests, *workers):
            print(f"bench.gpu: the tests of {op} did not pass, so it was not measured.", flush=True)
            failed = True
            continue
        with tempfile.TemporaryDirectory() as folder:
            figures = Path(folder) / "figures.json"
            limit = f"--time-limit={deadline - time.monotonic():.0f}"
            # A peer that cannot run a shape fails, and is then missing from the figures.
            pytest(benchmarks, limit, f"--benchmark-json={figures}", "--benchmark-quiet", "--tb=line")
            rows += rows_of(json.loads(figures.read_text())["benchmarks"])
    if rows:
        print(table(rows))
        print(f"written to {write(arguments.out, found, rows)}")
    return int(failed)


def pytest(*arguments: str) -> bool:
    """Whether a run of pytest passes, with kernels compiled and not interpreted."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
