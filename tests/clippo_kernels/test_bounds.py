"""Predictions of the rows: what is kept, compared and shown."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from clippo_kernels import bounds, pipes, tuning

BOUND = bounds.Bound(
    kernel="op.kernel",
    itemsize=2,
    at_most={"head_dim": 64},
    problem="2 x 3",
    programs=4,
    iterations=5,
    loop=dict.fromkeys(pipes.CLASSES, 1),
    pipes=dict.fromkeys(pipes.PIPES, 2),
    bound_by="issue",
    bound=1000,
    estimate=2000,
    memory_floor=500,
    product_floor=1500,
)

TTGIR = """
#mma = #ttg.nvidia_mma<{versionMajor = 3, versionMinor = 0, warpsPerCTA = [8, 1], instrShape = [16, 32, 16]}>
#mma1 = #ttg.nvidia_mma<{versionMajor = 2, versionMinor = 0, warpsPerCTA = [1, 8], instrShape = [16, 8]}>
    %1 = ttng.warp_group_dot %a, %b, %c {isAsync = true} : !ttg.memdesc<ROWSx256xbf16, #shared> * \
!ttg.memdesc<256x64xbf16, #shared> -> tensor<ROWSx64xf32, #mma> loc(#loc130)
    %2 = tt.dot %d, %e, %f : tensor<32x64xbf16, #a> * tensor<64xCOLUMNSxbf16, #b> -> \
tensor<32xCOLUMNSxf32, #mma1>
"""


@pytest.mark.parametrize(
    ("rows", "columns", "expected"), [(128, 64, 1), (64, 64, 2), (128, 16, 4), (256, 128, 1)]
)
def test_redundant_products(rows, columns, expected):
    ttgir = TTGIR.replace("ROWS", str(rows)).replace("COLUMNS", str(columns))
    assert bounds.redundant_products(ttgir) == expected


def test_figures_are_read_as_they_were_written(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "PATH", tmp_path / "bounds.json")
    figures = bounds.Figures("3.9.0", [BOUND])
    figures.write()
    assert bounds.Figures.read() == figures


def test_what_is_worse():
    figures = bounds.Figures("3.9.0", [BOUND])
    assert figures.problems(dataclasses.replace(BOUND, bound=1030, estimate=2060), "3.9.0") == []
    worse = dataclasses.replace(BOUND, bound=1031, estimate=2061)
    assert figures.problems(worse, "3.9.0") == [
        "its predicted bound rose from 1,000 to 1,031 clocks; --write accepts it",
        "its predicted time rose from 2,000 to 2,061 clocks; --write accepts it",
    ]
    assert figures.problems(worse, "3.10.0") == []  # another compiler: nothing to compare with
    other = dataclasses.replace(BOUND, problem="3 x 3")
    assert figures.problems(other, "3.9.0") == ["has no prediction on file; --write adds it"]


def test_table_in_a_page():
    page = f"a\n{bounds.BEGIN}old\n{bounds.END}\nb\n"
    page = bounds.replace_table(page, [BOUND])
    row = "| `op.kernel` | 16 | head_dim 64 | 2 x 3 | 1 / 1 / 1 / 1 / 1 / 1 | issue | "
    assert f"{row}1.0 | 0.5 | 1.5 | 2.0 | 75% |" in page.splitlines()
    assert "old" not in page
    assert bounds.replace_table(page, [BOUND]) == page
    with pytest.raises(ValueError, match="expected one <!-- bounds: sm_90 --> and one"):
        bounds.replace_table("no marks", [BOUND])


CODE = """
.L_x_1:
        /*0000*/                   FADD R2, R2, R3 ;
        /*0010*/              @!P4 BRA `(.L_x_1) ;
        /*0020*/                   EXIT ;
"""


def test_prediction_of_a_launch(monkeypatch):
    monkeypatch.setattr(bounds.sass, "disassemble", lambda cubin: CODE)
    compiled = SimpleNamespace(asm={"cubin": b"", "ptx": ""}, metadata=SimpleNamespace(num_warps=4))
    row = {"itemsize": 4, "at_most": {}}
    arguments = {"x": torch.empty(1000, device="meta"), "n": 1000}
    work = pipes.Work("1000", iterations=100, flop=0)
    bound = bounds.predict("op.kernel", row, compiled, 133, arguments, work)
    # An SM has two programs, each with 100 passes of two instructions, and the end.
    assert bound.pipes["issue"] == 201
    assert bound.pipes["fma"] == 100
    assert (bound.bound_by, bound.bound) == ("issue", 402)
    assert bound.estimate == pytest.approx(pipes.LATENCY_FACTOR * 402, abs=1)
    assert bound.memory_floor == pytest.approx(4000 / 3.0e12 * 1.755e9, abs=1)
    many = bounds.predict(
        "op.kernel", row, compiled, 1, arguments | {"x": torch.empty(10**9, device="meta")}, work
    )
    assert many.bound_by == "memory"
    assert many.bound == many.estimate == many.memory_floor


def test_every_row_has_a_prediction():
    on_file = [(b.kernel, b.itemsize, b.at_most) for b in bounds.Figures.read().bounds]
    rows = tuning.table(bounds.ARCHITECTURE).items()
    assert on_file == [(kernel, row["itemsize"], row["at_most"]) for kernel, found in rows for row in found]


def test_the_documented_table_is_current():
    page = bounds.PAGE.read_text()
    assert bounds.replace_table(page, bounds.Figures.read().bounds) == page, (
        "run python -m clippo_kernels.aot --write"
    )
