"""WebDataset tars: the files of an example follow one another and share their name up to the first dot.

A tar is read through once, for the places of its pictures and for its texts; these are kept in the user's
cache folder until the tar changes. Training then reads single pictures from where they are.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import tarfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from clippo.data.base import BrokenExampleError, Runs
from clippo.data.captions import Captions, in_json, in_lines, of_name
from clippo.data.decode import MAX_BYTES
from clippo.data.folder import PICTURE_SUFFIXES
from clippo.data.records import FilesConfig, Images, Records, RecordsBuilder
from clippo.data.remote import cache_folder, cached_bytes, is_remote, local_copy, matching, opened, state_of
from clippo.errors import UserError
from clippo.files import write_text

__all__ = ["TarsConfig", "expanded"]

CLASS_NAMES = "classnames.txt"
INDEX_VERSION = 2  # of what the cache keeps of a tar
TEXT_MEMBERS = {"txt": in_lines, "caption": in_lines, "json": in_json}
MAX_TEXT_BYTES = 2**24  # of one text member
MAX_FILES = 2**20  # that one pattern may name
OPEN_TARS = 64  # a process keeps open
MOST_TARS = 16  # remote ones that are read at a time, so that a run does not wait for all of them
BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, kw_only=True)
class TarsConfig(FilesConfig):
    """Tars in the layout of webdataset, which must not be compressed.

    `path` may hold ranges and wildcards: `shards/{00000..01023}.tar`, `shards/{train,val}-*.tar`. A picture,
    `NAME.jpg` or another format, has its texts in `NAME.txt`, one a line, or in `NAME.json`, as beside the
    pictures of a folder, and its classes in `NAME.cls`, one a line. Several pictures of a name, such as
    `NAME.left.jpg`, are examples with the same texts.

    A picture without texts has the names of its classes. Where `classnames.txt` lies beside the tars or in
    the folder above, as CLIP_benchmark writes it, classes that are numbers have its lines as names, from 0.
    """

    name: ClassVar[str] = "tars"

    def open(self) -> tuple[Records, Images]:
        tars = expanded(self.path, ".tar")
        builder = RecordsBuilder(self.min_chars)
        places: list[tuple[int, int, int]] = []
        class_names = {folder: class_names_of(folder) for folder in dict.fromkeys(map(folder_of, tars))}
        for number, tar in enumerate(tars):
            for picture in pictures_of(tar):
                names = (picture.name, f"{Path(tar).stem}/{picture.name}", f"{tar}/{picture.name}")
                where, known = f"{tar}, {picture.name}", class_names[folder_of(tar)]
                own = [name_of(label, known, where) for label in picture.labels]
                if builder.add(names, picture.texts, labels=picture.labels, class_names=own):
                    places.append((number, picture.offset, picture.size))
        return builder.build(), FilesOfTars(tars, np.array(places, np.int64).reshape(-1, 3))


def expanded(pattern: str, suffix: str) -> list[str]:
    """The files of a pattern with {0..9}, {a,b} and *, or of a folder, in order.

    Raises:
        UserError: there are none, or one of them is not there.
    """
    if os.path.isdir(pattern):
        pattern = os.path.join(glob.escape(pattern), f"*{suffix}")
    elif is_remote(pattern) and pattern.endswith("/"):
        pattern += f"*{suffix}"
    files: list[str] = []
    for one in braces_expanded(pattern):
        found = [one]
        if glob.has_magic(one):
            found = matching(one) if is_remote(one) else sorted(glob.glob(one))
        if not found:
            raise UserError(f"no file matches {one}")
        files += found
        if len(files) > MAX_FILES:
            raise UserError(f"{pattern} names more than {MAX_FILES:,} files")
    for file in files:
        if not is_remote(file) and not os.path.isfile(file):
            raise UserError(f"there is no file {file}" + f", which {pattern} names" * (file != pattern))
    return list(dict.fromkeys(files))


def braces_expanded(pattern: str) -> Iterator[str]:
    found = BRACES.search(pattern)
    if not found:
        yield pattern
        return
    first, dots, last = found[1].partition("..")
    if dots and first.isdecimal() and last.isdecimal():
        if int(last) - int(first) >= MAX_FILES:
            raise UserError(f"{pattern} names more than {MAX_FILES:,} files")
        parts: Sequence[str] = [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
    else:
        parts = found[1].split(",")
    for part in parts:
        yield from braces_expanded(pattern[: found.start()] + part + pattern[found.end() :])


def class_names_of(folder: str) -> list[str]:
    """The lines of `classnames.txt` in a folder or in the one above; none where there is no such file."""
    for path in (f"{folder}/{CLASS_NAMES}", f"{os.path.dirname(folder)}/{CLASS_NAMES}"):
        try:
            file = opened(path)
        except UserError:  # there is none
            continue
        with file:
            try:
                return [line.strip() for line, _ in in_lines(file.read(MAX_TEXT_BYTES))]
            except ValueError as error:
                raise UserError(f"{path}: {error}") from error
    return []


def folder_of(tar: str) -> str:
    return os.path.dirname(tar if is_remote(tar) else os.path.abspath(tar))


def name_of(label: str, class_names: Sequence[str], where: str) -> str:
    """The name of a class: a line of `classnames.txt`, or the words of the label.

    Raises:
        UserError: `classnames.txt` has no such line.
    """
    if not class_names or not label.isdecimal():
        return of_name(label)
    if int(label) >= len(class_names):
        raise UserError(
            f"{where}: the class {label} has no line in {CLASS_NAMES}, which has {len(class_names)}"
        )
    return class_names[int(label)]


class Picture(NamedTuple):
    """A picture in a tar: its name, texts and classes, and where its bytes are."""

    name: str
    texts: Captions
    labels: list[str]
    offset: int
    size: int


def pictures_of(tar: str) -> list[Picture]:
    """The pictures of a tar, from the cache where it holds this tar as it is now."""
    key = [*state_of(tar), INDEX_VERSION]
    name = hashlib.sha256(os.fsencode(key[0])).hexdigest()
    cache = cache_folder("tars") / f"{name}.json"
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        kept = json.loads(cache.read_text())
        if kept["key"] == key:
            return [Picture(*picture) for picture in kept["pictures"]]
    pictures = list(read_pictures(tar))
    with suppress(OSError):  # it may be read-only
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_text(cache, json.dumps({"key": key, "pictures": pictures}))
    return pictures


def read_pictures(tar: str) -> Iterator[Picture]:
    if tar.endswith((".gz", ".tgz", ".bz2", ".xz", ".zst")):
        raise UserError(f"{tar} is compressed, so that it cannot be read at random: decompress it first")
    places: dict[str, list[tuple[str, int, int]]] = {}
    texts: dict[str, Captions] = {}
    labels: dict[str, list[str]] = {}
    try:
        file = local_copy(tar)
        with tarfile.open(file, "r:") as members:
            size_of_tar = file.stat().st_size
            if size_of_tar % 512:  # tarfile takes a header that is cut off for the end
                raise UserError(f"{tar} is cut off: its size is not a multiple of 512 bytes")
            for member in members:
                folder, base = os.path.split(member.name)
                name, _, ending = base.partition(".")
                name, kind = os.path.join(folder, name), ending.lower().rpartition(".")[2]
                if not member.isreg() or member.issparse() or not name or base.startswith("."):
                    continue
                if member.offset_data + member.size > size_of_tar:
                    raise UserError(f"{tar} is cut off: {member.name} reaches beyond its end")
                if f".{kind}" in PICTURE_SUFFIXES:
                    places.setdefault(name, []).append((ending, member.offset_data, member.size))
                elif kind in (*TEXT_MEMBERS, "cls"):
                    content = text_of(members, member, tar)
                    try:
                        if kind == "cls":
                            labels[name] = [line.strip() for line, _ in in_lines(content)]
                        else:
                            texts.setdefault(name, []).extend(TEXT_MEMBERS[kind](content))
                    except ValueError as error:
                        raise UserError(f"{tar}, {member.name}: {error}") from error
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{tar} is not a whole tar: {error}") from error
    for name, found in places.items():
        for ending, offset, size in found:
            inner = ending.rpartition(".")[0]
            own = f"{name}.{inner}" if inner else name
            yield Picture(own, texts.get(name, []), labels.get(name, []), offset, size)


def text_of(members: tarfile.TarFile, member: tarfile.TarInfo, tar: str) -> bytes:
    if member.size > MAX_TEXT_BYTES:
        raise UserError(
            f"{tar}, {member.name}: a text of {member.size:,} bytes, more than {MAX_TEXT_BYTES:,}"
        )
    file = members.extractfile(member)
    assert file is not None
    return file.read()


class FilesOfTars(Images):
    """Members of tars by the number of their record.

    Args:
        tars: paths.
        places: (N, 3) the tar of each record, and the offset and size of its picture in it, bytes.
    """

    def __init__(self, tars: Sequence[str], places: np.ndarray) -> None:
        self.tars = tars
        self.places = places
        self._opened: OrderedDict[int, FileIO] = OrderedDict()  # by the number of a tar, the latest last

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_opened": OrderedDict()}

    def read(self, row: int) -> bytes:
        tar, offset, size = self.places[row].tolist()
        if size > MAX_BYTES:
            raise BrokenExampleError(self.tars[tar], f"a picture of {size:,} bytes, more than {MAX_BYTES:,}")
        try:
            content = os.pread(self.file(tar).fileno(), size, offset)
        except UserError as error:
            raise BrokenExampleError(self.tars[tar], str(error)) from error
        except OSError as error:
            raise BrokenExampleError(self.tars[tar], error.strerror or str(error)) from error
        if len(content) < size:
            raise BrokenExampleError(self.tars[tar], "the tar has become shorter")
        return content

    def file(self, tar: int) -> FileIO:
        if tar not in self._opened:
            if len(self._opened) >= OPEN_TARS:
                self._opened.popitem(last=False)[1].close()
            self._opened[tar] = FileIO(local_copy(self.tars[tar]))
        self._opened.move_to_end(tar)
        return self._opened[tar]

    def runs(self, rows: np.ndarray) -> Runs | None:
        """The members of each remote tar, and as many tars as half of the copies; None if all are local."""
        if not any(map(is_remote, self.tars)):
            return None
        tar_R = self.places[rows, 0]
        first = np.flatnonzero(np.diff(tar_R, prepend=-1))
        bytes_of_tar = self.places[:, 2].sum() / len(self.tars)
        return Runs(first, min(MOST_TARS, max(1, int(cached_bytes() / 2 / max(1, bytes_of_tar)))))
