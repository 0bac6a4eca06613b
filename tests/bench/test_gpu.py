"""bench.gpu on a machine without a GPU: the GPU is feigned, and its benchmarks run on the CPU."""

import json
import types

import pytest
import torch

from clippo.bench import gpu

SUITE = """
import os, time
import pytest, torch
from clippo.bench import harness

COMPILED = {"slow-compiler"}
harness.ceilings_of = lambda dtype: harness.Ceilings(1e9, 1e12)
harness.peak_memory = lambda make: 0

@harness.timed_on_device
@pytest.mark.parametrize("name", ["slow-compiler", "clippo", "peer"])
def test_op(benchmark, name):
    benchmark.group = "op"
    benchmark.extra_info["name"] = name
    harness.measure(benchmark, lambda: lambda: time.sleep(1e-3), harness.Work(1.0, 1.0), torch.float32)

@harness.timed_on_device
@pytest.mark.parametrize("name", ["clippo"])
def test_fatal(benchmark, name):
    ACT
"""
ENDINGS = {
    "passes": "benchmark(lambda: None)",
    "dies": "os.kill(os.getpid(), 9)",
    "takes too long": "time.sleep(600)",
    "runs out of memory": "harness.measure(benchmark, lambda: exec('raise torch.OutOfMemoryError'), 0, 0)",
}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs bench.gpu over one op whose second benchmark ends in some way; gives its exit code and result."""
    properties = types.SimpleNamespace(
        name="Feigned GPU", multi_processor_count=132, total_memory=80 * 2**30, uuid="0"
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)  # no pytest-xdist

    def run(ending, *arguments, test="pass"):
        (tmp_path / "conftest.py").write_text("from clippo.bench.conftest import *")
        (tmp_path / "test_op.py").write_text(f"def test_op():\n    {test}\n")
        (tmp_path / "bench_op.py").write_text(SUITE.replace("ACT", ENDINGS[ending]))
        monkeypatch.setattr(gpu, "OPS", ["op"])
        monkeypatch.setattr(
            gpu, "files_of", lambda op: (f"{tmp_path}/test_{op}.py", f"{tmp_path}/bench_{op}.py")
        )
        monkeypatch.setattr("sys.argv", ["gpu", "--out", f"{tmp_path}/out", *arguments])
        code = gpu.main()
        files = list((tmp_path / "out").glob("*/*"))
        return code, [json.loads(file.read_text()) for file in files]

    return run


def names(result):
    return [row["name"] for row in result["rows"]]


@pytest.mark.parametrize("ending", ["dies", "passes", "runs out of memory"])
@pytest.mark.long
def test_results_outlive_the_process_that_measures(run, capfd, ending):
    code, (result,) = run(ending, "--only", "op")
    assert code == (ending == "dies")
    assert names(result)[:2] == ["clippo", "peer"]
    assert result["provenance"]["device"] == "Feigned GPU"
    out = capfd.readouterr().out
    assert "| op | " in out
    assert ("signal 9 ended the benchmarks of op" in out) == (ending == "dies")
    if ending != "dies":
        assert names(result) == ["clippo", "peer", "slow-compiler"]  # which comes last
    if ending == "runs out of memory":
        (not_run,) = result["not_run"]
        assert (not_run["test"], not_run["name"], not_run["cases"]) == ("test_fatal", "clippo", 1)
        assert not_run["not_run"].startswith("out of memory")


@pytest.mark.long
def test_results_outlive_a_benchmark_that_takes_too_long(run, monkeypatch, capfd):
    monkeypatch.setattr(gpu, "GRACE_S", 0.0)
    code, (result,) = run("takes too long", "--budget", "30")
    assert code == 0
    assert names(result) == ["clippo", "peer"]
    assert "the benchmarks of op were ended when their time was over" in capfd.readouterr().out


@pytest.mark.long
def test_nothing_is_measured_where_tests_fail(run, capfd):
    code, results = run("passes", test="assert False")
    assert (code, results) == (1, [])
    assert "the tests of op did not pass, so it was not measured" in capfd.readouterr().out


@pytest.mark.long
def test_a_run_keeps_the_results_of_earlier_ones(run, monkeypatch):
    clock = iter(["2026-01-02T03:04:05Z", "2026-01-02T03:09:00Z"])
    provenance = gpu.provenance
    monkeypatch.setattr(gpu, "provenance", lambda: provenance() | {"date": next(clock)})
    _, (first,) = run("passes", "--only", "op")
    code, results = run("passes", "--only", "op", test="assert False")
    assert (code, results) == (1, [first])


def test_no_time_at_all(run, capfd):
    code, results = run("passes", "--budget", "0")
    assert (code, results) == (1, [])
    assert "the tests of op did not end within 0 s" in capfd.readouterr().out


@pytest.mark.long
def test_contestants_that_had_no_time_are_recorded(tmp_path):
    (tmp_path / "conftest.py").write_text("from clippo.bench.conftest import *")
    (tmp_path / "bench_op.py").write_text(SUITE.replace("ACT", ENDINGS["passes"]))
    file = tmp_path / "rows.jsonl"
    assert gpu.pytest(300, f"{tmp_path}/bench_op.py", "--time-limit=0", rows=file) == 0
    rows, not_run = gpu.read_rows(file)
    assert rows == []
    assert {row["name"] for row in not_run} == {"clippo", "peer", "slow-compiler"}
    assert {row["not_run"] for row in not_run} == {"out of time"}


def test_rows_of_a_killed_process(tmp_path):
    assert gpu.read_rows(tmp_path / "no such file") == ([], [])
    path = tmp_path / "rows.jsonl"
    ran, not_run = {"name": "clippo", "median_us": 1.0}, {"name": "peer", "not_run": "out of time"}
    path.write_text(f'{json.dumps(ran)}\n{json.dumps(not_run)}\n{{"name": "cut o')
    assert gpu.read_rows(path) == ([ran], [not_run])


def test_an_installation_without_tests_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["gpu"])
    assert gpu.main() == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert "installation without the tests" in line
