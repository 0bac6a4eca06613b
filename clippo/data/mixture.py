"""Several sources in one run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import mul
from typing import ClassVar

import numpy as np

from clippo.data.base import Example, Source, SourceConfig, Split
from clippo.errors import UserError

__all__ = ["MixtureConfig"]


@dataclass(frozen=True, kw_only=True)
class MixtureConfig(SourceConfig):
    """Several sources, of which each has a share of the examples of training.

    Attributes:
        sources: at least two.
        shares: of the sources; they need not sum to 1. By default they follow from the sizes, so that every
            example comes equally often.

    Raises:
        UserError: fewer sources, or shares that are not one positive number a source.
    """

    name: ClassVar[str] = "mixture"
    sources: tuple[SourceConfig, ...]
    shares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.sources) < 2:
            raise UserError(f"a mixture must have at least two sources, got {len(self.sources)}")
        if self.shares and len(self.shares) != len(self.sources):
            raise UserError(
                f"shares must be {len(self.sources)} numbers, one a source, got {len(self.shares)}"
            )
        if not all(0 < share < float("inf") for share in self.shares):
            raise UserError(f"shares must be above 0 and finite, got {' '.join(map(str, self.shares))}")

    @property
    def text_share(self) -> float:
        """The share of the examples of training that are pairs of texts.

        Raises:
            UserError: it depends on the sizes of the sources.
        """
        own = [source.text_share for source in self.sources]
        if len(set(own)) == 1:
            return own[0]
        if not self.shares:
            raise UserError("a mixture of pictures and pairs of texts needs shares: --data A=1 --data B=1")
        return float(sum(map(mul, own, self.shares)) / sum(self.shares))

    def build(self, split: Split, *, image_size: int) -> MixtureSource:
        sources = [source.build(split, image_size=image_size) for source in self.sources]
        return MixtureSource(sources, self.shares or [len(source) for source in sources])


class MixtureSource(Source):
    """The examples of several sources, one source after the other; keys begin with the number of theirs."""

    def __init__(self, sources: Sequence[Source], shares: Sequence[float]) -> None:
        self.sources = sources
        self.shares = shares
        self.ends = np.cumsum([len(source) for source in sources])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Example:
        number, row = self.place(index)
        example = self.sources[number][row]
        return replace(example, key=f"{number}:{example.key}")

    def described(self, index: int) -> Example:
        number, row = self.place(index)
        example = self.sources[number].described(row)
        return replace(example, key=f"{number}:{example.key}")

    def place(self, index: int) -> tuple[int, int]:
        """The number of the source that an example is in, and its index there."""
        number = int(np.searchsorted(self.ends, index, side="right"))
        return number, index - int(self.ends[number]) + len(self.sources[number])

    @property
    def parts(self) -> Sequence[tuple[Source, float]]:
        return list(zip(self.sources, self.shares, strict=True))

    @property
    def fingerprint(self) -> str:
        checksum = hashlib.sha256(repr(list(map(float, self.shares))).encode())
        for source in self.sources:
            checksum.update(source.fingerprint.encode())
        return checksum.hexdigest()
