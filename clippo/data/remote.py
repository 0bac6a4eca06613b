"""Files in object stores and on the web, through fsspec: s3://, gs://, hf://, https:// and others.

Shards are copied whole into the user's cache folder when they are first read. The copies take at most
`CLIPPO_CACHE_GB` (50 by default); those that were read longest ago go first.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clippo.errors import UserError
from clippo.files import UNFINISHED, remove

__all__ = [
    "cache_folder",
    "cached_bytes",
    "file_system",
    "is_remote",
    "local_copy",
    "matching",
    "opened",
    "reading",
    "state_of",
]


def cache_folder(name: str) -> Path:
    """A folder below the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clippo" / name


def cached_bytes() -> float:
    """Most bytes of all copies.

    Raises:
        UserError: CLIPPO_CACHE_GB is not a positive number.
    """
    given = os.environ.get("CLIPPO_CACHE_GB", "50")
    with suppress(ValueError):
        if (gigabytes := float(given)) > 0:
            return gigabytes * 2**30
    raise UserError(f"CLIPPO_CACHE_GB must be a positive number, got {given!r}")


def is_remote(path: str) -> bool:
    return "://" in path


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system of an address, and the path in it.

    Raises:
        UserError: fsspec, or what it needs for this protocol, is not installed.
    """
    try:
        found: tuple[Any, str] = importlib.import_module("fsspec").core.url_to_fs(url)
    except ImportError as error:
        raise UserError(f"{url} needs fsspec: pip install 'clippo-kernels[remote]'; {error}") from error
    except ValueError as error:
        raise UserError(f"{url}: {error}") from error
    return found


def matching(pattern: str) -> list[str]:
    """The addresses that a pattern with wildcards matches, in order."""
    system, path = file_system(pattern)
    with reading(pattern):
        return sorted(system.unstrip_protocol(found) for found in system.glob(path))


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn whatever a store raises into one line that names the address."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        said = getattr(error, "strerror", None) or str(error)
        reason = " ".join(said.split()) or type(error).__name__
        raise UserError(f"cannot read {path}: {reason}") from error


def state_of(path: str) -> list[Any]:
    """Identify the version of a file by its address, its size, and its modification time or tag.

    Raises:
        UserError: it is not there.
    """
    with reading(path):
        if not is_remote(path):
            state = os.stat(path)
            return [os.path.realpath(path), state.st_size, state.st_mtime_ns]
        system, inner = file_system(path)
        info = system.info(inner)
        tags = (info.get(name) for name in ("ETag", "etag", "LastModified", "mtime", "updated", "created"))
        return [path, int(info.get("size") or 0), str(next((tag for tag in tags if tag is not None), ""))]


def opened(path: str) -> Any:
    """A binary file, open for reading; of a remote one only what is read is fetched.

    Raises:
        UserError: it is not there.
    """
    with reading(path):
        if not is_remote(path):
            return open(path, "rb")
        system, inner = file_system(path)
        return system.open(inner, "rb")


def local_copy(path: str) -> Path:
    """A file, or the copy of a remote one.

    Raises:
        UserError: it cannot be fetched.
    """
    if not is_remote(path):
        return Path(path)
    folder, state = cache_folder("files"), state_of(path)
    name = hashlib.sha256(repr(state).encode()).hexdigest()
    copy = folder / f"{name}{Path(path).suffix}"
    if copy.exists():
        with suppress(OSError):
            os.utime(copy)
        return copy
    system, inner = file_system(path)
    with reading(path):
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{UNFINISHED}{os.getpid()}-{copy.name}"  # others may fetch the same
        try:
            system.get_file(inner, str(unfinished))
            if state[1] and unfinished.stat().st_size != state[1]:
                raise OSError(f"{unfinished.stat().st_size:,} of {state[1]:,} bytes came")
            os.replace(unfinished, copy)
        finally:
            remove(unfinished)
    remove_oldest(folder, keep=copy)
    return copy


def remove_oldest(folder: Path, keep: Path) -> None:
    """Remove the copies that were read longest ago until the others fit. Open files stay readable."""
    files = []
    for file in folder.glob("[!u]*"):  # names of unfinished copies begin with a "u", others are hexadecimal
        with suppress(OSError):  # another process has removed it
            state = file.stat()
            files.append((state.st_mtime_ns, state.st_size, file))
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total <= cached_bytes():
            return
        if file != keep:
            file.unlink(missing_ok=True)
            total -= size
