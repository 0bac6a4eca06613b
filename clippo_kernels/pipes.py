"""A model of the pipes of an H100's streaming multiprocessor (SM): clocks that a kernel's instructions take.

What comes out is a prediction, not a measurement. Each instruction of a warp occupies the issue slot of its
quarter of the SM for a clock, and one pipe for as long as 32 lanes take at the pipe's rate. Rates are per SM
and clock:

    tensor    2,048 multiply-adds of 16-bit operands for wgmma, 62 % of that for mma.sync
    shared    128 bytes of shared memory and L1, operands that wgmma reads from there included
    shuffle   32 lanes
    mufu      16 exponentials, logarithms, reciprocals, or conversions between integers and floats
    fma       128 float32 multiply-adds, 64 integer multiply-adds
    alu       64 integer, logic, comparison, selection, maximum and packing results
    issue     4 instructions of a warp

They are those of the throughput table for compute capability 9.0 in the CUDA C++ Programming Guide; that of
wgmma is the data sheet's 989 TFLOP/s at 1.83 GHz, and that of mma.sync was measured by Luo et al. (arXiv
2402.13499).

A *bound* assumes that all pipes work at the same time, without latency: no kernel with this machine code is
faster. An *estimate* assumes that the tensor cores of an SM, and the reads of wgmma's operands meanwhile,
wait for the other pipes and these for them, times a factor for latency that `calibration` fits to published
figures. Memory is overlapped with both. Not in the model: the L2 cache, bank conflicts, conflicts of
registers, the latency of loads, and the clocks before the first and after the last program of an SM.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .sass import Instruction, Path

__all__ = [
    "CLASSES",
    "H100",
    "LATENCY_FACTOR",
    "PIPES",
    "Gpu",
    "Work",
    "class_counts",
    "clocks_of",
    "estimate",
    "serial",
    "total",
]

# "operands" are the part of "shared" in which wgmma reads its operands.
PIPES = ("tensor", "shared", "operands", "shuffle", "mufu", "fma", "alu", "issue")
# Classes of instructions that a report counts in a loop.
CLASSES = ("tensor", "mufu", "alu", "shared", "global", "barrier")

# Clocks of an SM over those that tensor cores and the busiest other pipe take one after the other: see
# `calibration.fitted_factor`.
LATENCY_FACTOR = 1.173

Clocks = dict[str, float]


@dataclass(frozen=True)
class Gpu:
    """Number of SMs, their clock in Hz, and the bandwidth of device memory in bytes a second."""

    sms: int
    clock: float
    bandwidth: float

    def memory_clocks(self, count: float) -> float:
        """Clocks of the whole device that reading or writing `count` bytes takes."""
        return count / self.bandwidth * self.clock

    def product_clocks(self, flop: float, itemsize: int) -> float:
        """Clocks of the whole device that products of `flop` FLOP take: of float32 without tensor cores."""
        return flop / 2 / RATES["tensor" if itemsize < 4 else "fma"] / self.sms


@dataclass(frozen=True)
class Work:
    """Sizes, loops and products of a launch.

    Attributes:
        problem: its sizes, such as "157 x 208 x 12 x 64".
        iterations: how often a program runs its loop.
        flop: FLOP of the matrix products that the problem needs, without padding.
    """

    problem: str
    iterations: int
    flop: int


# An H100 SXM at the clock that it keeps under load; it copies about 3.0 of its 3.35 TB/s.
H100 = Gpu(sms=132, clock=1.755e9, bandwidth=3.0e12)

RATES = {"tensor": 2048, "shared": 128, "shuffle": 32, "mufu": 16, "fma": 128, "alu": 64, "issue": 4}
LANES = 32
MMA_SYNC_EFFICIENCY = 0.62

FMA = {"FFMA", "FMUL", "FADD", "FFMA32I", "FMUL32I", "FADD32I", "HFMA2", "HADD2", "HMUL2"}
MUFU = {"MUFU", "I2F", "F2I", "F2F", "POPC", "FLO", "BREV"}
SHARED = {"LDS", "STS", "LDSM", "STSM", "ATOMS"}
GLOBAL = {"LDG", "STG", "LDGSTS", "LD", "ST", "RED", "ATOM", "ATOMG", "UTMALDG", "UTMASTG", "LDL", "STL"}
BARRIER = {"BAR", "DEPBAR", "LDGDEPBAR", "WARPGROUP", "WARPSYNC", "MEMBAR", "FENCE", "SYNCS", "ERRBAR"}
TENSOR = {"HGMMA", "HMMA"}
# These occupy the issue slot alone: control, loads of constants and special registers.
ISSUE_ONLY = {
    "BRA", "EXIT", "NOP", "BSSY", "BSYNC", "CALL", "RET", "BREAK", "YIELD", "KILL", "ELECT", "CCTL",
    "PREEXIT", "LDC", "S2R", "CS2R", "R2UR", "S2UR", "ACQBULK", "WARPGROUPSYNC", "NANOSLEEP",
}  # fmt: skip


def total(path: Path, warps: int, iterations: float) -> Clocks:
    """Clocks of each pipe of an SM for one program of `warps` warps, whose loop runs `iterations` times."""
    once, loop = clocks_of((*path.before, *path.after), warps), clocks_of(path.loop, warps)
    return {pipe: once[pipe] + iterations * loop[pipe] for pipe in PIPES}


def clocks_of(instructions: Iterable[Instruction], warps: int) -> Clocks:
    """Clocks of each pipe of an SM, if `warps` warps run these instructions once."""
    clocks = dict.fromkeys(PIPES, 0.0)
    for instruction in instructions:
        clocks["issue"] += warps / RATES["issue"]
        if instruction.predicate != "@!PT":
            for pipe, taken in pipe_clocks(instruction).items():
                clocks[pipe] += warps * taken
    return clocks


def pipe_clocks(instruction: Instruction) -> Clocks:
    """Clocks that an instruction of one warp occupies pipes beside the issue slot."""
    name = instruction.name
    if name == "HGMMA":
        return wgmma_clocks(instruction)
    if name == "HMMA":
        return {"tensor": mma_products(instruction) / (RATES["tensor"] * MMA_SYNC_EFFICIENCY)}
    if name in SHARED or name in GLOBAL:
        return {"shared": LANES * bytes_of_lane(instruction) / RATES["shared"]}
    if name == "SHFL":
        return {"shuffle": LANES / RATES["shuffle"]}
    if name in MUFU:
        return {"mufu": LANES / RATES["mufu"]}
    if name in FMA:
        return {"fma": LANES / RATES["fma"]}
    if name.startswith("IMAD"):
        return {"fma": 2 * LANES / RATES["fma"]}
    if name.startswith("U") or name in ISSUE_ONLY or name in BARRIER:
        return {}
    return {"alu": LANES / RATES["alu"]}


def wgmma_clocks(instruction: Instruction) -> Clocks:
    """Clocks of a warp's quarter of a warpgroup's product: 64 x N x K with 32 bytes of K in each operand."""
    found = re.search(r"64x(\d+)x\d+", instruction.opcode)
    if found is None:
        raise ValueError(f"expected a shape such as 64x128x16 in {instruction.opcode!r}")
    width = int(found[1])
    # The left operand is in registers where the operands name two before the descriptor of the right one.
    from_registers = re.match(r"R\d+, R\d+(\.\w+)*, gdesc", instruction.operands)
    read = 32 * (width + (0 if from_registers else 64))
    products = 64 * width * 16
    reading = read / RATES["shared"] / 4
    return {"tensor": products / RATES["tensor"] / 4, "shared": reading, "operands": reading}


def mma_products(instruction: Instruction) -> float:
    """Multiply-adds of 16-bit operands that take as long as an mma.sync; those of tf32 count twice."""
    found = re.search(r"\.(16|8)(8)(\d+)\b", instruction.opcode)
    if found is None:
        raise ValueError(f"expected a shape such as 16816 in {instruction.opcode!r}")
    M, N, K = map(int, found.groups())
    return M * N * K * (2 if "TF32" in instruction.opcode else 1)


def bytes_of_lane(instruction: Instruction) -> float:
    """Bytes that each lane moves; a copy by the TMA unit takes no lanes, and is left out."""
    name, modifiers = instruction.name, instruction.opcode.split(".")[1:]
    if name.startswith("UTMA"):
        return 0
    if name in ("LDSM", "STSM"):
        return 4 * next((int(m) for m in modifiers if m in ("2", "4")), 1)
    width = next((m for m in modifiers if m in ("64", "128", "U8", "S8", "U16", "S16")), "32")
    return int(width.strip("US")) / 8


def class_counts(instructions: Iterable[Instruction]) -> dict[str, int]:
    """Number of instructions of each of CLASSES; "alu" counts those of the fma pipe too."""
    counts = dict.fromkeys(CLASSES, 0)
    for instruction in instructions:
        if (found := class_of(instruction)) is not None:
            counts[found] += 1
    return counts


def class_of(instruction: Instruction) -> str | None:
    name = instruction.name
    if instruction.predicate == "@!PT":
        return None
    for found, names in (
        ("tensor", TENSOR),
        ("mufu", MUFU),
        ("shared", SHARED),
        ("global", GLOBAL),
        ("barrier", BARRIER),
    ):
        if name in names:
            return found
    return "alu" if pipe_clocks(instruction).keys() & {"alu", "fma"} else None


def estimate(clocks: Clocks) -> float:
    """Predicted clocks of an SM for what takes `clocks` of each pipe: see the docstring of this module."""
    return LATENCY_FACTOR * serial(clocks)


def serial(clocks: Clocks) -> float:
    """Clocks of tensor cores with their operands and of the busiest other pipe, one after the other."""
    others = clocks | {"shared": clocks["shared"] - clocks["operands"], "operands": 0, "tensor": 0}
    return max(clocks["tensor"], clocks["operands"]) + max(others.values())
