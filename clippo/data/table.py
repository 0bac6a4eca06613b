"""A table of pictures and texts: CSV, TSV or JSON Lines."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from clippo.data.captions import of_name, texts_of
from clippo.data.folder import FilesOfFolder
from clippo.data.records import FilesConfig, Images, Records, RecordsBuilder, Strings
from clippo.data.remote import opened
from clippo.errors import UserError

__all__ = [
    "TableConfig",
    "column_of",
    "labels_column",
    "labels_of",
    "path_in",
    "rows_of",
    "text_columns",
]

DELIMITERS = {".csv": ",", ".tsv": "\t"}
IMAGE_COLUMNS = ("filepath", "file_name", "filename", "image", "path")  # open_clip's and the Hub's first
TEXT_COLUMNS = ("title", "caption", "captions", "text", "texts")
LABEL_COLUMNS = ("label", "labels", "class", "cls")


@dataclass(frozen=True, kw_only=True)
class TableConfig(FilesConfig):
    """Pictures and texts of a table, .csv, .tsv or .jsonl, whose first line names the columns.

    Rows of one picture are one example with several texts. In a table without texts, the words of the labels
    are the texts.

    Attributes:
        image: the column of the paths of the pictures, relative to the folder of the table; by default
            filepath, file_name, filename, image or path.
        text: the columns of the texts, "caption" or, with their languages, "en:caption,de:titel"; by default
            title, caption, captions, text or texts.
        label: the column of the classes; by default label, labels, class or cls, if there is one.
    """

    name: ClassVar[str] = "table"
    image: str = ""
    text: str = ""
    label: str = ""

    def open(self) -> tuple[Records, Images]:
        file = self.path
        root = os.path.dirname(file) or "."
        texts_by_image: dict[str, list[tuple[str, str]]] = {}
        labels_by_image: dict[str, list[str]] = {}
        for number, row in rows_of(file):
            image_column = column_of(row, self.image, IMAGE_COLUMNS, "image", file)
            label_column = labels_column(row, self.label, file)
            columns = text_columns(row, self.text, file, is_optional=label_column is not None)
            where = f"{file}, line {number}"
            image = path_in(root, row[image_column], where)
            try:
                texts = [text for name, code in columns for text in texts_of(row[name], code)]
                labels = [] if label_column is None else labels_of(row[label_column])
            except ValueError as error:
                raise UserError(f"{where}: {error}") from error
            texts_by_image.setdefault(image, []).extend(texts)
            labels_by_image.setdefault(image, []).extend(labels)
        builder, kept = RecordsBuilder(self.min_chars), []
        for image, texts in texts_by_image.items():
            labels = labels_by_image[image]
            names = map(of_name, labels)
            if builder.add((os.path.splitext(image)[0], image), texts, labels=labels, class_names=names):
                kept.append(image)
        return builder.build(), FilesOfFolder(root, Strings(kept))


def rows_of(file: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a table with the numbers of their lines.

    Raises:
        UserError: it cannot be read; the message names the line.
    """
    suffix = os.path.splitext(file)[1].lower()
    if suffix not in (*DELIMITERS, ".jsonl"):
        raise UserError(f"{file} must be a .csv, .tsv or .jsonl file")
    number = 0
    try:
        with opened(file) as content, io.TextIOWrapper(content, "utf-8-sig", newline="") as lines:
            rows = rows_of_csv(lines, DELIMITERS[suffix]) if suffix in DELIMITERS else rows_of_jsonl(lines)
            for number, row in rows:
                yield number, row
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}, after line {number}: text that is not UTF-8") from error
    except BrokenRowError as error:
        raise UserError(f"{file}, {error}") from error


class BrokenRowError(ValueError):
    """A row that cannot be read."""


def rows_of_csv(lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                expected = f"{len(reader.fieldnames or ())} fields, as the first line has"
                raise BrokenRowError(f"line {reader.line_num}: a row must have {expected}")
            yield reader.line_num, row
    except csv.Error as error:
        raise BrokenRowError(f"line {reader.reader.line_num}: {error}") from error


def rows_of_jsonl(lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BrokenRowError(f"line {number}: {error}") from error
        if not isinstance(row, dict):
            raise BrokenRowError(f"line {number}: a line must hold a JSON object")
        yield number, row


def column_of(columns: Collection[str], name: str, usual: Sequence[str], what: str, where: str) -> str:
    """The column of a name, or the first of the usual ones.

    Raises:
        UserError: there is no such column.
    """
    if found := next((column for column in ([name] if name else usual) if column in columns), None):
        return found
    missing = f"no column {name!r}" if name else f"no column {', '.join(usual[:-1])} or {usual[-1]}"
    raise UserError(f"{where} has {missing}; its columns are {', '.join(map(str, columns))}: set {what}=")


def labels_column(columns: Collection[str], given: str, where: str) -> str | None:
    """The column of the labels, None if there is none and none is asked for."""
    if not given and not set(columns) & set(LABEL_COLUMNS):
        return None
    return column_of(columns, given, LABEL_COLUMNS, "label", where)


def labels_of(value: Any) -> list[str]:
    """The classes of a value: a string, a number, or a list of these. Negative numbers are left out.

    Raises:
        ValueError: it is something else.
    """
    labels = []
    for one in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(one, str | int | float | None):
            raise ValueError(f"a label must be a string, a number, or a list; got {str(value)[:80]!r}")
        if one is not None and (isinstance(one, str) or one >= 0):
            labels.append(str(one))
    return labels


def text_columns(
    columns: Collection[str], given: str, where: str, *, is_optional: bool = False
) -> list[tuple[str, str]]:
    """The columns of the texts and their languages: "caption", or "en:caption,de:titel".

    Where they are optional and none is given, there may be none.
    """
    if is_optional and not given and not set(columns) & set(TEXT_COLUMNS):
        return []
    found = []
    for part in given.split(","):
        language, _, name = part.rpartition(":")
        found.append((column_of(columns, name, TEXT_COLUMNS, "text", where), language))
    return found


def path_in(root: str, value: Any, where: str) -> str:
    """A path of a picture as one in a folder.

    Raises:
        UserError: it leads out of the folder.
    """
    if not isinstance(value, str) or not value or "\0" in value:
        raise UserError(f"{where}: the path of a picture must be a string, got {value!r}")
    if "://" in value:
        raise UserError(f"{where}: the picture {value} is on the web: fetch the pictures first")
    path = os.path.relpath(value, root) if os.path.isabs(value) else os.path.normpath(value)
    if path == ".." or path.startswith("../"):
        raise UserError(f"{where}: the picture {value} is not in {root}")
    return path
