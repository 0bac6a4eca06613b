"""Launch tables: tile sizes, warps and pipeline stages of every kernel.

Each op has one JSON file per architecture, `OP/launch_tables/ARCHITECTURE.json`, which maps the names of its
kernels to rows. A row holds the largest sizes it applies to ("at_most"), the launch options ("launch") and
how they were chosen: by "arithmetic" (bytes, products and registers, see docs/kernels.md) or "measured". The
first row that covers the sizes is used, so rows are ordered from small to large. Nothing is tuned at run
time; `python -m clippo.bench.tune` measures a table.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

__all__ = [
    "ARCHITECTURES",
    "architecture",
    "assume",
    "clear_caches",
    "dumps",
    "find",
    "ops",
    "replace_rows",
    "table",
    "table_path",
]

FOLDER = Path(__file__).parent  # the folder that holds the ops
ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "gfx942")

assumed: str | None = None


def architecture(device: torch.device) -> str:
    """The table of a device: its own, or that of the nearest architecture with as little shared memory."""
    if assumed is not None:
        return assumed
    if device.type != "cuda":
        return "sm_90"  # the interpreter runs any table
    if torch.version.hip:
        return "gfx942"
    # Consumer Blackwell (12.x) has the instructions and the 99 KiB of shared memory of Ampere.
    return {9: "sm_90", 10: "sm_100"}.get(torch.cuda.get_device_capability(device)[0], "sm_80")


@contextmanager
def assume(name: str) -> Iterator[None]:
    """Use the launch options of another architecture inside the context."""
    global assumed
    before, assumed = assumed, name
    try:
        yield
    finally:
        assumed = before


def ops() -> list[str]:
    """The ops that have launch tables, in alphabetical order."""
    return sorted(path.parent.name for path in FOLDER.glob("*/launch_tables"))


def table_path(op: str, name: str) -> Path:
    """Path of the launch table of an op for an architecture."""
    return FOLDER / op / "launch_tables" / f"{name}.json"


@cache
def table(name: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of all ops for an architecture, keyed by "op.kernel"."""
    return {
        f"{op}.{kernel}": rows
        for op in ops()
        for kernel, rows in json.loads(table_path(op, name).read_text()).items()
    }


def find(kernel: str, device: torch.device, dtype: torch.dtype, **sizes: int) -> dict[str, int] | None:
    """Launch options of "op.kernel" for these sizes, or None if no row covers them."""
    row = find_row(architecture(device), kernel, dtype.itemsize, tuple(sorted(sizes.items())))
    return None if row is None else row["launch"]


@cache
def find_row(
    name: str, kernel: str, itemsize: int, sizes: tuple[tuple[str, int], ...]
) -> dict[str, Any] | None:
    for row in table(name).get(kernel, []):
        limits = row["at_most"]
        if row["itemsize"] == itemsize and all(size <= limits.get(key, size) for key, size in sizes):
            return row
    return None


def replace_rows(name: str, kernel: str, rows: list[dict[str, Any]]) -> None:
    """Use `rows` instead of a kernel's rows on file, in this process, until `clear_caches` is called."""
    table(name)[kernel] = rows
    find_row.cache_clear()


def clear_caches() -> None:
    """Drop the cached tables, so that the files are read again."""
    table.cache_clear()
    find_row.cache_clear()


def dumps(rows_of_kernels: dict[str, list[dict[str, Any]]]) -> str:
    """Serialize a launch table as JSON with one row per line."""
    kernels = (
        f'  "{kernel}": [\n' + ",\n".join(f"    {json.dumps(row)}" for row in rows) + "\n  ]"
        for kernel, rows in rows_of_kernels.items()
    )
    return "{\n" + ",\n".join(kernels) + "\n}\n"
