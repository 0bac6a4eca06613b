"""bench.gpu on a machine without a GPU: the command itself, and rehearsals of it with a feigned GPU."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from clippo.bench import gpu
from clippo.bench.cases import SECTIONS, Section
from clippo.bench.record import Record
from clippo.results import ROOT, write_results

FOUND = {
    "device": "NVIDIA H100 80GB HBM3",
    "torch": "2.11.0",
    "triton": "3.6.0",
    "commit": "abc-dirty",
    "only": None,
}


def row(group, name, median_us, spread=0.01, **more):
    row = {"test": "test_op", "group": group, "name": name, "median_us": median_us, "spread": spread}
    return {**row, "share_of_roofline": 0.5, "case": f"{group} {name}", **more}


@pytest.fixture
def begin(monkeypatch, tmp_path):
    """Begins or resumes a run at a time of the same day."""

    def begin(clock, only=None, *, is_resumed=False, **changes):
        found = {**FOUND, "only": only, "date": f"2026-01-02T{clock}Z", **changes}
        monkeypatch.setattr(gpu, "provenance", lambda **about: found)
        return gpu.begin(tmp_path, only, is_resumed=is_resumed)

    return begin


def test_names_of_files_travel_anywhere(begin, tmp_path):
    path = begin("03:04:05", "attention")
    assert path == tmp_path / "nvidia-h100-80gb-hbm3" / "2026-01-02-abc-dirty-030405-attention.json"
    assert re.fullmatch(r"[A-Za-z0-9._/-]+", str(path.relative_to(tmp_path)))


def test_a_run_goes_on_with_the_newest_one_like_it(begin, capsys):
    first, second = begin("01:00:00"), begin("02:00:00")
    assert begin("03:00:00", is_resumed=True) == second
    assert Record(second).provenance["resumed"] == ["2026-01-02T03:00:00Z"]
    for change in ({"commit": "def"}, {"torch": "2.13.0"}, {"only": "attention"}):
        only = change.pop("only", None)
        path = begin("04:00:00", only, is_resumed=True, **change)
        assert path not in (first, second)
        assert "there is no run with this GPU, commit and versions to go on with" in capsys.readouterr().out
        path.unlink()
    (second.parent / "2026-01-03-other.json").write_text('{"provenance": {"device": "x"}, "rows": []}')
    assert begin("05:00:00", is_resumed=True) == second


def test_a_run_keeps_the_results_of_earlier_ones(begin):
    assert begin("01:00:00") != begin("01:00:01")


def test_sections_share_the_time():
    assert [section for section, _ in gpu.shares(None)] == [*SECTIONS]
    assert gpu.BUDGET_S < 600
    for only in (None, *gpu.SUBJECTS):
        ends = [end for _, end in gpu.shares(only)]
        assert ends == sorted(ends)
        assert ends[-1] == pytest.approx(1)
    assert [section.name for section, _ in gpu.shares("training_step")] == ["training_step", "compiled"]


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "zombie" not in Path(f"/proc/{pid}/status").read_text()


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_command_is_stopped_with_all_that_it_started(tmp_path):
    pid = tmp_path / "pid"
    start = time.monotonic()
    assert gpu.run(["sh", "-c", f"sleep 60 & echo $! > {pid}; wait"], dict(os.environ), 1.0) == gpu.TIMED_OUT
    assert time.monotonic() - start < 30
    wait_until(lambda: not is_alive(int(pid.read_text())))
    assert gpu.run(["sh", "-c", "exit 3"], dict(os.environ), 60) == 3
    assert gpu.run(["sh", "-c", "kill -9 $$"], dict(os.environ), 60) == -9
    assert gpu.run(["no such command"], dict(os.environ), 0) == gpu.TIMED_OUT


@pytest.fixture
def run_section(monkeypatch, tmp_path):
    """Runs a section whose processes do one of several things each; gives the record and their number."""

    def run_section(*processes):
        path = tmp_path / "results.json"
        write_results(path, FOUND, [])
        left = list(processes)

        def run(command, environment, seconds):
            assert f"--record={path}" in command
            return left.pop(0)(Record(path))

        monkeypatch.setattr(gpu, "run", run)
        gpu.run_section(SECTIONS[1], ["attention"], path, time.monotonic() + 60)
        return Record(path), len(processes) - len(left)

    return run_section


def process(case, code, *, ends=True):
    def run(record):
        record.plan([{"test": "test_op", "name": "clippo", "case": case}])
        record.begin(case)
        if ends:
            record.keep(case, row("a", "clippo", 1.0, case=case))
        return code

    return run


def test_a_process_that_dies_is_followed_by_another(run_section):
    record, count = run_section(process("1", -11, ends=False), process("2", 2), process("3", 0), None)
    assert count == 3
    assert record.cases["1"]["not_run"] == "its process ended (-11)"
    assert [row["case"] for row in record.rows] == ["2", "3"]


def test_processes_that_get_nowhere_are_not_repeated(run_section):
    _, count = run_section(lambda record: 4, None)
    assert count == 1


def test_the_case_that_ran_when_the_time_was_over_is_left_to_do(run_section):
    record, count = run_section(process("1", gpu.TIMED_OUT, ends=False), None)
    assert count == 1
    assert not record.is_done("1")


def test_summary(tmp_path):
    path = tmp_path / "results.json"
    rows = [
        row("op, N 50", "clippo", 100.0),
        row("op, N 50", "peer", 150.0),
        row("step", "clippo", 2e5, pairs_per_s=1280.0, mfu=0.4321, peak_mib=2048.0),
        row("step", "eager", 3e5, pairs_per_s=853.0, mfu=None, peak_mib=3072.0),
    ]
    not_run = [
        {"test": "test_op", "name": "flash-attn", "case": "x", "not_run": "could not import 'flash_attn'"}
    ]
    tests = [
        {"op": "attention", "case": "test_a", "outcome": "passed"},
        {"op": "contrastive", "case": "test_b", "outcome": "failed", "reason": "AssertionError"},
        {"op": "contrastive", "case": "test_c", "not_run": "out of time"},
    ]
    write_results(path, FOUND, rows, not_run=not_run, tests=tests)
    text = gpu.summary(Record(path))
    assert "device NVIDIA H100 80GB HBM3, torch 2.11.0" in text
    assert "Tests of attention: 1 passed.\n" in text
    assert "Tests of contrastive: 1 failed, 1 out of time. **Its times are those of an op" in text
    assert "  - test_b: AssertionError" in text
    assert "| op, N 50 | 100.0 ± 1% | 150.0 ± 1% | peer | 1.50x | 50% | eager, flash-attn |" in text
    assert "| step, clippo | 200.0 | 1,280 | 43.2% | 2.0 |" in text
    assert "| step, eager | 300.0 | 853 |  | 3.0 |" in text
    assert "- test_op: 1 cases of flash-attn did not run: could not import 'flash_attn'" in text


def main(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["gpu", *map(str, arguments)])
    return gpu.main()


def test_two_runs_are_compared(monkeypatch, capsys, tmp_path):
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    write_results(a, FOUND, [row("x", "clippo", 100.0), row("y", "clippo", 10.0), row("z", "clippo", 1.0)])
    write_results(b, FOUND, [row("x", "clippo", 80.0), row("y", "clippo", 10.1)])
    assert main(monkeypatch, "--compare", a, b) == 0
    out = capsys.readouterr().out
    assert "| x | clippo | 100.0 ± 1% | 80.0 ± 1% | 0.80x | faster |" in out
    assert "| y | clippo | 10.0 ± 1% | 10.1 ± 1% | 1.01x |  |" in out
    assert "1 benchmarks are in A alone" in out
    a.write_text("[]")
    assert main(monkeypatch, "--compare", a, b) == 2
    assert "does not hold results" in capsys.readouterr().out


def test_an_installation_without_tests_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    assert main(monkeypatch) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert "installation without the tests" in line


@pytest.fixture(autouse=True)
def _no_worker(monkeypatch):
    """Make the processes of bench.gpu time what they run: in a worker of pytest-xdist, nothing is timed."""
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
        monkeypatch.delenv(name)


no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="feigns a GPU on a machine without one")

SUITE = """
import pytest, torch
from clippo.bench import harness

COMPILED = {"slow-compiler"}

def is_main(test, parameters):
    return True

@harness.timed_on_device
@pytest.mark.parametrize("name", ["clippo", "memory", "death", "device", "missing", "peer", "slow-compiler"])
def test_op(benchmark, name):
    benchmark.group = "op"
    benchmark.extra_info["name"] = name
    if name == "missing":
        pytest.importorskip("no_such_package")

    def make():
        x = torch.zeros(8)
        return lambda: x + 1

    harness.measure(benchmark, make, harness.Work(1.0, 1.0), torch.float32)
"""


@pytest.fixture
def run_suite(monkeypatch, tmp_path):
    """Runs the suite above as a section, on a feigned GPU with some troubles; gives the record."""
    (tmp_path / "bench_attention.py").write_text(SUITE)
    path = tmp_path / "results.json"
    write_results(path, FOUND, [])

    class SectionOfSuite(Section):
        def file_of(self, subject):
            return f"{tmp_path}/bench_{subject}.py"

    def run_suite(trouble, seconds):
        monkeypatch.setenv("CLIPPO_BENCH_REHEARSAL", trouble)
        section = SectionOfSuite("attention", 1, ["attention"])
        gpu.run_section(section, section.subjects, path, time.monotonic() + seconds)
        return Record(path)

    return run_suite


@no_gpu
@pytest.mark.long
def test_results_outlive_all_troubles(run_suite):
    record = run_suite("memory=[memory];death=[death];device=[device]", 3000)
    assert [row["name"] for row in record.rows] == ["clippo", "peer"]
    reasons = {row["name"]: row["not_run"] for row in record.not_run}
    assert reasons["memory"].startswith("out of memory: CUDA out of memory")
    assert reasons["death"] == "its process ended (-9)"
    assert "an illegal memory access" in reasons["device"]
    assert "no_such_package" in reasons["missing"]
    assert "slow-compiler" not in reasons  # it has another section


@no_gpu
@pytest.mark.long
def test_a_run_goes_on_where_it_was_cut_off(run_suite):
    record = run_suite("hang=[peer]", 20)
    before = [row["name"] for row in record.rows]
    assert "peer" not in before
    assert all(row["not_run"] == "out of time" for row in record.not_run if row["name"] == "peer")
    record = run_suite("", 3000)
    after = [row["name"] for row in record.rows]
    assert after == ["clippo", "memory", "death", "device", "peer"]
    assert after[: len(before)] == before


@no_gpu
@pytest.mark.long
def test_rehearsal(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "clippo.bench.gpu", "--rehearse", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--budget", "6000"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert done.returncode == 0, done.stdout
    (path,) = tmp_path.glob("rehearsal/*.json")
    assert path.with_suffix(".md").read_text().strip() in done.stdout
    results = json.loads(path.read_text())
    assert results["provenance"]["device"] == "rehearsal"
    assert {test["op"] for test in results["tests"]} == {"attention", "contrastive", "patch_embed"}
    assert {test["outcome"] for test in results["tests"]} <= {"passed", "skipped"}
    assert {(row["test"], row["name"]) for row in results["rows"]} >= {
        ("test_packed", "clippo"), ("test_packed", "sdpa-math"), ("test_packed", "flex"),
        ("test_varlen", "clippo"), ("test_pool", "sdpa"), ("test_contrastive", "clippo"),
        ("test_contrastive", "explicit-compiled"), ("test_sigmoid", "explicit"), ("test_on_device", "clippo"),
        ("test_on_device", "conv-compiled"), ("test_from_the_host", "clippo"), ("test_step", "clippo"),
        ("test_step", "eager"), ("test_step", "clippo-compiled"),
    }  # fmt: skip
    assert all(row["rounds"] == 3 and "sm_clock_mhz" in row for row in results["rows"])
    missing = {row["name"]: row["not_run"] for row in results["not_run"]}
    assert missing["flash-attn"].startswith("could not import 'flash_attn'")
    assert "out of time" not in missing.values()
