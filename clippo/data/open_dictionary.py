"""Emoji and flags with all that Unicode CLDR calls them, under permissive licences alone.

Training sees every picture. Names are held out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from clippo.data.base import Example, SourceConfig, Split, Text
from clippo.data.decode import pixels_of
from clippo.data.records import FilesSource, Images, Records, checksum_of, open_once
from clippo.data.remote import cache_folder
from clippo.data.webdataset import TarsConfig
from clippo.errors import UserError
from clippo.files import MANIFEST_FILE

__all__ = ["OpenDictionaryConfig"]

HELD_OUT = 0.1  # of the distinct strings
FEW_SPEAKERS = 10_000  # of a language of which Unicode CLDR gives no number, such as European Portuguese
NAME_SHARE = 0.5  # how often training draws the name in a language, and not one of the keywords


@dataclass(frozen=True, kw_only=True)
class OpenDictionaryConfig(SourceConfig):
    """The collections `emoji` and `territories` that `clippo data fetch dictionary` makes.

    One in ten of the distinct strings is never trained, in whatever language and of whatever picture. A name
    that is held out takes the keywords of its picture in that language with it. The held-out part has the
    held-out names alone.

    Attributes:
        path: the folder; by default the one in the user's cache.
        english_share: how often training draws an English text. The other languages of a picture share the
            rest in proportion to the square root of the number of people who speak them; in each, the name is
            drawn in half of the cases and a keyword in the others.

    Raises:
        UserError: a share out of range, or a folder that `clippo data fetch dictionary` has not made whole.
    """

    name: ClassVar[str] = "open_dictionary"
    path: str = ""
    english_share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.english_share <= 1:
            raise UserError(f"english_share must be between 0 and 1, got {self.english_share}")

    def build(self, split: Split, *, image_size: int = 0) -> OpenDictionarySource:
        folder = Path(self.path or cache_folder("dictionary"))
        for file in ("emoji.tar", MANIFEST_FILE):
            if not (folder / file).is_file():
                raise UserError(
                    f"there is no file {file} in {folder}: `clippo data fetch dictionary` makes it"
                )
        speakers = json.loads((folder / MANIFEST_FILE).read_bytes()).get("speakers", {})
        records, images = open_once(tars := TarsConfig(path=f"{folder}/{{emoji,territories}}.tar"))
        is_kept = texts_by_split(tars)[split]
        rows = np.flatnonzero(np.add.reduceat(is_kept, records.first_text[:-1], dtype=np.intp))
        return OpenDictionarySource(records, images, rows, is_kept, self.english_share, speakers)


@cache
def texts_by_split(tars: TarsConfig) -> dict[Split, np.ndarray]:
    """The parts of the texts of all records, (T,) bool."""
    records, _ = open_once(tars)
    language_T = np.array(list(records.languages))
    is_name_T = np.concatenate([[True], language_T[1:] != language_T[:-1]])
    is_name_T[records.first_text[:-1]] = True
    checksum_T = np.fromiter((checksum_of(text.casefold()) for text in records.texts), np.uint32)
    is_held_out_T = checksum_T < HELD_OUT * 2**32
    of_held_out_name_T = is_held_out_T[is_name_T][np.cumsum(is_name_T) - 1]
    return {
        "train": ~(is_held_out_T | of_held_out_name_T),
        "held_out": is_held_out_T & is_name_T,
        "all": np.ones(len(is_name_T), bool),
    }


class OpenDictionarySource(FilesSource):
    """Pictures with some of their texts.

    Args:
        records, images, rows: as of `FilesSource`.
        is_kept: (T,) bool, of all texts of the records.
        english_share: as of `OpenDictionaryConfig`.
        speakers: how many people speak each language.
    """

    def __init__(
        self,
        records: Records,
        images: Images,
        rows: np.ndarray,
        is_kept: np.ndarray,
        english_share: float,
        speakers: Mapping[str, int],
    ) -> None:
        super().__init__(records, images, rows)
        self.is_kept = is_kept
        self.english_share = english_share
        self.speakers = speakers
        # By row: a picture has hundreds of texts, and decoding takes longer than all else that a loader does
        # with it. Together they take 160 MiB in each process.
        self._texts: dict[int, tuple[Text, ...]] = {}
        self._pictures: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_texts": {}, "_pictures": {}}

    def __getitem__(self, index: int) -> Example:
        row = int(self.rows[index])
        if row not in self._pictures:
            self._pictures[row] = pixels_of(super().__getitem__(index))
        return self.example(row, self._pictures[row])

    def example(self, row: int, image: bytes | np.ndarray) -> Example:
        if row not in self._texts:
            self._texts[row] = self.weighted_texts(row)
        return Example(self.records.keys[row], image, self._texts[row])

    def weighted_texts(self, row: int) -> tuple[Text, ...]:
        """The texts of a record that are kept, with their weights."""
        first = self.records.first_text[row]
        by_language: dict[str | None, list[str]] = {}
        for number, text in enumerate(self.records.texts_of(row), first):
            if self.is_kept[number]:
                by_language.setdefault(text.language, []).append(text.text)
        power = {code: self.speakers.get(str(code), FEW_SPEAKERS) ** 0.5 for code in by_language}
        others = sum(power.values()) - power.get("en", 0.0)
        texts = []
        for language, (name, *keywords) in by_language.items():
            rest = (1 - self.english_share) * power[language] / others if others else 0.0
            share = self.english_share if language == "en" else rest
            of_name = NAME_SHARE if keywords else 1.0
            texts.append(Text(name, language, share * of_name))
            texts += [Text(word, language, share * (1 - of_name) / len(keywords)) for word in keywords]
        return tuple(texts)

    @property
    def fingerprint(self) -> str:
        """Checksum as of `FilesSource`, and of which texts are kept and their weights."""
        own = self.is_kept.tobytes() + repr((self.english_share, self.speakers)).encode()
        return hashlib.sha256(super().fingerprint.encode() + own).hexdigest()
