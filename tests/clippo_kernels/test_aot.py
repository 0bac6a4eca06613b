"""The ahead-of-time gate. It compiles in processes of its own: this one may have chosen to interpret."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from clippo_kernels import aot, bounds, calibration, tuning


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)


WITHOUT_PRODUCTS = re.compile(
    "attention.pool.*|patch_embed.(prepare|finish|position_gradient)|contrastive.(combine|finish)"
)


@pytest.fixture(scope="module")
def reports() -> list[dict]:
    done = run("-m", "clippo_kernels.aot", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.long
def test_every_row_of_every_table_compiles(reports):
    assert [(r["architecture"], r["kernel"]) for r in reports] == [
        (name, kernel) for name, kernel, _ in aot.rows_of(list(tuning.ARCHITECTURES))
    ]
    for report in reports:
        assert report["problems"] == []
        assert report["registers"] > 0
        assert report["programs_per_sm"] > 0
        if report["itemsize"] == 2 and not WITHOUT_PRODUCTS.fullmatch(report["kernel"]):
            assert report["tensor_core_instructions"] > 0


@pytest.mark.long
def test_a_row_answers_for_every_use_of_its_kernel(reports):
    """Both losses, with labels and without, take the same row of a backward: the worst is reported."""
    code = """
from clippo_kernels import aot, tuning
for kernel in ("dlogits", "gradient", "forward", "forward_labelled"):
    row = tuning.table("sm_90")[f"contrastive.{kernel}"][0]
    print(len(aot.launches_of("sm_90", f"contrastive.{kernel}", row, tokens=2048, device="meta")))
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert [int(n) for n in done.stdout.split()] == [4, 8, 1, 1]


@pytest.mark.long
def test_hopper_at_head_dim_64(reports):
    rows = [r for r in reports if r["architecture"] == "sm_90" and r["at_most"].get("head_dim") == 64]
    assert all(r["spill_bytes"] == 0 for r in rows)
    short = [r for r in rows if r["kernel"] == "attention.short_forward"]
    assert max(r["at_most"]["keys"] for r in short) == 256
    assert all(r["programs_per_sm"] >= 2 for r in short)
    backward = [r for r in rows if r["kernel"] == "attention.short_backward"]
    assert max(r["at_most"]["keys"] for r in backward) == 256


# Rows that must not pass, and what must be said of them.
BAD_ROWS = {
    "spills": (
        "attention.short_forward",
        {"head_dim": 128, "keys": 256},
        {"BLOCK_M": 128, "num_warps": 4, "num_stages": 2},
        "bytes a thread, admitted are 0",
    ),
    "shared memory": (
        "attention.long_forward",
        {"head_dim": 128},
        {"BLOCK_M": 128, "BLOCK_N": 128, "num_warps": 8, "num_stages": 4},
        "bytes of shared memory of 232448",
    ),
    "redundant": (
        "contrastive.gradient",
        {"channels": 256},
        {"BLOCK_R": 64, "BLOCK_B": 64, "num_warps": 8, "num_stages": 2},
        "computes a product 2 times, admitted is 1",
    ),
    "does not compile": (
        "attention.long_forward",
        {"head_dim": 64},
        {"BLOCK_M": 100, "BLOCK_N": 64, "num_warps": 4, "num_stages": 1},
        "does not compile: ",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("spills", marks=pytest.mark.long),
        pytest.param("shared memory", marks=pytest.mark.long),
        pytest.param("redundant", marks=pytest.mark.long),
        "does not compile",
    ],
)
def test_what_the_gate_refuses(name):
    kernel, at_most, launch, message = BAD_ROWS[name]
    row = {"itemsize": 2, "at_most": at_most, "launch": launch, "chosen_by": "arithmetic"}
    code = f"""
from clippo_kernels.aot import compile_row, line
print(line(compile_row("sm_90", {kernel!r}, {row!r})))
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert "FAILED" in done.stdout
    assert message in done.stdout


@pytest.mark.long
def test_odd_heads_of_72_are_loaded_16_bytes_at_a_time():
    # Their rows start at multiples of 16 bytes, but not of 16 elements.
    code = """
import re, torch
from triton.runtime import driver
from clippo_kernels import _triton, aot, tuning
from clippo_kernels.attention import launch

def compile_only(function, programs, args, options):
    ptx = function.warmup(*args, grid=(1,), **options).asm["ptx"]
    loads = re.findall(r"ld[.]global[^ ]*", ptx)
    print(options["ALIGNED"], len(loads), sum(".v4" in load for load in loads))

driver.set_active(aot.TargetDriver("sm_90"))
with tuning.assume("sm_90"), _triton.launch_hook(compile_only):
    for width in (72, 73):
        qkv = torch.empty(8, 100, 3, 15, width, dtype=torch.bfloat16, device="meta")[..., :72]
        launch.forward(*qkv.unbind(2), 1.0)
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    wide, narrow = (line.split() for line in done.stdout.splitlines())
    assert wide[0] == "True"
    assert wide[1] == wide[2]
    assert narrow[0] == "False"
    assert narrow[2] == "0"


@pytest.mark.long
def test_patches_of_every_size():
    # The tables' rows are compiled for patches of 16 px. Others keep the tensor cores and spill nothing; how
    # wide their loads are depends on where runs of pixels start: at multiples of 16, 8 or 2 bytes.
    code = """
import re, torch
from triton.runtime import driver
from clippo_kernels import _triton, aot, tuning
from clippo_kernels.patch_embed import launch

def compile_only(function, programs, args, options):
    if function.__name__ in ("forward", "weight_gradient"):
        compiled = function.warmup(*args, grid=(1,), **options)
        ptx = compiled.asm["ptx"]
        products = len(re.findall("wgmma.mma_async", ptx))
        _, spilled = aot.cubin_resources(compiled.asm["cubin"])
        copies = re.findall(r"cp[.]async[.]c[ag][.]shared[.]global .*?, 0x(\\w+)", ptx)
        narrowest = min((int(size, 16) for size in copies), default=16)  # none where one block is all of K
        narrow_loads = len(re.findall(r"ld[.]global[.]b16", ptx))
        print(P, C, function.__name__, products, spilled, narrowest, narrow_loads)

driver.set_active(aot.TargetDriver("sm_90"))
half = [0.5] * 3
with tuning.assume("sm_90"), _triton.launch_hook(compile_only):
    for P in (8, 14, 16, 32):
        for C in (1, 3):
            images = torch.empty(8, 224, 224, C, dtype=torch.uint8, device="meta").movedim(-1, 1)
            weight = torch.empty(768, 3, P, P, dtype=torch.bfloat16, device="meta")
            position = torch.empty((224 // P) ** 2, 768, device="meta")
            arguments = None, half, half, torch.bfloat16
            tokens = launch.forward(images, weight, position[0], position, *arguments, torch.bfloat16)
            launch.weight_gradient(tokens, images, weight, position[0], *arguments)
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 16
    for P, C, kernel, products, spilled, narrowest_copy, narrow_loads in lines:
        assert int(products) > 0
        assert spilled == "0"
        if P == "14":  # pixels go through registers, in twos; what is copied is the other operand
            assert int(narrow_loads) > 0
        else:
            assert int(narrowest_copy) >= 8, (P, C, kernel)
            assert narrow_loads == "0"


def test_products_that_missed_the_tensor_cores():
    ttgir = """
#blocked = #ttg.blocked<{sizePerThread = [4, 4]}>
#mma = #ttg.nvidia_mma<{versionMajor = 2}>
    %1 = tt.dot %a, %b, %c : tensor<16x16xf16, #a> * tensor<16x16xf16, #b> -> tensor<16x16xf32, #blocked>
    %2 = tt.dot %a, %b, %c : tensor<16x16xf16, #a> * tensor<16x16xf16, #b> -> tensor<16x16xf32, #mma>
"""
    assert aot.scalar_products(ttgir) == 1


def test_admitted_spills_need_a_reason_and_pass():
    report = aot.Report("sm_90", "op.kernel", 2, {}, {}, spill_bytes=8)
    row = {"itemsize": 2, "spill_bytes": 8, "why": "one register, outside the loop"}
    assert aot.problems_of(report, row, products=0, scalar=0, tensor_memory=0) == []
    row["spill_bytes"] = 4
    assert aot.problems_of(report, row, products=0, scalar=0, tensor_memory=0) == [
        "spills 8 bytes a thread, admitted are 4"
    ]


def test_tensor_memory_and_missing_products():
    report = aot.Report("sm_100", "op.kernel", 2, {}, {})
    problems = aot.problems_of(report, {"itemsize": 2}, products=2, scalar=0, tensor_memory=640)
    assert problems == [
        "needs 640 columns of tensor memory of 512",
        "2 of 2 products are not on tensor cores",
    ]


@pytest.fixture
def predicted(tmp_path, monkeypatch) -> list[aot.Report]:
    """Two rows whose predictions are the only ones on file, and a page for them."""
    found = bounds.Figures.read().bounds[:2]
    monkeypatch.setattr(bounds, "PATH", tmp_path / "bounds.json")
    monkeypatch.setattr(bounds, "PAGE", tmp_path / "page.md")
    bounds.PAGE.write_text(f"{bounds.BEGIN}{bounds.END}")
    bounds.Figures(aot.triton_version(), found).write()
    return [aot.Report("sm_90", b.kernel, b.itemsize, b.at_most, {}, bound=b) for b in found]


def test_a_prediction_that_is_worse_than_on_file_fails(predicted, monkeypatch, capsys):
    slower = predicted[1]
    assert slower.bound is not None
    slower.bound = replace(slower.bound, estimate=2 * slower.bound.estimate)
    monkeypatch.setattr(aot, "compile_tables", lambda names: predicted)
    monkeypatch.setattr(sys, "argv", ["aot", "--arch", "sm_90"])
    assert aot.main() == 1
    assert predicted[0].problems == []
    assert "its predicted time rose from" in capsys.readouterr().out


def test_predictions_of_another_compiler_are_not_compared(predicted, monkeypatch, capsys):
    """All else is checked: the row that spills fails, and the one that is slower than on file does not."""
    on_file = [replace(report.bound, estimate=1, bound=1) for report in predicted]
    bounds.Figures("1.2.3", on_file).write()
    predicted[1].problems = ["spills 8 bytes a thread, admitted are 0"]
    monkeypatch.setattr(aot, "compile_tables", lambda names: predicted)
    monkeypatch.setattr(sys, "argv", ["aot", "--arch", "sm_90"])
    assert aot.main() == 1
    assert [len(report.problems) for report in predicted] == [0, 1]
    out, err = capsys.readouterr()
    assert out.endswith("2 rows, 1 failed\n")
    assert "predictions on file are of Triton 1.2.3, and not compared" in err


def test_writing_accepts_what_is_worse(predicted, monkeypatch):
    slower = replace(predicted[1].bound, estimate=10**9)
    predicted[1].bound = slower
    monkeypatch.setattr(aot, "compile_tables", lambda names: predicted)
    monkeypatch.setattr(sys, "argv", ["aot", "--write"])
    assert aot.main() == 0
    assert bounds.Figures.read().bounds[1] == slower
    assert "1,000,000.0" in bounds.PAGE.read_text()


def test_nothing_is_written_without_all_predictions(predicted):
    predicted[1].bound = None
    before = bounds.PATH.read_text()
    with pytest.raises(ValueError, match=f"got none for .'{predicted[1].kernel}'."):
        aot.write_predictions(predicted)
    assert bounds.PATH.read_text() == before


def test_report(predicted, monkeypatch, capsys):
    names = []
    monkeypatch.setattr(aot, "compile_tables", lambda asked: names.extend(asked) or predicted)
    monkeypatch.setattr(
        calibration, "comparisons", lambda: iter([calibration.Comparison("a paper", 64, 512, 100, 110.0)])
    )
    monkeypatch.setattr(sys, "argv", ["aot", "--report"])
    assert aot.main() == 0
    assert names == ["sm_90"]
    out = capsys.readouterr().out
    assert "nothing was measured" in out
    assert f"| `{predicted[0].kernel}` |" in out
    assert "| a paper | 64 | 512 | 100 | 110 | +10% |" in out


def test_the_model_is_of_one_architecture(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["aot", "--report", "--arch", "sm_80"])
    with pytest.raises(SystemExit):
        aot.main()
    assert "--report and --write are for sm_90, got --arch sm_80" in capsys.readouterr().err


@pytest.mark.slow
def test_table_for_reading():
    report = aot.Report(
        "sm_90", "attention.long_forward", 2, {"head_dim": 64}, {"BLOCK_M": 64}, problems=["no"]
    )
    assert aot.line(report).endswith("FAILED: no")
    assert run("-m", "clippo_kernels.aot", "--arch", "sm_70").returncode == 2
