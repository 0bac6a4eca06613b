"""Machine code of a kernel: its instructions, its main loop, and what a program usually runs of them.

`disassemble` calls nvdisasm, which Triton's wheel ships and which TRITON_NVDISASM_PATH replaces. `parse`
reads its text. Our kernels have one loop in their source. The compiler adds small loops that wait for memory,
and it may unroll or split the one of the source, so the main loop is the one with the most instructions.

Only one side of a branch is run. The side that is counted is the shorter one that still reaches the main loop
and the end of the kernel: tiles of a loss that are off the diagonal skip the code for positive pairs, and
programs that return at once are not what a kernel is built for.
"""

from __future__ import annotations

import heapq
import re
import subprocess
import tempfile
from bisect import bisect_right
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

__all__ = ["Code", "Instruction", "Path", "disassemble", "parse", "passes_at_once", "printed", "usual_path"]


@dataclass(frozen=True)
class Instruction:
    """One machine instruction of a warp.

    Attributes:
        address: in bytes from the start of the kernel.
        predicate: such as "@P0" or "@!PT" (never run), or "" where the instruction is always run.
        opcode: the operation with its modifiers, such as "HGMMA.64x256x16.F32.BF16".
        operands: the text of the operands.
    """

    address: int
    predicate: str
    opcode: str
    operands: str

    @property
    def name(self) -> str:
        """The operation without modifiers."""
        return self.opcode.partition(".")[0]


@dataclass(frozen=True)
class Code:
    """The instructions of a kernel in order, and the addresses that its labels stand for."""

    instructions: tuple[Instruction, ...]
    labels: Mapping[str, int]


@dataclass(frozen=True)
class Path:
    """Instructions that a program runs: before the main loop, in one pass through it, and after it.

    Without a loop, all instructions are in `before`.
    """

    before: tuple[Instruction, ...]
    loop: tuple[Instruction, ...] = ()
    after: tuple[Instruction, ...] = ()


def disassemble(cubin: bytes) -> str:
    """Return nvdisasm's text of a kernel; `printed` names the errors."""
    return printed("nvdisasm", "--print-code", cubin)


def printed(tool: str, option: str, cubin: bytes) -> str:
    """Return the text that a tool of Triton's wheel, "nvdisasm" or "cuobjdump", prints of a kernel.

    Raises:
        RuntimeError: the tool is missing, or it refuses the cubin.
    """
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [getattr(knobs.nvidia, tool).path, option, file.name]
        run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{tool} failed: {run.stderr[:200]}")
    return run.stdout


LINE = re.compile(
    r"""^\s*(?P<label>\.L\w+):
    |^\s*/\*(?P<address>[0-9a-f]+)\*/\s+(?P<predicate>@!?U?P\w+)?\s*(?P<opcode>[A-Z][\w.]*)\s*(?P<operands>[^;]*);""",
    re.MULTILINE | re.VERBOSE,
)


def parse(text: str) -> Code:
    """Read the text of a disassembly of one kernel.

    Raises:
        ValueError: the text holds no instruction.
    """
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    waiting: list[str] = []
    for match in LINE.finditer(text):
        if match["label"]:
            waiting.append(match["label"])
            continue
        address = int(match["address"], 16)
        labels |= dict.fromkeys(waiting, address)
        waiting = []
        operands = match["operands"].strip()
        instructions.append(Instruction(address, match["predicate"] or "", match["opcode"], operands))
    if not instructions:
        raise ValueError(f"expected the text of a disassembly with instructions, got {text[:80]!r}")
    return Code(tuple(instructions), labels)


def usual_path(code: Code) -> Path:
    """Return what a program runs: see the docstring of this module.

    Raises:
        ValueError: the code has no way from its start through the main loop to an EXIT.
    """
    blocks = Blocks(code)
    start = code.instructions[0].address
    if (loop := main_loop(blocks)) is None:
        largest = max(blocks.starts, key=lambda address: len(blocks.of(address)))
        there = blocks.shortest(start, [largest])
        return Path(blocks.instructions(there[:-1] + blocks.shortest(largest, blocks.ends)))
    head, latch, body = loop
    before = blocks.shortest(start, [head])[:-1]
    once = blocks.shortest(head, [latch], within=body)
    exits = [after for block in sorted(body) for after in blocks.next[block] if after not in body]
    # An EXIT inside of the loop may be the only way out.
    after = min((blocks.shortest(block, blocks.ends) for block in exits), key=blocks.length, default=[])
    return Path(blocks.instructions(before), blocks.instructions(once), blocks.instructions(after))


# Instructions that mark a pass through a loop, in PTX and in machine code; the first that it has is counted.
MARKS = (
    (r"wgmma\.mma_async|mma\.sync", ("HGMMA", "HMMA")),
    (r"ld\.global|cp\.async\.c[ag]", ("LDG", "LDGSTS")),
)


def passes_at_once(ptx: str, path: Path) -> int:
    """How many passes through the loop of the PTX one pass through the main loop makes: more if unrolled."""
    labels = {match[1]: match.start() for match in re.finditer(r"^(\$L__BB\d+_\d+):", ptx, re.MULTILINE)}
    jumps = re.finditer(r"\bbra(?:\.uni)?\s+(\$L__BB\d+_\d+);", ptx)
    loop = max((ptx[labels[jump[1]] : jump.start()] for jump in jumps), key=len, default="")
    for pattern, names in MARKS:
        if marks := len(re.findall(pattern, loop)):
            return max(1, round(sum(i.name in names for i in path.loop) / marks))
    return 1


def main_loop(blocks: Blocks) -> tuple[int, int, set[int]] | None:
    """The first and the last block of the loop with the most instructions and all its blocks, or None.

    A block that jumps back closes a loop if it can be reached only through the block that it jumps to. What
    jumps to itself, and never ends, fills the end of the code.
    """
    found = [
        (head, latch, blocks.between(head, latch))
        for latch in blocks.starts
        for head in blocks.next[latch]
        if head <= latch and blocks.next[latch] != [latch] and blocks.dominates(head, latch)
    ]
    return max(found, key=lambda loop: blocks.length(loop[2]), default=None)


class Blocks:
    """The basic blocks of a kernel, named by their first address.

    Attributes:
        starts: first addresses, in order.
        next: the blocks that may follow each.
        ends: blocks that end the program.
    """

    def __init__(self, code: Code) -> None:
        self.code = code
        self.addresses = [i.address for i in code.instructions]
        first = {self.addresses[0], *code.labels.values()}
        for this, after in zip(code.instructions, code.instructions[1:], strict=False):
            if this.name in ("BRA", "EXIT"):
                first.add(after.address)
        self.starts = sorted(first)
        self.next = {start: self.followers(start) for start in self.starts}
        self.ends = [s for s in self.starts if any(i.name == "EXIT" for i in self.of(s))]

    def of(self, start: int) -> tuple[Instruction, ...]:
        """The instructions of a block."""
        position = bisect_right(self.starts, start)
        first = bisect_right(self.addresses, start) - 1
        end = self.starts[position] if position < len(self.starts) else self.addresses[-1] + 1
        return self.code.instructions[first : bisect_right(self.addresses, end - 1)]

    def followers(self, start: int) -> list[int]:
        last = self.of(start)[-1]
        found = []
        if last.name == "BRA" and (label := re.search(r"\.L\w+", last.operands)):
            found.append(self.code.labels[label[0]])
        # A branch or an EXIT without a condition is the end. Operands such as "UP0, `(.L_x_1)" are one,
        # and BRA.DIV is taken where the threads of a warp have diverged.
        conditional = last.predicate or re.match(r"!?U?P", last.operands) or last.opcode == "BRA.DIV"
        if last.name not in ("BRA", "EXIT") or conditional:
            found += self.starts[bisect_right(self.starts, start) :][:1]
        return found

    def dominates(self, block: int, other: int) -> bool:
        """Whether every way from the start to `other` goes through `block`."""
        return other == block or other not in reachable(self.next, self.starts[0], without=block)

    def between(self, head: int, latch: int) -> set[int]:
        """The blocks of the loop from `head` to `latch`."""
        previous: dict[int, list[int]] = {start: [] for start in self.starts}
        for start in self.starts:
            for after in self.next[start]:
                previous[after].append(start)
        return {head} | reachable(previous, latch, without=head)

    def shortest(self, start: int, goals: Iterable[int], within: Container[int] | None = None) -> list[int]:
        """The blocks from `start` to the nearest of `goals`, both included, with the fewest instructions."""
        goals = set(goals)
        ahead = [(len(self.of(start)), start, [start])]
        seen = set()
        while ahead:
            length, block, path = heapq.heappop(ahead)
            if block in goals:
                return path
            if block in seen:
                continue
            seen.add(block)
            for after in self.next[block]:
                if within is None or after in within:
                    heapq.heappush(ahead, (length + len(self.of(after)), after, [*path, after]))
        raise ValueError(f"found no way through the code from {start:#x} to {sorted(map(hex, goals))}")

    def length(self, path: Iterable[int]) -> int:
        return sum(len(self.of(start)) for start in path)

    def instructions(self, path: list[int]) -> tuple[Instruction, ...]:
        return tuple(i for start in path for i in self.of(start))


def reachable(graph: Mapping[int, list[int]], start: int, without: int) -> set[int]:
    """The nodes that can be reached from `start` without going through `without`."""
    ahead, seen = [start], {without}
    while ahead:
        node = ahead.pop()
        if node not in seen:
            seen.add(node)
            ahead += graph[node]
    return seen - {without}
