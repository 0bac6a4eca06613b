"""Documents in text files, JSON Lines and Parquet files: consecutive sentences of one's own texts."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tqdm import tqdm

from clippo.data.parquet import RowGroups
from clippo.data.remote import local_copy, state_of
from clippo.data.sentence_pairs import Document, SentencePairsConfig, sentences_of
from clippo.data.webdataset import expanded
from clippo.errors import UserError

__all__ = ["SentencesConfig"]

TEXT_SUFFIXES = (".txt", ".md", ".markdown")
JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
PACKED = ("", ".gz", ".zst")
SUFFIXES = (*TEXT_SUFFIXES, ".parquet", *(json + packed for json in JSON_SUFFIXES for packed in PACKED))


@dataclass(frozen=True, kw_only=True)
class SentencesConfig(SentencePairsConfig):
    """Documents of one's own.

    Attributes:
        path: a file, a folder, or a pattern with ranges and wildcards, as of tars. A .txt or .md file is a
            document. A .jsonl or .json file, which may be compressed (.gz, .zst), holds a JSON object a line,
            as C4 has it; of a .parquet file a row is a document, as FineWeb has it.
        text: the field or column of the text.
        language: code of the language of all documents; by default that in their field "language", and the
            rules of English where there is none.
    """

    name: ClassVar[str] = "sentences"
    path: str
    text: str = "text"
    language: str = ""

    @property
    def files(self) -> list[str]:
        if not self.path:
            raise UserError(f"{self.name} needs a path: {self.name}:PATH")
        if os.path.isdir(self.path):
            inside = (str(file) for file in sorted(Path(self.path).rglob("*")) if file.is_file())
            found = [file for file in inside if file.lower().endswith(SUFFIXES)]
        else:
            found = expanded(self.path, "")
        if not found:
            raise UserError(f"{self.path} holds no file that ends in {', '.join(SUFFIXES)}")
        if strange := [file for file in found if not file.lower().endswith(SUFFIXES)]:
            raise UserError(f"{strange[0]} must end in one of {', '.join(SUFFIXES)}")
        return found

    @property
    def state(self) -> Any:
        return [state_of(file) for file in self.files]

    def documents(self) -> Iterator[Document]:
        for file in tqdm(self.files, desc="sentences", unit="file", leave=False):
            for text, language in self.texts(file):
                sentences = sentences_of(text, language, min_chars=self.min_chars)
                yield Document(sentences, language, text)

    def texts(self, file: str) -> Iterator[tuple[str, str]]:
        """The texts of a file and their languages."""
        if file.lower().endswith(TEXT_SUFFIXES):
            yield text_of(file), self.language
            return
        rows = rows_of_parquet(file, self.text) if file.lower().endswith(".parquet") else rows_of_json(file)
        for place, row in rows:
            text = row.get(self.text)
            if not isinstance(text, str):
                raise UserError(f"{place}: the field {self.text!r} must be a text, got {str(text)[:80]!r}")
            yield text, self.language or str(row.get("language") or "")


def text_of(file: str) -> str:
    """The text of a file in UTF-8, without the marks of Markdown.

    Raises:
        UserError: it cannot be read, or is not UTF-8.
    """
    try:
        text = local_copy(file).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text: {error}") from error
    return text if file.lower().endswith(".txt") else plain(text)


MARKS = (
    (re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL), ""),  # code
    (re.compile(r"<!--.*?-->", re.DOTALL), ""),
    (re.compile(r"^[ \t]*\|.*$", re.MULTILINE), ""),  # tables
    (re.compile(r"!\[[^\]]*\]\([^)]*\)"), ""),  # pictures
    (re.compile(r"\[([^\]]*)\]\([^)]*\)"), r"\1"),  # links
    (re.compile(r"^[ \t]*#+[ \t]+(.*?)[ \t]*#*$", re.MULTILINE), r"\n\1\n"),  # headings
    (re.compile(r"^[ \t]*([-*+]|\d+[.)])[ \t]+", re.MULTILINE), "\n\n"),  # items of lists
    (re.compile(r"^[ \t]*> ?", re.MULTILINE), ""),  # quotations
    (re.compile(r"(\*\*|__|`)(?=\S)(.+?)(?<=\S)\1"), r"\2"),  # bold, code
    (re.compile(r"(?<![\w*])\*(?=\S)([^*\n]+?)(?<=\S)\*(?!\w)"), r"\1"),  # italic
)


def plain(markdown: str) -> str:
    """The text of Markdown, without code, tables and pictures."""
    for pattern, instead in MARKS:
        markdown = pattern.sub(instead, markdown)
    return markdown


def rows_of_json(file: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects of a file of JSON Lines, and where each is.

    Raises:
        UserError: a line is not a JSON object, or the file cannot be read.
    """
    try:
        with lines_of(file) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                place = f"{file}, line {number}"
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{place} is not JSON: {error}") from error
                if not isinstance(row, dict):
                    raise UserError(f"{place} must be a JSON object, got {line[:80]!r}")
                yield place, row
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise UserError(f"{file} cannot be read: {error}") from error


def lines_of(file: str) -> AbstractContextManager[io.TextIOBase]:
    """Open a text file that may be compressed.

    Raises:
        UserError: pyarrow, which reads .zst, is not installed.
    """
    copy = local_copy(file)
    if file.lower().endswith(".gz"):
        return gzip.open(copy, "rt", encoding="utf-8-sig")
    if file.lower().endswith(".zst"):
        try:
            import pyarrow
        except ImportError as error:
            raise UserError(f"{file} needs pyarrow: pip install 'clippo-kernels[parquet]'") from error
        return io.TextIOWrapper(pyarrow.input_stream(str(copy), compression="zstd"), encoding="utf-8-sig")
    return open(copy, encoding="utf-8-sig")


def rows_of_parquet(file: str, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The texts of the rows of a Parquet file and their languages, and where each is.

    Raises:
        UserError: there is no such column.
    """
    groups = RowGroups(file)
    if text not in groups.schema.names:
        raise UserError(f"{file} has the columns {', '.join(groups.schema.names)}; got text {text!r}")
    columns = [name for name in (text, "language") if name in groups.schema.names]
    for group in range(len(groups)):
        for number, row in enumerate(groups.read(group, columns).to_pylist()):
            yield f"{file}, row {number} of row group {group}", row
