"""Sources of files: keys, texts and labels are kept in memory, and pictures are read when they are needed."""

from __future__ import annotations

import hashlib
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np

from clippo.data.base import BrokenExampleError, Example, Runs, Source, SourceConfig, Split, Text
from clippo.data.captions import reason_against
from clippo.errors import UserError

__all__ = [
    "FilesConfig",
    "FilesSource",
    "Images",
    "Records",
    "RecordsBuilder",
    "Strings",
    "checksum_of",
    "held_out",
    "lowest",
    "open_once",
]

MAX_HELD_OUT = 5000  # examples; their pictures are kept in memory for evaluation


class Strings(Sequence[str]):
    """Strings in one buffer: 16 bytes each beside their letters, and quick to send to another process."""

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [string.encode("utf-8", "surrogatepass") for string in strings]
        self.buffer = b"".join(encoded)
        self.ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.buffer[self.ends[index] : self.ends[index + 1]].decode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Records:
    """Examples without their pictures.

    Attributes:
        keys: N names of the examples, all different.
        texts: of all examples, one after the other.
        languages: of all texts; "" where it is not known.
        first_text: (N + 1,) index of the first text of each example, and the number of texts.
        labels: the classes of the N examples, one a line; "" where there is none.
        left_out: how many texts were left out for each reason; see `RecordsBuilder`.
        num_bare: examples that were left out because no text of theirs was kept.
    """

    keys: Strings
    texts: Strings
    languages: Strings
    first_text: np.ndarray
    labels: Strings
    left_out: Counter[str]
    num_bare: int

    def __len__(self) -> int:
        return len(self.keys)

    def texts_of(self, row: int) -> tuple[Text, ...]:
        numbers = range(self.first_text[row], self.first_text[row + 1])
        return tuple(Text(self.texts[i], self.languages[i] or None) for i in numbers)


class RecordsBuilder:
    """Collects the records of a source.

    Texts that describe nothing are left out and counted, see `reason_against`, and so are examples without a
    text that is kept.
    """

    def __init__(self, min_chars: int) -> None:
        self.min_chars = min_chars
        self.keys: dict[str, None] = {}
        self.texts: list[str] = []
        self.languages: list[str] = []
        self.first_text = [0]
        self.labels: list[str] = []
        self.left_out: Counter[str] = Counter()
        self.num_bare = 0

    def add(
        self,
        names: Sequence[str],
        texts: Iterable[tuple[str, str]],
        *,
        labels: Iterable[str] = (),
        class_names: Iterable[str] = (),
    ) -> bool:
        """Add an example.

        Args:
            names: its key is the first of these that no other example has.
            texts: pairs of a text and its language, "" if that is not known.
            labels: its classes; empty ones are left out.
            class_names: of the labels. They are the texts of an example that has no others, however short.

        Returns:
            Whether it was kept.

        Raises:
            UserError: other examples have all of these names.
        """
        key = next((name for name in names if name not in self.keys), None)
        if key is None:
            raise UserError(f"two examples have the name {names[-1]}")
        kept = []
        for text, language in texts:
            text = " ".join(text.split())
            reason = reason_against(text, self.min_chars)
            if reason:
                self.left_out[reason] += 1
            else:
                kept.append((text, language))
        kept = kept or [(name, "") for name in class_names if name]
        if not kept:
            self.num_bare += 1
            return False
        self.keys[key] = None
        lines = dict.fromkeys(" ".join(label.split()) for label in labels)
        self.labels.append("\n".join(filter(None, lines)))
        self.texts += [text for text, _ in kept]
        self.languages += [language for _, language in kept]
        self.first_text.append(len(self.texts))
        return True

    def build(self) -> Records:
        return Records(
            Strings(self.keys), Strings(self.texts), Strings(self.languages),
            np.array(self.first_text), Strings(self.labels), self.left_out, self.num_bare,
        )  # fmt: skip


class Images(Protocol):
    """Encoded pictures by the number of their record. It is sent to worker processes."""

    def read(self, row: int) -> bytes:
        """Read a file.

        Raises:
            BrokenExampleError: it cannot be read.
        """

    def runs(self, rows: np.ndarray) -> Runs | None:
        """Group the records of ascending numbers `rows` into runs; None if each is as cheap to read alone."""
        return None


class FilesSource(Source):
    """Some of the examples of files.

    Args:
        records: of all examples.
        images: of all examples.
        rows: the examples of this source.
    """

    def __init__(self, records: Records, images: Images, rows: np.ndarray) -> None:
        self.records = records
        self.images = images
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = int(self.rows[index])
        key = self.records.keys[row]
        try:
            image = self.images.read(row)
        except BrokenExampleError as error:
            raise BrokenExampleError(key, str(error)) from error
        return self.example(row, image)

    def described(self, index: int) -> Example:
        return self.example(int(self.rows[index]), b"")

    def example(self, row: int, image: bytes) -> Example:
        """The example of a record with its image."""
        labels = filter(None, self.records.labels[row].split("\n"))
        return Example(self.records.keys[row], image, self.records.texts_of(row), tuple(labels))

    @property
    def runs(self) -> Runs | None:
        return self.images.runs(self.rows)

    @property
    def left_out(self) -> Mapping[str, int]:
        bare = {"examples without a text": self.records.num_bare} if self.records.num_bare else {}
        return bare | {f"texts: {reason}": count for reason, count in self.records.left_out.items()}

    @property
    def fingerprint(self) -> str:
        """Checksum of all keys and texts, of which examples these are, and of 16 of their pictures."""
        checksum = hashlib.sha256(self.records.keys.buffer + b"\0" + self.records.texts.buffer)
        for numbers in (self.records.keys.ends, self.records.texts.ends, self.rows):
            checksum.update(np.ascontiguousarray(numbers, np.int64).tobytes())
        for index in sorted({i * len(self) // 16 for i in range(16)} if len(self) else ()):
            with suppress(BrokenExampleError):
                checksum.update(self.images.read(int(self.rows[index])))
        return checksum.hexdigest()


@dataclass(frozen=True, kw_only=True)
class FilesConfig(SourceConfig, ABC):
    """Examples in files.

    Attributes:
        path: where they are.
        held_out: share of the examples that are kept out of training, at most 5,000. An example keeps its
            part when others are added, because its key decides.
        min_chars: texts with fewer characters are left out; a wide one, as in Chinese, counts as two.

    Raises:
        UserError: a value out of range.
    """

    path: str
    held_out: float = 0.05
    min_chars: int = 2

    def __post_init__(self) -> None:
        if not self.path:
            raise UserError(f"{self.name} needs a path: {self.name}:PATH")
        if not 0 <= self.held_out < 1:
            raise UserError(f"data.held_out must be from 0 to below 1, got {self.held_out}")
        if self.min_chars < 1:
            raise UserError(f"data.min_chars must be at least 1, got {self.min_chars}")

    @abstractmethod
    def open(self) -> tuple[Records, Images]:
        """Read what is known of all examples without their pictures.

        Raises:
            UserError: the files are not there, or not what they should be; the message names the place.
        """

    def build(self, split: Split, *, image_size: int = 0) -> FilesSource:
        records, images = open_once(self)
        is_held_out = held_out(records.keys, self.held_out)
        kept = {"train": ~is_held_out, "held_out": is_held_out, "all": np.ones(len(records), bool)}[split]
        return FilesSource(records, images, np.flatnonzero(kept))


@cache
def open_once(config: FilesConfig) -> tuple[Records, Images]:
    """Open the files of a configuration, or return what an earlier call has opened."""
    records, images = config.open()
    if not len(records):
        reasons = "; ".join(f"{count:,} texts: {reason}" for reason, count in records.left_out.items())
        raise UserError(f"{config.path} holds no example with a text{': ' * bool(reasons)}{reasons}")
    return records, images


def checksum_of(text: str) -> int:
    """CRC-32 of a string, which decides whether what it names is held out."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


def held_out(keys: Strings, share: float) -> np.ndarray:
    """(N,) bool: the examples whose keys have the lowest checksums."""
    return lowest(np.fromiter(map(checksum_of, keys), np.uint32), share)


def lowest(checksum_N: np.ndarray, share: float) -> np.ndarray:
    """(N,) bool: the lowest checksums, a share of all, but at most about 5,000."""
    bound = share * 2**32
    if share * len(checksum_N) > MAX_HELD_OUT:
        bound = np.partition(checksum_N, MAX_HELD_OUT)[MAX_HELD_OUT]
    out: np.ndarray = checksum_N < bound
    return out
