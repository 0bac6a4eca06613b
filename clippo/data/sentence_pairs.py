"""Pairs of consecutive sentences of documents, kept in files that all processes read from.

The sentences of a source are written once into a folder of the user's cache, which processes map into their
memory: a source of any size takes little memory of a process, and no time to send to another. For a large
one, run `clippo data check` before a training of many processes, of which each would write the same.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

import numpy as np

from clippo.data.base import Example, Source, SourceConfig, Split, Text
from clippo.data.records import checksum_of, lowest
from clippo.data.remote import cache_folder
from clippo.errors import UserError
from clippo.files import remove
from clippo.results import version_of

__all__ = ["Document", "SentencePairSource", "SentencePairsConfig", "sentences_of"]

PARAGRAPH = re.compile(r"\n\s*\n")
ABOUT_FILE = "about.json"
VERSION = 1  # of the files and of the rules by which sentences are found; another is written anew


class Document(NamedTuple):
    """Sentences of one text, in their order.

    Attributes:
        sentences: those that `sentences_of` finds; a title may come before them.
        language: code of their language, "" if it is not known.
        group: decides whether the document is held out; documents that share text have one group.
    """

    sentences: Sequence[str]
    language: str
    group: str


def sentences_of(text: str, language: str, *, min_chars: int) -> list[str]:
    """Split a text into sentences by the rules of its language, with the library sentencex of Wikimedia.

    A blank line ends a sentence, other white space becomes one space, and sentences of fewer than `min_chars`
    characters are left out.

    Args:
        text: the text.
        language: code of its language; "" takes the rules of English.
        min_chars: as above.

    Raises:
        UserError: sentencex is not installed.
    """
    try:
        segment = importlib.import_module("sentencex").segment
    except ImportError as error:
        raise UserError("sentences need sentencex: pip install 'clippo-kernels[sentences]'") from error
    # It takes no lone surrogates, which JSON can hold.
    text = text.encode("utf-8", "replace").decode()
    paragraphs = (" ".join(paragraph.split()) for paragraph in PARAGRAPH.split(text))
    found = (sentence.strip() for own in paragraphs for sentence in segment(language or "en", own))
    return [sentence for sentence in found if len(sentence) >= min_chars]


@dataclass(frozen=True, kw_only=True)
class SentencePairsConfig(SourceConfig, ABC):
    """Pairs of consecutive sentences. The subclasses are the places they come from.

    Attributes:
        held_out: share of the documents that are kept out of training, at most 5,000. Of each its first pair
            is measured, unless training sees one of its sentences elsewhere.
        min_chars: sentences with fewer characters are left out.
        max_repeats: a sentence that comes more often says nothing about its document, and no pair has it.
            The same pair is taken once.

    Raises:
        UserError: a value out of range.
    """

    held_out: float = 0.05
    min_chars: int = 15
    max_repeats: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise UserError(f"data.held_out must be from 0 to below 1, got {self.held_out}")
        for name in ("min_chars", "max_repeats"):
            if getattr(self, name) < 1:
                raise UserError(f"data.{name} must be at least 1, got {getattr(self, name)}")

    @property
    def text_share(self) -> float:
        return 1.0

    @property
    @abstractmethod
    def state(self) -> Any:
        """JSON values that change when the documents do, such as the sizes and times of their files."""

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """Read the documents.

        Raises:
            UserError: they are not there, or not what they should be; the message names the place.
        """

    def build(self, split: Split, *, image_size: int = 0) -> SentencePairSource:
        key = json.dumps([VERSION, version_of("sentencex"), self.name, repr(self), self.state])
        folder = cache_folder("sentences") / hashlib.sha256(key.encode()).hexdigest()
        if not (folder / ABOUT_FILE).exists():
            write_once(self, folder)
        return SentencePairSource(folder, split)


class SentencePairSource(Source):
    """The pairs of a split, read from the files of `write`.

    Args:
        folder: of the files.
        split: the pairs.

    Attributes:
        about: counts, as `write` gave them.
    """

    def __init__(self, folder: Path, split: Split) -> None:
        self.folder = folder
        self.split = split
        self.about: dict[str, Any] = json.loads((folder / ABOUT_FILE).read_text())

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("folder", "split", "about")}

    @cached_property
    def files(self) -> dict[str, np.ndarray]:
        """The arrays of `write`, mapped into memory."""
        # An empty file cannot be mapped.
        return {
            file.stem: np.load(file, mmap_mode="r" if file.stat().st_size > 128 else None)
            for file in self.folder.glob("*.npy")
        }

    @property
    def parts_of_split(self) -> list[np.ndarray]:
        """The first sentences of the pairs."""
        names = ("train", "held_out") if self.split == "all" else (self.split,)
        return [self.files[name] for name in names]

    def __len__(self) -> int:
        return sum(map(len, self.parts_of_split))

    def __getitem__(self, index: int) -> Example:
        for part in self.parts_of_split:
            if index < len(part):
                break
            index -= len(part)
        first = int(part[index])
        document = int(np.searchsorted(self.files["documents"], first, side="right")) - 1
        language = self.about["languages"][int(self.files["languages"][document])] or None
        ends, letters = self.files["ends"][first : first + 3].tolist(), self.files["letters"]
        texts = (letters[a:b].tobytes().decode() for a, b in pairwise(ends))
        key = f"{document}/{first - int(self.files['documents'][document])}"
        return Example(key, None, tuple(Text(text, language) for text in texts))

    @property
    def left_out(self) -> Mapping[str, int]:
        found: dict[str, int] = self.about["left_out"]
        return found

    @property
    def fingerprint(self) -> str:
        """Checksum of all sentences and pairs."""
        return f"{self.about['sha256']}-{self.split}"


def write_once(config: SentencePairsConfig, folder: Path) -> None:
    """Write the files of a configuration into a folder, unless another process is sooner.

    Raises:
        UserError: the folder cannot be written, or there are no pairs.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(mkdtemp(dir=folder.parent, prefix="unfinished-"))
    except OSError as error:
        raise UserError(f"cannot write into {folder.parent}: {error.strerror}") from error
    try:
        write(config, unfinished)
        os.rename(unfinished, folder)
    except OSError as error:
        if not (folder / ABOUT_FILE).exists():
            raise UserError(f"cannot write into {folder}: {error.strerror}") from error
    finally:
        remove(unfinished)


def write(config: SentencePairsConfig, folder: Path) -> None:
    """Write the sentences and pairs of a configuration into a folder.

    With S sentences, D documents, N pairs and L bytes:

        letters.npy (L,) uint8        the sentences in UTF-8, one after the other
        ends.npy (S + 1,) uint64      sentence s has the bytes ends[s]:ends[s + 1]
        documents.npy (D + 1,) uint64 document d has the sentences documents[d]:documents[d + 1]
        languages.npy (D,) uint16     numbers of the languages
        train.npy, held_out.npy       uint64, the number of the first sentence of each pair
        about.json                    languages, counts and a checksum

    Raises:
        UserError: as of `SentencePairsConfig.documents`, or there are no pairs.
    """
    ends, starts, hashes = array("Q", [0]), array("Q", [0]), array("Q")
    groups, numbers = array("L"), array("H")
    languages: dict[str, int] = {}
    checksum = hashlib.sha256()
    letters = folder / "letters"
    with letters.open("wb") as file:
        for document in config.documents():
            for sentence in document.sentences:
                encoded = sentence.encode()
                file.write(encoded)
                checksum.update(encoded + b"\n")
                ends.append(ends[-1] + len(encoded))
                digest = hashlib.blake2b(encoded, digest_size=8).digest()
                hashes.append(int.from_bytes(digest))
            starts.append(len(hashes))
            groups.append(checksum_of(document.group))
            numbers.append(languages.setdefault(document.language, len(languages)))
    hash_S, start_D = np.array(hashes, np.uint64), np.array(starts, np.uint64)
    is_held_out_D = lowest(np.array(groups, np.uint32), config.held_out)
    train, measured, left_out = pairs_of(hash_S, start_D, is_held_out_D, config.max_repeats)
    if not len(train) + len(measured):
        raise UserError(
            f"{config.name} holds no pair of sentences: {len(groups):,} documents, {len(hash_S):,} sentences"
        )
    content = np.memmap(letters, np.uint8, "r") if ends[-1] else np.zeros(0, np.uint8)
    arrays = {
        "letters": content, "ends": np.array(ends, np.uint64), "documents": start_D,
        "languages": np.array(numbers, np.uint16), "train": train, "held_out": measured,
    }  # fmt: skip
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    checksum.update(train.tobytes() + measured.tobytes())
    letters.unlink()
    about = {
        "languages": list(languages), "documents": len(groups), "sentences": len(hash_S),
        "left_out": left_out, "sha256": checksum.hexdigest(),
    }  # fmt: skip
    (folder / ABOUT_FILE).write_text(json.dumps(about, indent=2) + "\n")


def pairs_of(
    hash_S: np.ndarray, start_D: np.ndarray, is_held_out_D: np.ndarray, max_repeats: int
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Choose the pairs of consecutive sentences.

    Args:
        hash_S: (S,) uint64, equal for equal sentences.
        start_D: (D + 1,) uint64, the first sentence of each document, and S.
        is_held_out_D: (D,) bool.
        max_repeats: as of `SentencePairsConfig`.

    Returns:
        The numbers of the first sentences of the pairs, to train and to measure on, and how many sentences
        and pairs were left out for which reason.
    """
    document_S = np.repeat(np.arange(len(is_held_out_D)), np.diff(start_D).astype(np.int64))
    _, number_S, count = np.unique(hash_S, return_inverse=True, return_counts=True)
    is_kept_S = count[number_S] <= max_repeats
    first = np.flatnonzero((document_S[:-1] == document_S[1:]) & is_kept_S[:-1] & is_kept_S[1:])
    first = first[number_S[first] != number_S[first + 1]]
    # The first of equal pairs.
    both = number_S[first].astype(np.uint64) << np.uint64(32) | number_S[first + 1].astype(np.uint64)
    once = first[np.sort(np.unique(both, return_index=True)[1])]
    is_measured = is_held_out_D[document_S[once]]
    train, measured = once[~is_measured], once[is_measured]
    is_trained = np.zeros(len(count), bool)
    is_trained[number_S[train]] = is_trained[number_S[train + 1]] = True
    is_seen = is_trained[number_S[measured]] | is_trained[number_S[measured + 1]]
    unseen = measured[~is_seen]
    one_a_document = unseen[np.unique(document_S[unseen], return_index=True)[1]]
    left_out = {
        f"sentences that come more than {max_repeats} times": int((~is_kept_S).sum()),
        "pairs that came before": len(first) - len(once),
        "pairs to measure of which a sentence is trained": int(is_seen.sum()),
    }
    return train.astype(np.uint64), one_a_document.astype(np.uint64), left_out
