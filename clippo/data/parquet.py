"""Parquet and Arrow files with pictures and texts, as the Hugging Face Hub has them."""

from __future__ import annotations

import importlib
import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from clippo.data.base import BrokenExampleError, Runs
from clippo.data.captions import of_name, texts_of
from clippo.data.folder import read_file
from clippo.data.records import FilesConfig, Images, Records, RecordsBuilder
from clippo.data.remote import is_remote, local_copy, opened, state_of
from clippo.data.table import column_of, labels_column, labels_of, path_in, text_columns
from clippo.data.webdataset import expanded
from clippo.errors import UserError

__all__ = ["ParquetConfig", "RowGroups"]

IMAGE_COLUMNS = ("image", "jpg", "png", "webp", "img", "picture", "file_name", "filepath")
KEPT_BYTES = 2**28  # of the row groups that were read last, for each process


@dataclass(frozen=True, kw_only=True)
class ParquetConfig(FilesConfig):
    """Rows of Parquet files, or of Arrow files (.arrow, .feather).

    `path` may hold ranges and wildcards, as of tars. The pictures are files as bytes, alone or in the image
    feature of Hugging Face, {"bytes": ..., "path": ...}; or paths in the folder of the Parquet file.

    Attributes:
        image: the column of the pictures; by default image, jpg, png, webp, img, picture, file_name or
            filepath.
        text: the columns of the texts, as of a table. They hold strings, or lists of these.
        label: the column of the classes, as of a table. It holds strings, numbers, or lists of these. Numbers
            have the names that the schema of Hugging Face gives them.
    """

    name: ClassVar[str] = "parquet"
    image: str = ""
    text: str = ""
    label: str = ""

    def open(self) -> tuple[Records, Images]:
        files = files_of(self.path)
        builder = RecordsBuilder(self.min_chars)
        places: list[tuple[int, int, int]] = []
        columns = []
        for number, file in enumerate(files):
            groups, stem = RowGroups(file), Path(file).stem
            columns.append(column_of(groups.schema.names, self.image, IMAGE_COLUMNS, "image", file))
            label = labels_column(groups.schema.names, self.label, file)
            class_names = groups.class_names(label)
            texts = text_columns(groups.schema.names, self.text, file, is_optional=label is not None)
            for group in range(len(groups)):
                values = groups.read(group, [*(name for name, _ in texts), *([label] if label else [])])
                paths = groups.paths(group, columns[-1], values.num_rows)
                for row in range(values.num_rows):
                    try:
                        own = [
                            text
                            for name, code in texts
                            for text in texts_of(values.column(name)[row].as_py(), code)
                        ]
                        labels = labels_of(values.column(label)[row].as_py()) if label else []
                    except ValueError as error:
                        raise UserError(f"{file}, row {row} of row group {group}: {error}") from error
                    names = [os.path.splitext(paths[row])[0], paths[row]] if paths[row] else []
                    names += [f"{stem}/{group}/{row}", f"{file}/{group}/{row}"]
                    named = [class_names.get(one, of_name(one)) for one in labels]
                    if builder.add(names, own, labels=labels, class_names=named):
                        places.append((number, group, row))
        return builder.build(), PicturesOfRows(files, columns, np.array(places, np.int64).reshape(-1, 3))


def files_of(path: str) -> list[str]:
    """The files of a pattern, or the Parquet or else the Arrow files of a folder."""
    if os.path.isdir(path) and not any(Path(path).glob("*.parquet")):
        return expanded(path, ".arrow")
    return expanded(path, ".parquet")


class RowGroups:
    """The row groups of a Parquet file, or the record batches of an Arrow file.

    Raises:
        UserError: pyarrow is not installed, or the file cannot be read.
    """

    def __init__(self, file: str) -> None:
        try:
            arrow = importlib.import_module("pyarrow")
            parquet, ipc = (importlib.import_module(f"pyarrow.{name}") for name in ("parquet", "ipc"))
        except ImportError as error:
            raise UserError(f"{file} needs pyarrow: pip install 'clippo-kernels[parquet]'") from error
        self.file = file
        self.arrow = arrow
        self.parquet: Any = None
        try:
            if file.endswith(".parquet"):
                content = opened(file) if is_remote(file) else file
                self.parquet = parquet.ParquetFile(content, memory_map=not is_remote(file))
                self.schema = self.parquet.schema_arrow
                return
            copy = str(local_copy(file))
            try:
                reader = ipc.open_file(arrow.memory_map(copy))
                self.batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            except arrow.ArrowInvalid:  # datasets writes streams
                reader = ipc.open_stream(arrow.memory_map(copy))
                self.batches = list(reader)
            self.schema = reader.schema
        except (arrow.ArrowException, OSError) as error:
            raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}") from error

    def paths(self, group: int, column: str, count: int) -> list[str]:
        """The paths of the `count` pictures of a row group, "" where there are none."""
        kind = self.schema.field(column).type
        if self.arrow.types.is_struct(kind) and kind.get_field_index("path") >= 0:
            leaf = f"{column}.path" if self.parquet else column  # Parquet reads it without the bytes
            pictures = self.read(group, [leaf]).column(column).to_pylist()
            return [(picture or {}).get("path") or "" for picture in pictures]
        if self.arrow.types.is_string(kind):
            return [path or "" for path in self.read(group, [column]).column(column).to_pylist()]
        return [""] * count

    def class_names(self, column: str | None) -> dict[str, str]:
        """The names of the numbers of a column of classes, where the schema has them as on the Hub."""
        with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
            feature = json.loads(self.schema.metadata[b"huggingface"])["info"]["features"][column]
            names = feature.get("names") or feature["feature"]["names"]
            return {str(number): str(name) for number, name in enumerate(names)}
        return {}

    def __len__(self) -> int:
        return int(self.parquet.num_row_groups) if self.parquet else len(self.batches)

    def read(self, group: int, columns: Sequence[str]) -> Any:
        """Some columns of a row group: a pyarrow.Table or RecordBatch."""
        try:
            if self.parquet:
                rows = self.parquet.read_row_group(group, columns=list(columns))
            else:
                rows = self.batches[group].select(list(columns))
            rows.validate(full=True)  # such as strings that are not UTF-8
            return rows
        except (self.arrow.ArrowException, OSError) as error:
            raise UserError(f"{self.file}, row group {group}: {' '.join(str(error).split())}") from error


class PicturesOfRows(Images):
    """Pictures of row groups by the number of their record.

    Args:
        files: paths.
        columns: of the pictures, in each file.
        places: (N, 3) the file of each record, and its row group and row in that.
    """

    def __init__(self, files: Sequence[str], columns: Sequence[str], places: np.ndarray) -> None:
        self.files = files
        self.columns = columns
        self.places = places
        self._groups: dict[int, RowGroups] = {}
        self._read: OrderedDict[tuple[int, int], Any] = OrderedDict()  # the latest last

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_groups": {}, "_read": OrderedDict()}

    def read(self, row: int) -> bytes:
        file, group, number = self.places[row].tolist()
        where = f"{self.files[file]}, row {number} of row group {group}"
        value: Any
        try:
            value = self.column(file, group)[number].as_py()
        except UserError as error:
            raise BrokenExampleError(where, str(error)) from error
        path = None
        if isinstance(value, dict):
            value, path = value.get("bytes"), value.get("path")
        if isinstance(value, bytes):
            return value
        try:
            root = os.path.dirname(self.files[file]) or "."
            return read_file(f"{root}/{path_in(root, value or path, where)}")
        except UserError as error:
            raise BrokenExampleError(where, str(error)) from error

    def runs(self, rows: np.ndarray) -> Runs | None:
        """The rows of each row group, and as many row groups as are kept; None if all of them are."""
        num_bytes = sum(state_of(file)[1] for file in self.files)
        if num_bytes <= KEPT_BYTES:
            return None
        groups, group_N = np.unique(self.places[:, :2], axis=0, return_inverse=True)
        first = np.flatnonzero(np.diff(group_N.reshape(-1)[rows], prepend=-1))
        return Runs(first, max(1, int(KEPT_BYTES * len(groups) / num_bytes)))

    def column(self, file: int, group: int) -> Any:
        if (file, group) not in self._read:
            if file not in self._groups:
                self._groups[file] = RowGroups(self.files[file])
            columns = [self.columns[file]]
            self._read[file, group] = self._groups[file].read(group, columns).column(columns[0])
            while len(self._read) > 1 and sum(column.nbytes for column in self._read.values()) > KEPT_BYTES:
                self._read.popitem(last=False)
        self._read.move_to_end((file, group))
        return self._read[file, group]
