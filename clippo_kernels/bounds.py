"""Predictions of how fast the machine code of every row of a launch table can be, by the model of `pipes`.

`bounds.json` holds the figures of all rows, for the version of Triton that is named in it. The gate
(`clippo_kernels.aot`) makes them anew and fails where one has become worse by more than TOLERANCE; `python
-m clippo_kernels.aot --write` puts the new ones into the file and into docs/kernels.md. Nothing here was
measured on a GPU.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import pipes, sass

__all__ = [
    "ARCHITECTURE",
    "PAGE",
    "TOKENS",
    "Bound",
    "Figures",
    "predict",
    "redundant_products",
    "replace_table",
    "table",
]

ARCHITECTURE = "sm_90"  # the only one whose pipes are modelled
TOKENS = 32768  # size of the problems, see the examples of the ops
TOLERANCE = 0.03
PATH = Path(__file__).with_name("bounds.json")
PAGE = Path(__file__).parents[1] / "docs" / "kernels.md"  # in a checkout
BEGIN, END = f"<!-- bounds: {ARCHITECTURE} -->\n", "<!-- end of bounds -->"


@dataclass(frozen=True)
class Bound:
    """Prediction for one row. Clocks are those of the device for the whole problem.

    Attributes:
        kernel: "op.kernel".
        itemsize: bytes of an element.
        at_most: the sizes of the row.
        problem: sizes of the problem that the clocks are of.
        programs: in the launch.
        iterations: of the loop of a program; 0 where the compiler left no loop.
        loop: instructions of each of `pipes.CLASSES` that a warp runs in one pass through the loop, or in the
            whole kernel without a loop.
        pipes: clocks of an SM that one program occupies each pipe.
        bound_by: the busiest pipe, or "memory".
        bound: the clocks that `bound_by` takes; no run of this machine code is faster.
        estimate: predicted clocks.
        memory_floor: clocks in which each argument is read or written once.
        product_floor: clocks of the products that the problem needs.
    """

    kernel: str
    itemsize: int
    at_most: dict[str, int]
    problem: str
    programs: int
    iterations: int
    loop: dict[str, int]
    pipes: dict[str, int]
    bound_by: str
    bound: int
    estimate: int
    memory_floor: int
    product_floor: int

    @property
    def key(self) -> tuple[str, int, str, str]:
        return self.kernel, self.itemsize, json.dumps(self.at_most), self.problem

    @property
    def share(self) -> float:
        """Estimated share of the roofline: the higher floor over the estimate."""
        return max(self.memory_floor, self.product_floor) / max(1, self.estimate)


def predict(
    kernel: str,
    row: Mapping[str, Any],
    compiled: Any,
    programs: int,
    arguments: Mapping[str, Any],
    work: pipes.Work,
) -> Bound:
    """Predict the clocks of a launch from its machine code.

    `compiled` is Triton's compiled kernel, and `arguments` are those of the launch by name. At the memory
    floor each of the tensors among them is read or written once.
    """
    path = sass.usual_path(sass.parse(sass.disassemble(compiled.asm["cubin"])))
    iterations = work.iterations / sass.passes_at_once(compiled.asm["ptx"], path) if path.loop else 0
    clocks = pipes.total(path, compiled.metadata.num_warps, iterations)
    gpu = pipes.H100
    turns = -(-programs // gpu.sms)
    memory = gpu.memory_clocks(sum(x.nbytes for x in arguments.values() if hasattr(x, "nbytes")))
    busiest = max(clocks, key=lambda pipe: clocks[pipe])
    bounds = {"memory": memory, busiest: turns * clocks[busiest]}
    bound_by = max(bounds, key=lambda pipe: bounds[pipe])
    return Bound(
        kernel,
        row["itemsize"],
        dict(row["at_most"]),
        work.problem,
        programs,
        round(iterations),
        pipes.class_counts(path.loop or path.before),
        {pipe: round(taken) for pipe, taken in clocks.items()},
        bound_by,
        round(bounds[bound_by]),
        round(max(memory, turns * pipes.estimate(clocks))),
        round(memory),
        round(gpu.product_clocks(work.flop, row["itemsize"])),
    )


MMA = re.compile(
    r"^(#\w+) = #ttg\.nvidia_mma<\{versionMajor = (\d)"
    r".*?warpsPerCTA = \[(\d+), (\d+)\].*?instrShape = \[([\d, ]+)\]",
    re.MULTILINE,
)
PRODUCT = re.compile(r"(?:warp_group_dot|tt\.dot)\b.*-> tensor<(\d+)x(\d+)xf32, (#\w+)>")


def redundant_products(ttgir: str) -> int:
    """How many warps compute each element of the most redundant product: 1 where no work is done twice.

    The instructions of all warps cover more than the tile if warpsPerCTA times instrShape is larger.
    """
    layouts = {}
    for name, version, rows, columns, shape in MMA.findall(ttgir):
        sizes = [int(n) for n in shape.split(",")]
        # The first size of wgmma is that of one of the four warps of a warpgroup.
        M, N = sizes[:2] if version == "3" else sizes[-2:]
        layouts[name] = int(rows) * M, int(columns) * N
    worst = 1
    for M, N, name in PRODUCT.findall(ttgir):
        if name in layouts:
            rows, columns = layouts[name]
            worst = max(worst, max(1, rows // int(M)) * max(1, columns // int(N)))
    return worst


@dataclass(frozen=True)
class Figures:
    """The predictions for all rows, with the version of Triton that compiled them."""

    triton: str
    bounds: Sequence[Bound]

    @classmethod
    def read(cls) -> Figures:
        file = json.loads(PATH.read_text())
        return cls(file["triton"], [Bound(**bound) for bound in file["bounds"]])

    def dumps(self) -> str:
        """Serialize as JSON with one row per line."""
        rows = ",\n".join(f"    {json.dumps(asdict(bound))}" for bound in self.bounds)
        return (
            f'{{\n  "about": "predictions of clippo_kernels.pipes, not measurements",\n'
            f'  "triton": "{self.triton}",\n  "architecture": "{ARCHITECTURE}",\n'
            f'  "bounds": [\n{rows}\n  ]\n}}\n'
        )

    def write(self) -> None:
        PATH.write_text(self.dumps())

    def problems(self, new: Bound, triton: str) -> list[str]:
        """List how a prediction is worse than that on file, if the same version of Triton made both."""
        if triton != self.triton:
            return []
        old = next((bound for bound in self.bounds if bound.key == new.key), None)
        if old is None:
            return ["has no prediction on file; --write adds it"]
        return [
            f"its predicted {what} rose from {before:,} to {after:,} clocks; --write accepts it"
            for what, before, after in (
                ("bound", old.bound, new.bound),
                ("time", old.estimate, new.estimate),
            )
            if after > (1 + TOLERANCE) * before
        ]


HEADER = """\
| kernel | bits | sizes ≤ | problem | in a loop: tensor / MUFU / ALU, FMA / shared / global / barrier | \
bound by | bound, kclk | memory floor | product floor | estimate | share of roofline |
|---|--:|---|---|---|---|--:|--:|--:|--:|--:|
"""


def table(bounds: Sequence[Bound]) -> str:
    """The predictions as a table in Markdown, in thousands of clocks of the device."""
    return HEADER + "".join(map(line, bounds))


def line(bound: Bound) -> str:
    cells = (
        f"`{bound.kernel}`",
        8 * bound.itemsize,
        ", ".join(f"{name} {size}" for name, size in bound.at_most.items()) or "any",
        bound.problem,
        " / ".join(map(str, bound.loop.values())) + ("" if bound.iterations else " (no loop)"),
        bound.bound_by,
        *(f"{n / 1000:,.1f}" for n in (bound.bound, bound.memory_floor, bound.product_floor, bound.estimate)),
        f"{bound.share:.0%}",
    )
    return "| " + " | ".join(map(str, cells)) + " |\n"


def replace_table(page: str, bounds: Sequence[Bound]) -> str:
    """Put the table between its marks in the text of a page.

    Raises:
        ValueError: the page does not have both marks once.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"expected one {BEGIN.strip()} and one {END} on lines of their own")
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{table(bounds)}\n{END}{rest.partition(END)[2]}"
