import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from clippo_kernels import tuning

CPU = torch.device("cpu")
TABLE = {
    "kernel": [
        {"itemsize": 2, "at_most": {"head_dim": 64, "keys": 64}, "launch": {"num_warps": 1}},
        {"itemsize": 2, "at_most": {"head_dim": 64, "keys": 256}, "launch": {"num_warps": 2}},
        {"itemsize": 2, "at_most": {"head_dim": 128}, "launch": {"num_warps": 4}},
        {"itemsize": 4, "at_most": {}, "launch": {"num_warps": 8}},
    ]
}

# Kernels whose tables must have a row for whatever comes.
ALWAYS_FOUND = [
    *(f"attention.long_{name}" for name in ("forward", "backward_dkdv", "backward_dq")),
    *(f"attention.pool_{name}" for name in ("forward", "backward")),
    *(f"patch_embed.{name}" for name in ("prepare", "forward", "weight_gradient", "finish")),
    *(f"patch_embed.{name}_select" for name in ("forward", "weight_gradient", "position_gradient")),
    "patch_embed.position_gradient",
    *(
        f"contrastive.{name}{labels}"
        for name in ("forward", "sigmoid_forward")
        for labels in ("", "_labelled")
    ),
    "contrastive.dlogits",
    "contrastive.finish",
]


@pytest.fixture
def own_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "op" / "launch_tables"
    folder.mkdir(parents=True)
    (folder / "sm_90.json").write_text(json.dumps(TABLE))
    monkeypatch.setattr(tuning, "FOLDER", tmp_path)
    tuning.clear_caches()
    yield
    tuning.clear_caches()


@pytest.mark.parametrize(
    ("dtype", "sizes", "warps"),
    [
        (torch.bfloat16, {"head_dim": 64, "keys": 64}, 1),
        (torch.float16, {"head_dim": 32, "keys": 65}, 2),
        (torch.bfloat16, {"head_dim": 64, "keys": 257}, 4),
        (torch.bfloat16, {"head_dim": 80, "keys": 16}, 4),
        (torch.float32, {"head_dim": 999, "keys": 999}, 8),
    ],
)
def test_first_row_that_fits(own_table, dtype, sizes, warps):
    assert tuning.find("op.kernel", CPU, dtype, **sizes) == {"num_warps": warps}


def test_no_row_fits(own_table):
    assert tuning.find("op.kernel", CPU, torch.bfloat16, head_dim=129) is None
    assert tuning.find("op.kernel", CPU, torch.float64, head_dim=64) is None
    assert tuning.find("op.other", CPU, torch.bfloat16, head_dim=64) is None


@pytest.mark.parametrize(
    ("capability", "table"),
    [((8, 0), "sm_80"), ((8, 9), "sm_80"), ((9, 0), "sm_90"), ((10, 3), "sm_100"), ((12, 0), "sm_80")],
)
def test_architecture_of_a_gpu(monkeypatch, capability, table):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert tuning.architecture(torch.device("cuda", 0)) == table
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert tuning.architecture(torch.device("cuda", 0)) == "gfx942"


def test_assumed_rows(own_table):
    rows = [{"itemsize": 2, "at_most": {}, "launch": {"num_warps": 16}}]
    with tuning.assume("sm_90", {"op.kernel": rows}):
        assert tuning.find("op.kernel", CPU, torch.bfloat16, head_dim=64) == {"num_warps": 16}
        assert tuning.find("op.other", CPU, torch.bfloat16) is None
    assert tuning.find("op.kernel", CPU, torch.bfloat16, head_dim=64, keys=1) == {"num_warps": 1}


def test_plans_are_kept_until_the_tables_change(own_table, monkeypatch):
    monkeypatch.setattr(tuning, "planned_functions", [])
    calls = []

    @tuning.planned
    def warps(head_dim):
        calls.append(head_dim)
        return tuning.find("op.kernel", CPU, torch.bfloat16, head_dim=head_dim)["num_warps"]

    assert [warps(64), warps(64), warps(128)] == [1, 1, 4]
    assert calls == [64, 128]
    rows = [{"itemsize": 2, "at_most": {}, "launch": {"num_warps": 16}}]
    with tuning.assume("sm_90", {"op.kernel": rows}):
        assert warps(64) == 16
    assert warps(64) == 1
    assert calls == [64, 128, 64]
    tuning.clear_caches()
    assert warps(64) == 1
    assert calls == [64, 128, 64, 64]


@pytest.mark.parametrize("architecture", tuning.ARCHITECTURES)
def test_files_are_as_written(architecture):
    assert tuning.ops()
    for op in tuning.ops():
        text = tuning.table_path(op, architecture).read_text()
        assert tuning.dumps(json.loads(text)) == text


def test_assumed_architecture():
    with tuning.assume("sm_100"), tuning.assume("gfx942"):
        assert tuning.architecture(CPU) == "gfx942"
    assert tuning.architecture(CPU) == "sm_90"


def test_an_assumption_holds_in_its_own_thread():
    with ThreadPoolExecutor(1) as thread, tuning.assume("sm_100"):
        assert thread.submit(tuning.architecture, CPU).result() == "sm_90"


@pytest.mark.parametrize("architecture", tuning.ARCHITECTURES)
def test_shipped_tables(architecture):
    table = tuning.table(architecture)
    for kernel, rows in table.items():
        for i, row in enumerate(rows):
            assert row["itemsize"] in (2, 4, 8)
            assert row["chosen_by"] in ("arithmetic", "measured"), (kernel, row)
            assert {"num_warps", "num_stages"} < row["launch"].keys()
            assert "why" in row or not row.keys() & {"spill_bytes", "redundant"}
            # A row whose sizes an earlier one already takes would never be used.
            for earlier in rows[:i]:
                assert earlier["itemsize"] != row["itemsize"] or any(
                    row["at_most"].get(key, float("inf")) > limit for key, limit in earlier["at_most"].items()
                ), (kernel, row)
    with tuning.assume(architecture):
        for kernel, dtype in itertools.product(ALWAYS_FOUND, (torch.float16, torch.float32)):
            sizes = {"head_dim": 128, "keys": 10**6} if "attention" in kernel else {}
            if "patch_embed" in kernel:
                sizes |= {"pixel_bytes": 4, "pixels": 10**6}
            assert tuning.find(kernel, CPU, dtype, **sizes), kernel
        assert tuning.find("contrastive.combine", CPU, torch.float32)
