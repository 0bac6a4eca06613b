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


class Inline:
    """A pool without processes."""

    map = staticmethod(map)


def test_the_fastest_that_passes_wins(monkeypatch):
    row = {
        "itemsize": 2,
        "at_most": {"head_dim": 64},
        "launch": {"BLOCK_N": 64, "num_warps": 4, "num_stages": 1},
        "chosen_by": "arithmetic",
    }

    def compile_row(name, kernel, row):
        problems = ["spills"] if row["launch"]["num_warps"] == 1 else []
        return Report(name, kernel, 2, row["at_most"], row["launch"], problems=problems)

    def seconds(name, kernel, row):
        assert row["launch"]["num_warps"] > 1
        return 1e-6 * (row["launch"]["num_warps"] * row["launch"]["BLOCK_N"] + row["launch"]["num_stages"])

    monkeypatch.setattr(tune, "compile_row", compile_row)
    monkeypatch.setattr(tune, "seconds", seconds)
    assert tune.fastest(Inline(), "sm_90", "attention.pool_forward", row, "a GPU") == {
        **row,
        "launch": {"BLOCK_N": 16, "num_warps": 2, "num_stages": 1},
        "chosen_by": "measured",
        "us": 33.0,
        "device": "a GPU",
    }


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
