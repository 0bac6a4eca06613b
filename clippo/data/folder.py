"""Pictures in a folder: with a text file beside each, or in one folder a class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from clippo.data.base import BrokenExampleError
from clippo.data.captions import in_json, in_lines, of_name
from clippo.data.decode import MAX_BYTES
from clippo.data.records import FilesConfig, Images, Records, RecordsBuilder, Strings
from clippo.data.remote import file_system, is_remote, opened, reading
from clippo.errors import UserError

__all__ = ["PICTURE_SUFFIXES", "FilesOfFolder", "FolderConfig", "read_file"]

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
TEXT_SUFFIXES = {".txt": in_lines, ".caption": in_lines, ".json": in_json}


@dataclass(frozen=True, kw_only=True)
class FolderConfig(FilesConfig):
    """Pictures in a folder and the folders within it.

    The texts of `cats/1.jpg` are in `cats/1.txt` or `cats/1.caption`, one a line, or in `cats/1.json`, as
    {"caption": "..."}, {"captions": ["...", "..."]} or {"captions": {"en": "...", "de": "..."}}. Where no
    picture has such a file, the folders are classes: the label of `golden_retriever/1.jpg` is
    "golden_retriever", and its text is "golden retriever".
    """

    name: ClassVar[str] = "folder"

    def open(self) -> tuple[Records, Images]:
        root = self.path.rstrip("/")
        files = sorted(files_in(root))
        names = set(files)
        builder, kept = RecordsBuilder(self.min_chars), []
        pictures = [file for file in files if file.lower().endswith(PICTURE_SUFFIXES)]
        beside = {file: [other for other in sidecars(file) if other in names] for file in pictures}
        has_texts = any(beside.values())
        for file in pictures:
            stem, folder = os.path.splitext(file)[0], os.path.dirname(file)
            if has_texts:
                texts = [text for other in beside[file] for text in read_texts(f"{root}/{other}")]
                is_kept = builder.add((stem, file), texts)
            else:
                name = of_name(os.path.basename(folder))
                is_kept = builder.add((stem, file), [], labels=[folder], class_names=[name])
            if is_kept:
                kept.append(file)
        return builder.build(), FilesOfFolder(root, Strings(kept))


def sidecars(picture: str) -> list[str]:
    """The files that may hold the texts of a picture."""
    return [os.path.splitext(picture)[0] + suffix for suffix in TEXT_SUFFIXES]


def files_in(root: str) -> Iterator[str]:
    """The files of a folder and the folders within it, as paths in it with "/". Hidden ones are left out.

    Raises:
        UserError: there is no such folder.
    """
    if is_remote(root):
        system, inner = file_system(root)
        with reading(root):
            found = [file.removeprefix(inner).lstrip("/") for file in system.find(inner)]
        if not found:
            raise UserError(f"{root} is not a folder, or is empty")
        yield from (file for file in found if not file.startswith(".") and "/." not in file)
        return
    if not os.path.isdir(root):
        raise UserError(f"{root} is not a folder")
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inner_folder = Path(folder).relative_to(root)
        yield from ((inner_folder / name).as_posix() for name in files if not name.startswith("."))


def read_texts(file: str) -> list[tuple[str, str]]:
    try:
        return TEXT_SUFFIXES[os.path.splitext(file)[1]](read_file(file))
    except BrokenExampleError as error:
        raise UserError(str(error)) from error
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error


class FilesOfFolder(Images):
    """Files by the number of their record."""

    def __init__(self, root: str, paths: Strings) -> None:
        self.root = root
        self.paths = paths

    def read(self, row: int) -> bytes:
        return read_file(f"{self.root}/{self.paths[row]}")


def read_file(file: str) -> bytes:
    """The content of a file of an ordinary size.

    Raises:
        BrokenExampleError: it cannot be read, or is too large.
    """
    try:
        with opened(file) as content:
            found: bytes = content.read(MAX_BYTES + 1)
    except (UserError, OSError) as error:
        raise BrokenExampleError(file, str(error).removeprefix(f"cannot read {file}: ")) from error
    if len(found) > MAX_BYTES:
        raise BrokenExampleError(file, f"a file of more than {MAX_BYTES:,} bytes")
    return found
