"""Launch tables: tile sizes, warps and pipeline stages of every kernel.

Each op has one JSON file per architecture, `OP/launch_tables/ARCHITECTURE.json`, which maps the names of its
kernels to rows. A row holds the largest sizes it applies to ("at_most"), the launch options ("launch") and
how they were chosen: by "arithmetic" (bytes, products and registers, see docs/kernels.md) or "measured". The
first row that covers the sizes is used, so rows are ordered from small to large. Nothing is tuned at run
time; `python -m clippo.bench.tune` measures a table.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

__all__ = [
    "ARCHITECTURES",
    "architecture",
    "assume",
    "clear_caches",
    "dumps",
    "find",
    "ops",
    "planned",
    "table",
    "table_path",
]

FOLDER = Path(__file__).parent  # the folder that holds the ops
ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "gfx942")

Row = dict[str, Any]
P = ParamSpec("P")
T = TypeVar("T")

PLANS = 4096  # that are kept of each function of launches

# The architecture and rows of the innermost `assume`.
assumed: ContextVar[tuple[str, Mapping[str, Sequence[Row]]] | None] = ContextVar("assumed", default=None)


def architecture(device: torch.device) -> str:
    """The table of a device: its own, or that of the nearest architecture with as little shared memory."""
    if (assumption := assumed.get()) is not None:
        return assumption[0]
    if device.type != "cuda":
        return "sm_90"  # the interpreter runs any table
    if torch.version.hip:
        return "gfx942"
    # Consumer Blackwell (12.x) has the instructions and the 99 KiB of shared memory of Ampere.
    return {9: "sm_90", 10: "sm_100"}.get(torch.cuda.get_device_capability(device)[0], "sm_80")


@contextmanager
def assume(name: str, rows: Mapping[str, Sequence[Row]] | None = None) -> Iterator[None]:
    """Use the launch options of another architecture inside the context, in this thread alone.

    `rows` replace those on file for the kernels that they name, as "op.kernel".
    """
    token = assumed.set((name, rows or {}))
    try:
        # The backward of GPU tensors usually runs in another thread, which would not see the context.
        with torch.autograd.set_multithreading_enabled(False):
            yield
    finally:
        assumed.reset(token)


def ops() -> list[str]:
    """The ops that have launch tables, in alphabetical order."""
    return sorted(path.parent.name for path in FOLDER.glob("*/launch_tables"))


def table_path(op: str, name: str) -> Path:
    """Path of the launch table of an op for an architecture."""
    return FOLDER / op / "launch_tables" / f"{name}.json"


@cache
def table(name: str) -> dict[str, list[Row]]:
    """The rows of all ops for an architecture, keyed by "op.kernel"."""
    return {
        f"{op}.{kernel}": rows
        for op in ops()
        for kernel, rows in json.loads(table_path(op, name).read_text()).items()
    }


def find(kernel: str, device: torch.device, dtype: torch.dtype, **sizes: int) -> dict[str, int] | None:
    """Launch options of "op.kernel" for these sizes, or None if no row covers them."""
    assumption = assumed.get()
    if assumption is not None and kernel in assumption[1]:
        row = first_row(assumption[1][kernel], dtype.itemsize, sizes.items())
    else:
        row = row_on_file(architecture(device), kernel, dtype.itemsize, tuple(sorted(sizes.items())))
    return None if row is None else row["launch"]


@cache
def row_on_file(name: str, kernel: str, itemsize: int, sizes: tuple[tuple[str, int], ...]) -> Row | None:
    return first_row(table(name).get(kernel, ()), itemsize, sizes)


def first_row(rows: Iterable[Row], itemsize: int, sizes: Iterable[tuple[str, int]]) -> Row | None:
    """The first of `rows` that covers the sizes."""
    for row in rows:
        limits = row["at_most"]
        if row["itemsize"] == itemsize and all(size <= limits.get(key, size) for key, size in sizes):
            return row
    return None


planned_functions: list[Any] = []


def planned(plan: Callable[P, T]) -> Callable[P, T]:
    """Keep the results of a function that calls `find`, except those inside of `assume`."""
    kept = lru_cache(PLANS)(plan)
    planned_functions.append(kept)

    @wraps(plan)
    def planned_or_kept(*args: P.args, **kwargs: P.kwargs) -> T:
        # mypy takes the arguments of lru_cache's results for hashable ones.
        return kept(*args, **kwargs) if assumed.get() is None else plan(*args, **kwargs)  # type: ignore[arg-type]

    return planned_or_kept


def clear_caches() -> None:
    """Drop the cached tables, and what follows from them, so that the files are read again."""
    for cached in (table, row_on_file, *planned_functions):
        cached.cache_clear()


def dumps(rows_of_kernels: dict[str, list[Row]]) -> str:
    """Serialize a launch table as JSON with one row per line."""
    kernels = (
        f'  "{kernel}": [\n' + ",\n".join(f"    {json.dumps(row)}" for row in rows) + "\n  ]"
        for kernel, rows in rows_of_kernels.items()
    )
    return "{\n" + ",\n".join(kernels) + "\n}\n"
