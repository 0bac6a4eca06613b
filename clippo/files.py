"""Files: written whole or not at all, checked by their checksums, and read as lines.

Content is written to a temporary file in the same folder, flushed to the disk and renamed. Then the folder is
flushed, so that the new name survives a power cut as well. An older file of that name stays until the rename.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clippo.errors import UserError

__all__ = [
    "MANIFEST_FILE",
    "UNFINISHED",
    "atomic_path",
    "check_file",
    "check_manifest",
    "read_lines",
    "remove",
    "sha256",
    "write_manifest",
    "write_text",
]

MANIFEST_FILE = "manifest.json"
UNFINISHED = "unfinished-"  # the beginning of the names of temporary files


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a path to write a file or a folder to, and move it to `path` when the block ends.

    If the block raises, what it wrote is removed and `path` is as it was. A folder can take the place of
    nothing or of an empty folder only.
    """
    path = Path(path)
    unfinished = path.with_name(UNFINISHED + path.name)  # keeps the ending, which names the format
    remove(unfinished)
    try:
        yield unfinished
        flush(unfinished)
        os.replace(unfinished, path)
    finally:
        remove(unfinished)
    flush_one(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Replace a text file (UTF-8), whole or not at all."""
    with atomic_path(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def read_lines(path: str | Path) -> list[str]:
    """Read the lines of a text file (UTF-8, with or without a byte-order mark).

    Lines end in a line feed, a carriage return or both; other separators of Unicode belong to the text.

    Raises:
        OSError: the file cannot be read.
        UserError: it is not UTF-8.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from error
    return lines[:-1] if lines[-1] == "" else lines


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, **about: Any) -> None:
    """Write the checksums of all files of a folder, and what is `about` them, into its `manifest.json`."""
    names = sorted(x.name for x in folder.iterdir() if x.is_file() and x.name != MANIFEST_FILE)
    checksums = {name: sha256(folder / name) for name in names}
    write_text(folder / MANIFEST_FILE, json.dumps({**about, "sha256": checksums}, indent=2) + "\n")


def check_file(path: Path) -> None:
    """Check that a path is a file, which reading a pipe or a device would wait for without end.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it is something else.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    if not path.is_file():
        raise ValueError(f"{path} is not a file")


def check_manifest(path: Path) -> None:
    """Compare a file with the `manifest.json` beside it, if there is one that names it.

    Raises:
        ValueError: the file is missing or not the one that was written, or the manifest cannot be read.
    """
    manifest = path.with_name(MANIFEST_FILE)
    if not manifest.exists():
        return
    check_file(manifest)
    try:
        expected = json.loads(manifest.read_text())["sha256"].get(path.name)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{manifest} is not a manifest: {error}") from error
    if expected is None:
        return
    if not path.is_file():
        raise ValueError(f"{path} is missing, and {manifest.name} names it")
    if sha256(path) != expected:
        raise ValueError(f"{path} is damaged: its checksum is not the one in {manifest.name}")


def flush(path: Path) -> None:
    """Flush a file, or a folder with all that is in it, to the disk."""
    if path.is_dir():
        for child in path.iterdir():
            flush(child)
    flush_one(path)


def flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a folder or a symbolic link, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
