"""Tests and benchmarks of the kernels on a GPU, in under ten minutes.

    python -m clippo.bench.gpu                       everything
    python -m clippo.bench.gpu --only attention      one op, or the training step
    python -m clippo.bench.gpu --budget 1200         more seconds than the default of 530
    python -m clippo.bench.gpu --resume              go on with the newest run, if nothing has changed
    python -m clippo.bench.gpu --out DIR             folder of the results, bench/results by default
    python -m clippo.bench.gpu --compare A.json B.json      compare the times of two runs, without a GPU
    python -m clippo.bench.gpu --rehearse            feign the GPU: does every case run with these versions?

A run has sections, in the order of their worth: tests of each op; attention at the lengths of vision towers,
and packed; contrastive losses; patch embedding; a training step of a B/16; then what is left, the contestants
that torch.compile makes slow to begin with, and FlexAttention. Each has a share of the time, is stopped when
that is over, and leaves what it does not need to those after it. Where the tests of an op fail, its times are
measured all the same, and the table says so.

OUT/<gpu>/<date>-<commit>-<time>.json is rewritten after every case, with the versions, clocks, power and
temperature it was measured with: whatever dies or is killed, only the case in progress is lost. A process
that dies is followed by another for the cases that are left. The table of ratios to the best peer is in a .md
file beside it. Runs in a checkout, and needs PyTorch, Triton, NumPy, safetensors, Pillow, tqdm, pytest and
pytest-benchmark; where pytest-xdist is installed, tests compile on several cores.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from clippo.bench import rehearsal
from clippo.bench.cases import SECTIONS, Section
from clippo.bench.record import OUT_OF_TIME, Record, count_not_run
from clippo.bench.report import RESULTS, comparison, path_of, steps_table, table
from clippo.files import write_text
from clippo.results import ROOT, provenance, read_results, write_results
from clippo_kernels.dispatch import BACKEND_VARIABLE

__all__ = ["main"]

SUBJECTS = list(dict.fromkeys(subject for section in SECTIONS for subject in section.subjects))
BUDGET_S = sum(section.seconds for section in SECTIONS)
TIMED_OUT = -1000  # differs from all exit codes, which are negative where a signal ended a process
# Provenance in which a resumed run must agree with the run that it continues.
SAME = ("device", "torch", "triton", "commit", "only")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m clippo.bench.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", choices=SUBJECTS, metavar="OP", help=f"one of: {', '.join(SUBJECTS)}")
    parser.add_argument(
        "--budget", type=float, default=BUDGET_S, metavar="SECONDS", help="time for all sections together"
    )
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--resume", action="store_true", help="go on where the newest run was cut off")
    parser.add_argument("--rehearse", action="store_true", help="feign the GPU; the times mean nothing")
    parser.add_argument("--compare", nargs=2, type=Path, metavar="FILE", help="results of two runs")
    arguments = parser.parse_args()
    if arguments.compare:
        return compare(*arguments.compare)
    if not (ROOT / "tests").is_dir():
        print("bench.gpu: this is an installation without the tests; run it in a checkout of the repository.")
        return 1
    out = arguments.out or RESULTS
    if arguments.rehearse:
        out = arguments.out or ROOT / "runs"
        os.environ.setdefault(rehearsal.VARIABLE, "")
        rehearsal.install()
    if not torch.cuda.is_available():
        print("bench.gpu: PyTorch finds no GPU here, so nothing was tested or measured.")
        return 0

    deadline = time.monotonic() + arguments.budget
    path = begin(out, arguments.only, is_resumed=arguments.resume)
    for section, share in shares(arguments.only):
        seconds = deadline - time.monotonic() - arguments.budget * (1 - share)
        subjects = [x for x in section.subjects if arguments.only in (None, x)]
        print(f"\n{section.name}: until {share:.0%} of the time, {seconds:.0f} s", flush=True)
        run_section(section, subjects, path, time.monotonic() + seconds)
        write_text(path.with_suffix(".md"), summary(Record(path)) + "\n")
    record = Record(path)
    print(f"\n{summary(record)}\n\nwritten to {path} and .md")
    return int(any(test.get("outcome") == "failed" for test in record.tests) or not record.rows)


def begin(out: Path, only: str | None, *, is_resumed: bool) -> Path:
    """Write the file of a run without results, or find the one to go on with."""
    found = provenance(only=only)
    print(", ".join(f"{key} {value}" for key, value in found.items() if value is not None), flush=True)
    # With the time, so that no run replaces the results of an earlier one.
    about = "-" + str(found["date"])[11:19].replace(":", "") + (f"-{only}" if only else "")
    path = path_of(out, found, about).resolve()
    if is_resumed:
        for earlier in sorted(path.parent.glob("*.json"), reverse=True):
            about_earlier = read_results(earlier).provenance
            if "only" in about_earlier and all(about_earlier.get(key) == found.get(key) for key in SAME):
                resumed = Record(earlier)
                resumed.provenance.setdefault("resumed", []).append(found["date"])
                resumed.stopped(OUT_OF_TIME)
                print(f"going on with {earlier}, which has {resumed.num_done} cases", flush=True)
                return earlier
        print("there is no run with this GPU, commit and versions to go on with, so this is a new one")
    write_results(path, found, [])
    return path


def shares(only: str | None) -> list[tuple[Section, float]]:
    """The sections of a run, and which share of the time is over when each has to end."""
    sections = [x for x in SECTIONS if only is None or only in x.subjects]
    total, passed = sum(section.seconds for section in sections), 0.0
    ends = [passed := passed + section.seconds for section in sections]
    return [(section, end / total) for section, end in zip(sections, ends, strict=True)]


def run_section(section: Section, subjects: Sequence[str], path: Path, deadline: float) -> None:
    """Run the cases of a section until a time, in as many processes as die on the way."""
    files = [section.file_of(subject) for subject in subjects]
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "--no-summary", "-p", "no:cacheprovider"]
    command += ["-p", "clippo.bench.cases", f"--section={section.name}", f"--record={path}", *files]
    if section.is_tests:
        # One case of each test, because all of them take many minutes.
        command += ["-m", "not slow"]
        if find_spec("xdist"):
            command += ["-n", str(min(8, os.cpu_count() or 1))]
    else:
        command += ["--benchmark-quiet", "--tb=line"]
    while True:
        num_done = Record(path).num_done
        code = run(command, environment_of(section), deadline - time.monotonic())
        record = Record(path)
        if code == TIMED_OUT:
            record.stopped(OUT_OF_TIME)
            print(f"\n{section.name}: stopped, because its time is over", flush=True)
            return
        record.stopped(f"its process ended ({code})")
        if code in (0, 1, 5) or record.num_done == num_done:  # passed, failed, nothing left; or no progress
            return
        print(f"\n{section.name}: its process ended ({code}); another goes on with what is left", flush=True)


def environment_of(section: Section) -> dict[str, str]:
    """The environment of the processes of a section: kernels are compiled, except in a rehearsal."""
    environment = dict(os.environ)
    if rehearsal.VARIABLE not in environment:
        environment["TRITON_INTERPRET"] = "0"
    elif section.is_tests:  # which feign nothing
        del environment[rehearsal.VARIABLE]
        del environment[BACKEND_VARIABLE]
    return environment


def run(command: Sequence[str], environment: dict[str, str], seconds: float) -> int:
    """Run a command in the checkout; its exit code, or TIMED_OUT after some seconds.

    Processes that it has started go with it.
    """
    if seconds <= 0:
        return TIMED_OUT
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return TIMED_OUT
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def summary(record: Record) -> str:
    """Describe a run as Markdown: its device and versions, its tests, its times, and what did not run."""
    found = record.provenance
    parts = [", ".join(f"{key} {value}" for key, value in found.items() if value is not None)]
    parts += [tests_of(op, record) for op in dict.fromkeys(test["op"] for test in record.tests)]
    if record.rows:
        parts.append(table(record.rows, record.not_run))
    if steps := [row for row in record.rows if "pairs_per_s" in row]:
        parts.append(steps_table(steps))
    lines = [
        f"- {row['test']}: {row['cases']} cases of {row['name']} did not run: {row['not_run']}"
        for row in count_not_run(record.not_run)
    ]
    return "\n\n".join([*parts, "\n".join(lines)] if lines else parts)


def tests_of(op: str, record: Record) -> str:
    """Say how the tests of an op ended."""
    tests = [test for test in record.tests if test["op"] == op]
    counts: dict[str, int] = {}
    for test in tests:
        outcome = str(test.get("outcome", test.get("not_run")))
        counts[outcome] = counts.get(outcome, 0) + 1
    failed = [f"  - {test['case']}: {test['reason']}" for test in tests if test.get("outcome") == "failed"]
    warning = " **Its times are those of an op that fails tests.**" if failed else ""
    said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    return "\n".join([f"Tests of {op}: {said}.{warning}", *failed])


def compare(first: Path, second: Path) -> int:
    """Print the times of two runs side by side."""
    try:
        a, b = read_results(first), read_results(second)
    except (OSError, ValueError) as error:
        print(f"bench.gpu: {error}")
        return 2
    for name, found in (("A", a.provenance), ("B", b.provenance)):
        print(f"{name}: {', '.join(f'{key} {found.get(key)}' for key in (*SAME, 'date'))}")
    print(f"\n{comparison(a.rows, b.rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
