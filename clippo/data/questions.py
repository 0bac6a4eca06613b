"""Questions about pictures, for visual question answering. A new collection is one file in this package."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

__all__ = ["Question", "Questions", "QuestionsConfig", "QuestionsSplit"]

QuestionsSplit = Literal["train", "held_out"]


@dataclass(frozen=True)
class Question:
    """A question about a picture.

    Attributes:
        key: names the question in messages, and is unique within its collection.
        picture: names what the picture shows; questions of one picture are in one split.
        text: the question.
        answers: of the people who were asked, or the one right answer.
        answer: the one that most of them gave.
        kind: the kind of question by which accuracy is reported, such as "number"; without a "/".
    """

    key: str
    picture: str
    text: str
    answers: tuple[str, ...]
    answer: str
    kind: str


class Questions(ABC):
    """A collection of questions, whose pictures are read when they are needed.

    Attributes:
        asked: the N questions.
    """

    asked: Sequence[Question]

    def __len__(self) -> int:
        return len(self.asked)

    @abstractmethod
    def image(self, index: int) -> np.ndarray:
        """Read the picture of a question: (H, W, 3) uint8.

        Raises:
            UserError: it cannot be read.
        """

    @property
    def fingerprint(self) -> str:
        """Checksum of all questions and of 16 of their pictures, spread evenly."""
        checksum = hashlib.sha256()
        for question in self.asked:
            checksum.update(repr(question).encode())
        for index in sorted({i * len(self) // 16 for i in range(16)} if len(self) else ()):
            checksum.update(np.ascontiguousarray(self.image(index)).tobytes())
        return checksum.hexdigest()


@dataclass(frozen=True, kw_only=True)
class QuestionsConfig(ABC):
    """Configuration of a collection of questions. The subclasses are the choices."""

    name: ClassVar[str]

    @abstractmethod
    def build(self, split: QuestionsSplit, image_size: int) -> Questions:
        """Open a split.

        Args:
            split: the questions to train on, or those that are kept out of training.
            image_size: side in px of the images that the model takes; pictures that are made up have it.

        Raises:
            UserError: the data are not there, or not what they should be.
        """
