from bench import tune
from clippo_kernels import tuning
from clippo_kernels.aot import Report


def test_candidates_of_every_row():
    for kernel, rows in tuning.table("sm_90").items():
        candidates = tune.candidates(kernel, rows[0])
        assert candidates[0] == rows[0]
        assert len(candidates) > 40
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
