"""Compile every row of the launch tables without a GPU, and report the resources of each kernel.

    python -m clippo_kernels.aot                  all architectures
    python -m clippo_kernels.aot --arch sm_90     one architecture; --json for machine-readable output
    python -m clippo_kernels.aot --report         predictions from the machine code of sm_90, with calibration
    python -m clippo_kernels.aot --write          keep the predictions in bounds.json and docs/kernels.md

The ops run on meta tensors with a driver that only knows its target, and every launch calls Triton's compiler
instead. The kernels and their specializations are therefore exactly those that a device would get. The exit
status is 1 if a kernel spills registers that its row does not allow ("spill_bytes" and "why"), needs more
shared or tensor memory than the device has, or has a matrix product that was not compiled to a tensor-core
instruction (float32 products are exact and have none). On sm_90 it is also 1 if warps compute the same
product several times without permission ("redundant" and "why"), or if a prediction is worse than the one on
file: see `bounds`. A Triton of another version than the one that made those predictions generates other
code, so under it they are not compared, which stderr says; everything else is checked.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from multiprocessing import get_context
from typing import Any

from . import bounds, sass, tuning

__all__ = ["ARCHITECTURES", "TargetDriver", "compile_row", "launches_of", "main"]


@dataclass(frozen=True)
class Architecture:
    """Resource limits of an architecture, from the vendors' programming guides. Shared memory is in bytes."""

    target: tuple[str, int | str, int]  # backend, architecture, threads per warp
    shared_per_block: int
    shared_per_sm: int
    registers_per_sm: int  # of 32 bits each
    warps_per_sm: int
    instruction: str  # regular expression of the tensor-core instructions
    tensor_memory_columns: int = 0


ARCHITECTURES = {
    # 8.6, 8.9 and 12.x have 99 KiB of shared memory, and the same table serves them; 8.0 itself has 163 KiB.
    "sm_80": Architecture(("cuda", 80, 32), 101376, 102400, 65536, 48, r"\bmma\.sync"),
    "sm_90": Architecture(("cuda", 90, 32), 232448, 233472, 65536, 64, r"\b(wgmma\.mma_async|mma)\.sync"),
    "sm_100": Architecture(
        ("cuda", 100, 32), 232448, 233472, 65536, 64, r"\b(tcgen05\.mma|mma\.sync)", tensor_memory_columns=512
    ),
    # A compute unit has 4 SIMDs with 512 vector registers per lane, and a wave has 64 lanes.
    "gfx942": Architecture(("hip", "gfx942", 64), 65536, 65536, 4 * 512 * 64, 32, r"\bv_mfma"),
}


@dataclass
class Report:
    """Result of compiling one row of a launch table."""

    architecture: str
    kernel: str
    itemsize: int
    at_most: dict[str, int]
    launch: dict[str, int]
    registers: int = 0
    spill_bytes: int = 0
    shared_bytes: int = 0
    programs_per_sm: int = 0
    tensor_core_instructions: int = 0
    problems: list[str] = field(default_factory=list)
    bound: bounds.Bound | None = None  # on the architecture that is modelled


class TargetDriver:
    """The part of a driver that the compiler calls.

    Triton caches kernels by device, so every architecture has a device index of its own.
    """

    def __init__(self, name: str) -> None:
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget(*ARCHITECTURES[name].target)
        self.device = list(ARCHITECTURES).index(name)

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_row(name: str, kernel: str, row: dict[str, Any]) -> Report:
    """Compile the kernels that the ops launch at the largest sizes of a row."""
    report = Report(name, kernel, row["itemsize"], row["at_most"], row["launch"])
    try:
        compiled = compile_kernels(name, kernel, row)
    except Exception as error:  # one bad row must not end the report
        report.problems.append(f"does not compile: {type(error).__name__}: {error}"[:300])
        return report
    inspect(report, compiled, row)
    if name == bounds.ARCHITECTURE:
        report.bound = bound_of(kernel, row, compiled[0])
        report.problems += redundancy_problems(compiled, row)
    return report


def bound_of(kernel: str, row: dict[str, Any], compiled: Any) -> bounds.Bound:
    """Predict the clocks of the usual use of a row on a problem of full size."""
    function, programs, args, options = launches_of(
        bounds.ARCHITECTURE, kernel, row, tokens=bounds.TOKENS, device="meta"
    )[0]
    arguments = dict(zip(function.arg_names, args, strict=False)) | options
    op = kernel.partition(".")[0]
    work = import_module(f"clippo_kernels.{op}.examples").work(function.__name__, arguments)
    return bounds.predict(kernel, row, compiled, programs, arguments, work)


def redundancy_problems(compiled: list[Any], row: dict[str, Any]) -> list[str]:
    redundant = max(bounds.redundant_products(kernel.asm["ttgir"]) for kernel in compiled)
    admitted = row.get("redundant", 1)
    if redundant <= admitted:
        return []
    return [f"computes a product {redundant} times, admitted is {admitted}"]


def compile_kernels(name: str, kernel: str, row: dict[str, Any]) -> list[Any]:
    from triton.runtime import driver

    driver.set_active(TargetDriver(name))
    launches = launches_of(name, kernel, row, tokens=2048, device="meta")
    return [function.warmup(*args, grid=(1,), **options) for function, _, args, options in launches]


# Suffixes of rows for a kernel that also runs on packed sequences, on listed patches, or with labels.
VARIANTS = ("_varlen", "_select", "_labelled")


def launches_of(
    name: str, kernel: str, row: dict[str, Any], tokens: int, device: str
) -> list[tuple[Any, int, tuple[Any, ...], dict[str, Any]]]:
    """Return the launches of a kernel by its op, for a row of its table: (function, programs, args, options).

    The op runs on about `tokens` tokens, at the largest sizes of the row. If a row serves several uses of a
    kernel, the usual one comes first. On devices other than "meta" the kernels really run, so that a backward
    reads the results of its forward.
    """
    from . import _triton

    op, _, name_in_op = kernel.partition(".")
    examples = import_module(f"clippo_kernels.{op}.examples")
    launches = []

    def keep(function: Any, programs: int, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        if device != "meta":
            function[(programs,)](*args, **options)
        if function.__name__ in (name_in_op, *map(name_in_op.removesuffix, VARIANTS)):
            launches.append((function, programs, args, options))

    with tuning.assume(name, {kernel: [row]}), _triton.launch_hook(keep):
        examples.example(name_in_op, row, tokens, device)
    assert launches, f"the example of {op} never launches {name_in_op}"
    return launches


def inspect(report: Report, compiled: list[Any], row: dict[str, Any]) -> None:
    """Fill in the report from the compiled kernel that spills or uses the most registers.

    The problems of all compiled kernels are added.
    """
    reports = []
    for kernel in compiled:
        reports.append(replace(report, problems=[]))
        inspect_kernel(reports[-1], kernel, row)
    most = max(reports, key=lambda r: (r.spill_bytes, r.registers))
    vars(report).update(vars(most))
    report.problems = list(dict.fromkeys(problem for r in reports for problem in r.problems))


def inspect_kernel(report: Report, compiled: Any, row: dict[str, Any]) -> None:
    architecture = ARCHITECTURES[report.architecture]
    backend, _, warp = architecture.target
    assembly = compiled.asm["ptx" if backend == "cuda" else "amdgcn"]
    threads = compiled.metadata.num_warps * warp
    report.shared_bytes = compiled.metadata.shared
    report.tensor_core_instructions = len(re.findall(architecture.instruction, assembly))
    if backend == "cuda":
        report.registers, report.spill_bytes = cubin_resources(compiled.asm["cubin"])
        shared = report.shared_bytes + 1024  # CUDA reserves 1 KiB per block
    else:
        report.registers, report.spill_bytes = amdgcn_resources(assembly)
        shared = max(1, report.shared_bytes)
    registers = -(-report.registers // 8) * 8 * threads  # allocated in multiples of 8 per thread
    report.programs_per_sm = min(
        architecture.registers_per_sm // max(1, registers),
        architecture.shared_per_sm // shared,
        architecture.warps_per_sm // compiled.metadata.num_warps,
    )

    report.problems = problems_of(
        report,
        row,
        products=len(re.findall(r"\btt\.dot\b", compiled.asm["ttir"])),
        scalar=scalar_products(compiled.asm["ttgir"]),
        tensor_memory=getattr(compiled.metadata, "tmem_size", None) or 0,
    )


def problems_of(
    report: Report, row: dict[str, Any], *, products: int, scalar: int, tensor_memory: int
) -> list[str]:
    """List the problems of a compiled kernel.

    The kernel has `products` matrix products, of which `scalar` do not use tensor cores, and needs
    `tensor_memory` columns of tensor memory.
    """
    architecture = ARCHITECTURES[report.architecture]
    admitted = row.get("spill_bytes", 0)
    problems = []
    if report.spill_bytes > admitted:
        problems.append(f"spills {report.spill_bytes} bytes a thread, admitted are {admitted}")
    if report.shared_bytes > architecture.shared_per_block:
        problems.append(
            f"needs {report.shared_bytes} bytes of shared memory of {architecture.shared_per_block}"
        )
    if tensor_memory > architecture.tensor_memory_columns:
        problems.append(
            f"needs {tensor_memory} columns of tensor memory of {architecture.tensor_memory_columns}"
        )
    if row["itemsize"] < 4 and products and (scalar or not report.tensor_core_instructions):
        problems.append(f"{scalar or products} of {products} products are not on tensor cores")
    return problems


def scalar_products(ttgir: str) -> int:
    """Count the products whose result has a plain blocked layout: they compile to scalar multiply-adds."""
    blocked = set(re.findall(r"^(#\w+) = #ttg\.blocked", ttgir, flags=re.MULTILINE))
    results = re.findall(r"\btt\.dot\b.*-> tensor<[^>]*?(#\w+)>", ttgir)
    return sum(layout in blocked for layout in results)


def cubin_resources(cubin: bytes) -> tuple[int, int]:
    """Registers per thread, and bytes of local memory per thread that hold spilled registers."""
    text = sass.printed("cuobjdump", "--dump-resource-usage", cubin)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    if found is None:
        raise RuntimeError(f"cuobjdump printed no resource usage: {text[:200]}")
    return int(found[1]), int(found[2]) + int(found[3])


def amdgcn_resources(assembly: str) -> tuple[int, int]:
    """Vector registers per lane, including accumulation registers, and bytes of scratch memory per lane."""
    vgpr, scratch = (
        re.search(rf"\.{name}:\s+(\d+)", assembly) for name in ("vgpr_count", "private_segment_fixed_size")
    )
    if vgpr is None or scratch is None:
        raise RuntimeError("the assembly lists no registers")
    return int(vgpr[1]), int(scratch[1])


def rows_of(names: list[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name in names:
        for kernel, rows in tuning.table(name).items():
            for row in rows:
                yield name, kernel, row


def compile_tables(names: list[str]) -> list[Report]:
    """Compile all rows of the tables and return one report per row, in order."""
    rows = list(rows_of(names))
    # The processes are spawned, because a compiler that is forked while threads are running may hang.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        return list(pool.map(compile_row, *zip(*rows, strict=True)))


COLUMNS = "{:7} {:36} {:34} {:61} {:>9} {:>5} {:>6} {:>11} {:>12}"
HEADER = COLUMNS.format(
    "arch", "kernel", "sizes up to", "launch", "registers", "spill", "shared", "programs/SM", "tensor cores"
)


def line(report: Report) -> str:
    sizes = " ".join([f"{8 * report.itemsize}-bit", *(f"{k}={v}" for k, v in report.at_most.items())])
    row = COLUMNS.format(
        report.architecture,
        report.kernel,
        sizes,
        " ".join(f"{k}={v}" for k, v in report.launch.items()),
        report.registers,
        report.spill_bytes,
        report.shared_bytes,
        report.programs_per_sm,
        report.tensor_core_instructions,
    )
    return "\n".join([row, *(f"    FAILED: {problem}" for problem in report.problems)])


def predictions(reports: list[Report]) -> list[bounds.Bound]:
    return [report.bound for report in reports if report.bound is not None]


def compare_predictions(reports: list[Report]) -> None:
    """Add what is worse than on file to the problems of the reports, under the Triton that made the file."""
    on_file = bounds.Figures.read()
    for report in reports:
        if report.bound is not None:
            report.problems += on_file.problems(report.bound, triton_version())
    if predictions(reports) and on_file.triton != triton_version():
        note = f"predictions on file are of Triton {on_file.triton}, and not compared with {triton_version()}"
        print(note, file=sys.stderr)


def write_predictions(reports: list[Report]) -> None:
    """Keep the predictions in the file and in the documentation of a checkout.

    Raises:
        ValueError: a row has none, because it did not compile.
    """
    if missing := [report.kernel for report in reports if report.bound is None]:
        raise ValueError(f"nothing was written: expected a prediction for every row, got none for {missing}")
    figures = bounds.Figures(triton_version(), predictions(reports))
    figures.write()
    if bounds.PAGE.exists():
        bounds.PAGE.write_text(bounds.replace_table(bounds.PAGE.read_text(), figures.bounds))


def print_predictions(reports: list[Report]) -> None:
    from . import calibration

    print(f"Predictions for {bounds.ARCHITECTURE} by clippo_kernels.pipes; nothing was measured.\n")
    print(bounds.table(predictions(reports)))
    print(calibration.table(list(calibration.comparisons())))


def triton_version() -> str:
    import triton

    return str(triton.__version__)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m clippo_kernels.aot",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--arch", choices=tuning.ARCHITECTURES, help="one architecture; all by default")
    parser.add_argument("--json", action="store_true", help="print the reports as a JSON list")
    parser.add_argument("--report", action="store_true", help="print the predictions and their calibration")
    parser.add_argument("--write", action="store_true", help="keep the predictions, and accept what is worse")
    arguments = parser.parse_args()
    predicts = arguments.report or arguments.write
    if predicts and arguments.arch not in (None, bounds.ARCHITECTURE):
        parser.error(f"--report and --write are for {bounds.ARCHITECTURE}, got --arch {arguments.arch}")
    one = bounds.ARCHITECTURE if predicts else arguments.arch

    reports = compile_tables([one] if one else list(tuning.ARCHITECTURES))
    if arguments.write:
        write_predictions(reports)
    else:
        compare_predictions(reports)
    failed = sum(bool(report.problems) for report in reports)
    if arguments.json:
        print(json.dumps([asdict(report) for report in reports], indent=1))
    elif arguments.report:
        print_predictions(reports)
    else:
        print(HEADER, *map(line, reports), sep="\n")
        print(f"{len(reports)} rows, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
