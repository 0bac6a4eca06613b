import json

import pytest
import torch

from clippo.bench import tune
from clippo_kernels import tuning
from clippo_kernels.aot import Report


def test_candidates_of_every_row():
    for kernel, rows in tuning.table("sm_90").items():
        candidates = tune.candidates(kernel, rows[0])
        assert candidates[0] == rows[0]
        assert len(candidates) > 30
        launches = [tuple(sorted(c["launch"].items())) for c in candidates]
        assert len(set(launches)) == len(launches)
        assert all(c["launch"].keys() == rows[0]["launch"].keys() for c in candidates)
        assert all(c["at_most"] == rows[0]["at_most"] for c in candidates)


ROW = {
    "itemsize": 2,
    "at_most": {"head_dim": 64},
    "launch": {"BLOCK_N": 64, "num_warps": 4, "num_stages": 1},
    "chosen_by": "arithmetic",
}


class Inline:
    """A pool without processes."""

    map = staticmethod(map)


def test_the_fastest_that_passes_wins(monkeypatch):
    def compile_row(name, kernel, row):
        problems = ["spills"] if row["launch"]["num_warps"] == 1 else []
        return Report(name, kernel, 2, row["at_most"], row["launch"], problems=problems)

    def seconds(name, kernel, row):
        assert row["launch"]["num_warps"] > 1
        return 1e-6 * (row["launch"]["num_warps"] * row["launch"]["BLOCK_N"] + row["launch"]["num_stages"])

    monkeypatch.setattr(tune, "compile_row", compile_row)
    monkeypatch.setattr(tune, "seconds", seconds)
    assert tune.fastest(Inline(), "sm_90", "attention.pool_forward", ROW, "a GPU") == {
        **ROW,
        "launch": {"BLOCK_N": 16, "num_warps": 2, "num_stages": 1},
        "chosen_by": "measured",
        "us": 33.0,
        "device": "a GPU",
    }


def test_a_row_stays_where_no_candidate_compiles(monkeypatch, capsys):
    def compile_row(name, kernel, row):
        problems = ["does not compile: TypeError: no"]
        return Report(name, kernel, 2, row["at_most"], row["launch"], problems=problems)

    monkeypatch.setattr(tune, "compile_row", compile_row)
    assert tune.fastest(Inline(), "sm_90", "attention.pool_forward", ROW, "a GPU") is ROW
    assert "stays as it is, because does not compile: TypeError: no" in capsys.readouterr().out


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs bench.tune with a feigned GPU and feigned measurements; gives the table that it wrote."""
    path = tmp_path / "table.json"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(tuning, "architecture", lambda device: "sm_90")
    monkeypatch.setattr(tune, "provenance", lambda: {"device": "a GPU", "torch": "2", "triton": "3"})

    def run(*arguments, fastest):
        monkeypatch.setattr(tune, "fastest", fastest)
        monkeypatch.setattr("sys.argv", ["tune", *arguments, "--out", str(path)])
        try:
            assert tune.main() == 0
        finally:
            table = json.loads(path.read_text()) if path.exists() else None
        return table

    return run


def measure(pool, name, kernel, row, device):
    return tune.measured(row, 1e-6, device)


def measured_rows(table):
    return {kernel: n for kernel, rows in table.items() if (n := sum("us" in row for row in rows))}


def test_one_kernel_after_another(run):
    rows = {kernel: len(rows) for kernel, rows in tuning.table("sm_90").items()}
    first, second = rows["attention.pool_forward"], rows["attention.long_forward"]
    table = run("attention", "--kernel", "pool_forward", fastest=measure)
    assert measured_rows(table) == {"pool_forward": first}
    table = run("attention", "--kernel", "long_forward", fastest=measure)
    assert measured_rows(table) == {"pool_forward": first, "long_forward": second}
    assert {f"attention.{kernel}" for kernel in table} == {k for k in rows if k.startswith("attention.")}
    assert not measured_rows(tuning.table("sm_90"))  # as it is on file


def test_an_interrupted_run_keeps_the_rows_before(run, tmp_path):
    calls = []

    def interrupt(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(*arguments)

    with pytest.raises(KeyboardInterrupt):
        run("attention", "--kernel", "long_forward", fastest=interrupt)
    table = json.loads((tmp_path / "table.json").read_text())
    assert measured_rows(table) == {"long_forward": 2}


def test_no_row_starts_after_the_budget(run, monkeypatch, capsys):
    clock = iter(range(100))
    monkeypatch.setattr(tune.time, "monotonic", lambda: next(clock))
    table = run("attention", "--budget", "2", fastest=measure)
    assert sum(measured_rows(table).values()) == 2
    assert "the time is over" in capsys.readouterr().out


def test_unknown_kernel(run, capsys):
    with pytest.raises(SystemExit):
        run("attention", "--kernel", "cats", fastest=measure)
    assert "--kernel must be a kernel of attention (short_forward, " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="in the interpreter, with a clock that stands still")
def test_the_kernel_of_the_row_is_timed(monkeypatch):
    launches = []

    def do_bench(launch, **_):
        launches.append(launch)
        return 5.0

    monkeypatch.setattr("triton.testing.do_bench", do_bench)
    monkeypatch.setattr(tune, "DEVICE", "cpu")
    monkeypatch.setattr(tune, "TOKENS", 1)
    kernel = "attention.short_backward_varlen"
    row = {
        "itemsize": 2,
        "at_most": {"head_dim": 16, "keys": 16},
        "launch": {"BLOCK_M": 16, "num_warps": 1, "num_stages": 1},
    }
    before = tuning.find(kernel, torch.device("cpu"), torch.bfloat16, head_dim=16, keys=16)
    assert tune.seconds("sm_90", kernel, row) == 5e-3
    assert len(launches) == 1
    assert tuning.find(kernel, torch.device("cpu"), torch.bfloat16, head_dim=16, keys=16) == before
