"""Made-up examples, to try a run without its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from clippo.data.base import Example, Source, SourceConfig, Split, Text
from clippo.seeds import generator

__all__ = ["MadeUpConfig"]

LETTERS = "eeeetttaaaooiinnsshhrrdlcumwfgypbvk"


@dataclass(frozen=True, kw_only=True)
class MadeUpConfig(SourceConfig):
    """Pictures of random pixels with random words, of which there is nothing to learn.

    Attributes:
        text_share: so many of the examples are pairs of texts.
        count: number of examples.
        words: of each text; eleven make about the 60 letters of a caption on the web.
    """

    name: ClassVar[str] = "made-up"
    count: int = 1_000_000
    words: int = 11
    text_share: float = 0.0

    def build(self, split: Split, *, image_size: int) -> MadeUp:
        return MadeUp(self.count if split != "held_out" else 0, self.words, self.text_share, image_size)


class MadeUp(Source):
    """See `MadeUpConfig`."""

    def __init__(self, count: int, words: int, text_share: float, image_size: int) -> None:
        self.count, self.words, self.text_share, self.image_size = count, words, text_share, image_size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        rng = generator(0, "made-up", index)
        key = f"made-up/{index}"
        # Evenly spread, so that every batch has its share.
        if int((index + 1) * self.text_share) > int(index * self.text_share):
            return Example(key, None, (self.text(rng), self.text(rng)))
        image = rng.integers(0, 256, (self.image_size, self.image_size, 3), dtype=np.uint8)
        return Example(key, image, (self.text(rng),))

    def text(self, rng: np.random.Generator) -> Text:
        lengths = rng.integers(2, 8, self.words).tolist()
        return Text(" ".join("".join(rng.choice([*LETTERS], length)) for length in lengths))
