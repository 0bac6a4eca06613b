"""Results of measurements: one JSON schema for evaluation, for benchmarks and for the tables of the docs.

A file holds `{"provenance": {...}, "rows": [{...}, ...]}`: what was measured, where and with which versions,
and one row a line.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from clippo.files import write_text

__all__ = ["ROOT", "Row", "cpu_name", "provenance", "read_results", "version_of", "write_results"]

Row = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("triton", "numpy", "skia-python", "pillow")  # in addition to torch


@dataclass(frozen=True)
class Results:
    """Content of a file of results; `more` holds further lists of rows by name."""

    provenance: dict[str, Any]
    rows: list[Row]
    more: dict[str, list[Row]] = field(default_factory=dict)


def provenance(**about: Any) -> dict[str, Any]:
    """Device, versions, commit and date of a measurement on this machine: on its GPU, if it has one.

    Args:
        about: more about this measurement, which comes last.
    """
    import torch

    device: dict[str, Any] = {"device": cpu_name(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        device = {
            "device": gpu.name,
            "multiprocessors": gpu.multi_processor_count,
            "memory_gib": round(gpu.total_memory / 2**30, 1),
            "cuda": torch.version.cuda or torch.version.hip,
            **driver_and_clocks(str(gpu.uuid)),
        }
    versions = {package: installed for package in PACKAGES if (installed := version_of(package))}
    date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {**device, "torch": torch.__version__, **versions, "commit": commit(), "date": date, **about}


# Fields of nvidia-smi, and their keys in a provenance; in MHz, W and degrees Celsius.
SMI_QUERIES = {
    "driver_version": "driver",
    "clocks.sm": "sm_clock_mhz",
    "clocks.max.sm": "max_sm_clock_mhz",
    "clocks.mem": "memory_clock_mhz",
    "power.draw": "power_w",
    "power.limit": "power_limit_w",
    "temperature.gpu": "temperature_c",
}


def driver_and_clocks(uuid: str) -> dict[str, str]:
    """Driver version, clocks, power and temperature of a GPU now; empty where nvidia-smi does not tell."""
    query = [f"--query-gpu={','.join(SMI_QUERIES)}", "--format=csv,noheader,nounits", f"--id=GPU-{uuid}"]
    try:
        answer = subprocess.check_output(
            ["nvidia-smi", *query], text=True, stderr=subprocess.DEVNULL, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(SMI_QUERIES.values(), answer.strip().split(", "), strict=False))


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def commit() -> str:
    """Short hash of the checkout, with "-dirty" where tracked files differ; "unknown" outside of one."""
    # The folder is named because git would else look upwards, and report the repository of somebody's project
    # whose virtual environment this package is installed in.
    command = ["git", f"--git-dir={ROOT / '.git'}", "describe", "--always", "--dirty=-dirty", "--exclude=*"]
    try:
        return subprocess.check_output(command, cwd=ROOT, text=True, stderr=subprocess.DEVNULL).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write_results(
    path: Path, provenance: Mapping[str, Any], rows: Sequence[Row], **more: Sequence[Row]
) -> None:
    """Replace a file of results, whole or not at all. Its folder is made if it is missing.

    Args:
        path: the file.
        provenance: what `provenance` gave.
        rows: the results.
        more: further lists of rows by name, such as of what could not be measured.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [f'  "provenance": {json.dumps(provenance)}']
    for name, listed in {"rows": rows, **more}.items():
        lines = ",\n".join(f"    {json.dumps(row)}" for row in listed)
        parts.append(f'  "{name}": [\n{lines}\n  ]')
    write_text(path, "{\n" + ",\n".join(parts) + "\n}\n")


def read_results(path: Path) -> Results:
    """Read a file of results.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it does not hold results; the message names the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} does not hold results: it is not JSON ({error})") from error
    match content:
        case {"provenance": dict(found), "rows": list(rows)} if all(isinstance(row, dict) for row in rows):
            more = {key: value for key, value in content.items() if key not in ("provenance", "rows")}
            return Results(found, rows, more)
    raise ValueError(
        f'{path} does not hold results: expected {{"provenance": {{...}}, "rows": [{{...}}, ...]}}, '
        f"but it begins with {json.dumps(content)[:60]}"
    )
