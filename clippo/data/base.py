"""Sources: collections of image-text examples. A new source is one file in this package."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

__all__ = ["BrokenExampleError", "Example", "Runs", "Source", "SourceConfig", "Split", "Text"]

Split = Literal["train", "held_out", "all"]


@dataclass(frozen=True)
class Text:
    """A text of an example.

    Attributes:
        text: the string.
        language: code of its language, None if it is not known.
        weight: how often training draws it, relative to the other texts of the example.
    """

    text: str
    language: str | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Example:
    """An image and the texts that describe it, or a pair of texts.

    Attributes:
        key: names the example in messages, and is unique within its source.
        image: (H, W, 3) uint8, or (H, W, 4) with an alpha channel that is premultiplied; or the bytes of a
            file that `clippo.data.decode` reads. None for a pair of texts.
        texts: at least one. Of a pair the first is drawn in the place of the image.
        labels: the classes that the image belongs to, if the source knows classes; most have one.
    """

    key: str
    image: np.ndarray | bytes | None
    texts: tuple[Text, ...]
    labels: tuple[str, ...] = ()

    @property
    def captions(self) -> tuple[Text, ...]:
        """The texts that go with the image; of a pair of texts the second."""
        return self.texts[1:] if self.image is None else self.texts


class BrokenExampleError(ValueError):
    """An example that cannot be read. Training takes another one in its place, and writes down the reason."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason

    def __reduce__(self) -> tuple[type[BrokenExampleError], tuple[str, str]]:
        return type(self), (self.key, self.reason)


@dataclass(frozen=True)
class Runs:
    """Neighbouring examples that are cheap to read together, such as the row groups of a file.

    Attributes:
        first: (R,) index of the first example of each run, ascending from 0.
        window: how many runs a process can keep in memory.
    """

    first: np.ndarray
    window: int


class Source(ABC):
    """A collection of examples, read by index. It knows nothing of batches, renderers or ranks.

    It is sent to the worker processes of a loader, so it must be picklable.
    """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Example:
        """Read an example.

        Raises:
            BrokenExampleError: it cannot be read.
        """

    def described(self, index: int) -> Example:
        """An example with its texts and labels, and an empty image where that spares reading it."""
        return self[index]

    @property
    def weights(self) -> np.ndarray | None:
        """(N,) how often each example comes in an epoch of training, from 0 to 1; None if always once."""
        return None

    @property
    def runs(self) -> Runs | None:
        """Neighbours to read together; None if any example can be read by itself as cheaply."""
        return None

    @property
    def parts(self) -> Sequence[tuple[Source, float]]:
        """The sources that this one is made of, one after the other, and their shares of training."""
        return [(self, 1.0)]

    @property
    def left_out(self) -> Mapping[str, int]:
        """How many texts or examples were left out when the source was opened, by the reason."""
        return {}

    @property
    def fingerprint(self) -> str:
        """Checksum of the number of examples and of 64 of them, spread evenly.

        A run is not resumed on a source of another fingerprint, and all of its processes must have the same.
        """
        checksum = hashlib.sha256(str(len(self)).encode())
        for index in sorted({i * len(self) // 64 for i in range(64)} if len(self) else ()):
            example = self[index]
            image = b"" if example.image is None else example.image
            checksum.update(repr((example.key, np.shape(image), example.texts)).encode())
            checksum.update(np.ascontiguousarray(image).tobytes())
        return checksum.hexdigest()


@dataclass(frozen=True, kw_only=True)
class SourceConfig(ABC):
    """Configuration of a source. The subclasses are the choices, each in the file of its source."""

    name: ClassVar[str]

    @property
    def text_share(self) -> float:
        """The share of the examples of training that are pairs of texts."""
        return 0.0

    @abstractmethod
    def build(self, split: Split, *, image_size: int) -> Source:
        """Open a part of the data.

        Args:
            split: the examples to train on, those that are kept out of training, or all of them.
            image_size: side in px of the images that the model takes. A source that draws its own pictures
                draws them at this size; other sources may ignore it.
        """
