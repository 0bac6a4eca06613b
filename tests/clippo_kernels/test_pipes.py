"""The model of an SM's pipes, by hand."""

import dataclasses

import pytest

from clippo_kernels import pipes
from clippo_kernels.sass import Instruction, Path


def instruction(opcode, operands="", predicate=""):
    return Instruction(0, predicate, opcode, operands)


def clocks(opcode, operands="", warps=4):
    """Clocks of the pipes beside the issue slot that are not 0."""
    found = pipes.clocks_of([instruction(opcode, operands)], warps)
    assert found.pop("issue") == warps / 4
    return {pipe: taken for pipe, taken in found.items() if taken}


def test_wgmma():
    # A warpgroup's 64 x 128 x 16 are 131,072 multiply-adds. The right operand has 4 KiB, the left one 2 KiB.
    both = clocks("HGMMA.64x128x16.F32.BF16", "R24, gdesc[UR20], R24, gsb0")
    assert both == {"tensor": 64, "shared": 48, "operands": 48}
    left_in_registers = clocks("HGMMA.64x128x16.F32.BF16", "R24, R152, gdesc[UR20], R24")
    assert left_in_registers == {"tensor": 64, "shared": 32, "operands": 32}


def test_mma_sync():
    assert clocks("HMMA.16816.F32.BF16", "R4, R8, R12, R4") == {"tensor": pytest.approx(4 / 0.62)}
    assert clocks("HMMA.1688.F32.BF16", "R4, R8, R12, R4") == {"tensor": pytest.approx(2 / 0.62)}
    assert clocks("HMMA.1688.F32.TF32", "R4, R8, R12, R4") == {"tensor": pytest.approx(4 / 0.62)}


@pytest.mark.parametrize(
    ("opcode", "expected"),
    [
        ("FFMA", {"fma": 1}),
        ("HFMA2.BF16_V2", {"fma": 1}),
        ("IMAD.WIDE.U32", {"fma": 2}),
        ("FMNMX", {"alu": 2}),
        ("F2FP.BF16.F32.PACK_AB", {"alu": 2}),
        ("MUFU.EX2", {"mufu": 8}),
        ("SHFL.BFLY", {"shuffle": 4}),
        ("LDS.128", {"shared": 16}),
        ("LDSM.16.MT88.4", {"shared": 16}),
        ("STS", {"shared": 4}),
        ("STG.E.U16", {"shared": 2}),
        ("LDGSTS.E.BYPASS.128", {"shared": 16}),
        ("UTMALDG.2D", {}),
        ("UIADD3", {}),
        ("BAR.SYNC.DEFER_BLOCKING", {}),
        ("BRA", {}),
    ],
)
def test_rates(opcode, expected):
    assert clocks(opcode) == expected


@pytest.mark.parametrize("opcode", ["HGMMA.F32", "HMMA.F32"])
def test_products_without_a_shape(opcode):
    with pytest.raises(ValueError, match=f"expected a shape such as .* in '{opcode}'"):
        clocks(opcode)


def test_what_is_never_run_is_issued_all_the_same():
    wait = instruction("LDS", predicate="@!PT")
    assert pipes.clocks_of([wait], 4) == dict.fromkeys(pipes.PIPES, 0) | {"issue": 1}
    assert not any(pipes.class_counts([wait]).values())


def test_total_and_estimate():
    add, product = instruction("FADD"), instruction("HGMMA.64x64x16.F32.BF16", "R24, R40, gdesc[UR20], R24")
    total = pipes.total(Path((add,), (product, add), (add,)), warps=4, iterations=10)
    assert total["fma"] == 12
    assert total["tensor"] == 320
    assert total["issue"] == 22
    assert total["shared"] == total["operands"] == 160  # read while the tensor cores work
    assert pipes.serial(total) == 320 + 22
    assert pipes.estimate(total) == pytest.approx(pipes.LATENCY_FACTOR * pipes.serial(total))


def test_classes():
    names = "HGMMA.64x8x16.F32 MUFU.EX2 FADD IMAD F2FP LDS LDGSTS BAR BRA UMOV SHFL".split()
    counts = pipes.class_counts(map(instruction, names))
    assert counts == {"tensor": 1, "mufu": 1, "alu": 3, "shared": 1, "global": 1, "barrier": 1}


def test_floors():
    gpu = dataclasses.replace(pipes.H100, sms=100, clock=1e9, bandwidth=1e12)
    assert gpu.memory_clocks(5000) == pytest.approx(5)
    assert gpu.product_clocks(4096 * 100, itemsize=2) == 1
    assert gpu.product_clocks(256 * 100, itemsize=4) == 1
