"""The picture dictionary: pictures of things and their names in 168 languages, see docs/data.md.

Its split is fixed: one in ten pictures is held out, all names of ten languages are left out of training, and
so are two of the styles of drawing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from clippo.data.base import Example, SourceConfig, Split, Text
from clippo.data.records import FilesSource, Images, Records, held_out, open_once
from clippo.data.remote import cache_folder
from clippo.data.webdataset import TarsConfig
from clippo.errors import UserError

__all__ = ["COLLECTIONS", "HELD_OUT_LANGUAGES", "UNSEEN_STYLES", "DictionaryConfig"]

COLLECTIONS = ("stamps", "drawings", "flags", "noto")
UNSEEN_STYLES = ("openmoji", "fluent")  # draw what noto does; never trained
HELD_OUT = 0.1  # of the pictures

# Eight have close relatives among the languages that are trained, such as nb of da; Basque has none, and no
# other language is written as Thai is.
HELD_OUT_LANGUAGES = ("af", "ca", "da", "eu", "mk", "ms", "ne", "sk", "th", "uk")


@dataclass(frozen=True, kw_only=True)
class DictionaryConfig(SourceConfig):
    """The picture dictionary that `clippo data fetch dictionary` makes.

    Attributes:
        path: its folder; by default the one in the user's cache.
        collections: stamps, drawings, flags and noto, or openmoji and fluent, which have no part to train on.
        languages: codes of the languages of the names; by default all but the ten that are held out.
        english_share: how often training draws the English name. The other languages of a picture have equal
            parts of the rest.

    Raises:
        UserError: an unknown collection, or a share out of range.
    """

    name: ClassVar[str] = "dictionary"
    path: str = ""
    collections: tuple[str, ...] = COLLECTIONS
    languages: tuple[str, ...] = ()
    english_share: float = 0.3

    def __post_init__(self) -> None:
        known = (*COLLECTIONS, *UNSEEN_STYLES)
        if not self.collections or not set(self.collections) <= set(known):
            raise UserError(
                f"collections must be among {', '.join(known)}; got {', '.join(self.collections)}"
            )
        if not 0 <= self.english_share <= 1:
            raise UserError(f"english_share must be between 0 and 1, got {self.english_share}")

    def build(self, split: Split, *, image_size: int = 0) -> DictionarySource:
        folder = Path(self.path or cache_folder("dictionary"))
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}: `clippo data fetch dictionary` makes it")
        pattern = f"{folder}/{{{','.join(dict.fromkeys(self.collections))}}}.tar"
        records, images = open_once(TarsConfig(path=pattern))
        languages = set(records.languages)
        if unknown := set(self.languages) - languages:
            raise UserError(f"no name in {folder} is in the language {', '.join(sorted(unknown))}")
        languages = set(self.languages) or languages - set(HELD_OUT_LANGUAGES)
        is_trained = ~held_out(records.keys, HELD_OUT)
        is_trained &= [not key.startswith(UNSEEN_STYLES) for key in records.keys]
        is_named = np.add.reduceat([code in languages for code in records.languages], records.first_text[:-1])
        kept = {"train": is_trained, "held_out": ~is_trained, "all": np.ones(len(records), bool)}[split]
        rows = np.flatnonzero(kept & (is_named > 0))
        return DictionarySource(records, images, rows, frozenset(languages), self.english_share)


class DictionarySource(FilesSource):
    """Pictures of the dictionary with their names in some languages.

    Args:
        records, images, rows: as of `FilesSource`.
        languages: codes of those whose names are given.
        english_share: as of `DictionaryConfig`.
    """

    def __init__(
        self,
        records: Records,
        images: Images,
        rows: np.ndarray,
        languages: frozenset[str],
        english_share: float,
    ) -> None:
        super().__init__(records, images, rows)
        self.languages = languages
        self.english_share = english_share

    def example(self, row: int, image: bytes) -> Example:
        example = super().example(row, image)
        texts = [text for text in example.texts if text.language in self.languages]
        other = (1 - self.english_share) / max(1, sum(text.language != "en" for text in texts))
        weights = (self.english_share if text.language == "en" else other for text in texts)
        weighted = (Text(t.text, t.language, weight) for t, weight in zip(texts, weights, strict=True))
        return replace(example, texts=tuple(weighted))

    @property
    def fingerprint(self) -> str:
        """Checksum as of `FilesSource`, and of the languages and their weights."""
        own = repr((sorted(self.languages), self.english_share))
        return hashlib.sha256((super().fingerprint + own).encode()).hexdigest()
