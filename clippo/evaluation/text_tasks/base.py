"""What a task on texts consists of."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from clippo.errors import UserError
from clippo.seeds import generator

__all__ = [
    "OPINIONS",
    "SEPARATOR",
    "Part",
    "PartName",
    "TextExample",
    "TextTask",
    "checksum_of",
    "made",
    "part_of",
    "part_with",
]

SEPARATOR = " [SEP] "  # between the two texts of a pair, which are drawn into one image

# Prompts for the sentiment of a review of a film.
OPINIONS = ("a {} opinion of a film", "this is {}", "I found it {}", "the critic felt {} about it", "{}")

PartName = Literal["train", "validation", "test"]
VALIDATION, TEST = 0.1, 0.2  # shares of the groups


@dataclass(frozen=True)
class Part:
    """Texts, or pairs of texts, and their labels.

    Attributes:
        texts: N strings, the first ones where they are pairs.
        seconds: the second strings of N pairs; none where they are single texts.
        labels: (N,) int64 numbers of classes, or float64 scores.
    """

    texts: tuple[str, ...]
    seconds: tuple[str, ...]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def inputs(self) -> list[str]:
        """One string an example; those of a pair have " [SEP] " between them."""
        if not self.seconds:
            return list(self.texts)
        return [SEPARATOR.join(pair) for pair in zip(self.texts, self.seconds, strict=True)]

    @property
    def fingerprint(self) -> str:
        """Checksum of the texts and labels."""
        return checksum_of([*self.texts, *self.seconds, repr(self.labels.tolist())])

    def drawn(self, count: int, *path: str) -> Part:
        """So many of the examples at most, drawn at random; the same ones at every call.

        Args:
            count: examples.
            path: names what they are drawn for, as in `clippo.seeds.generator`.
        """
        rows = np.sort(generator(0, *path).permutation(len(self))[:count]).tolist()
        texts, seconds = ([of[row] for row in rows] if of else [] for of in (self.texts, self.seconds))
        return Part(tuple(texts), tuple(seconds), self.labels[rows])


@dataclass(frozen=True)
class TextTask:
    """Texts, or pairs of texts, with labels to predict.

    Attributes:
        name: of the task.
        train: examples to learn from.
        validation: examples to choose settings by.
        tests: examples to measure on, by name; the name is "" where there is one set of them.
        classes: names of the classes by number; none where scores are predicted.
        metrics: names in `clippo.evaluation.metrics.METRICS`, the main one first.
        prompts: texts with {} for the name of a class, for zero-shot classification; none where the names
            say nothing.
    """

    name: str
    train: Part
    validation: Part
    tests: Mapping[str, Part]
    classes: tuple[str, ...]
    metrics: tuple[str, ...]
    prompts: tuple[str, ...] = ()

    def capped(self, max_train: int, max_test: int) -> TextTask:
        """The task with no more than so many examples to train on, and to test on in each set.

        The examples to choose settings by are a quarter of those to train on at most.
        """
        tests = {name: part.drawn(max_test, "test", name) for name, part in self.tests.items()}
        train = self.train.drawn(max_train, "train")
        validation = self.validation.drawn(max_train // 4, "validation")
        return replace(self, train=train, validation=validation, tests=tests)

    @property
    def fingerprint(self) -> str:
        """Checksum of all texts and labels, and of the prompts."""
        parts = [part.fingerprint for part in (self.train, self.validation, *self.tests.values())]
        return checksum_of([*parts, *self.prompts])


def checksum_of(texts: Iterable[str]) -> str:
    """SHA-256 of strings in their order, in hexadecimal."""
    return hashlib.sha256(repr(list(texts)).encode("utf-8", "surrogatepass")).hexdigest()


class TextExample(NamedTuple):
    """An example of a task.

    Attributes:
        text, second: a text, or the texts of a pair; the second is "" where it is single.
        label: the name of its class, or its score.
    """

    text: str
    second: str
    label: str | float


def part_of(group: str) -> PartName:
    """The part of all examples of a group, which must not be in two: a tenth validates, a fifth tests.

    A group keeps its part when others are added, because the checksum of its name decides.
    """
    share = zlib.crc32(group.encode("utf-8", "surrogatepass")) / 2**32
    return "test" if share < TEST else "validation" if share < TEST + VALIDATION else "train"


def part_with(examples: Sequence[TextExample], classes: Sequence[str]) -> Part:
    """A part with these examples, whose labels are among the classes; scores where there are no classes."""
    numbers: dict[str | float, int] = {label: number for number, label in enumerate(classes)}
    labels = [numbers[example.label] if classes else example.label for example in examples]
    return Part(
        tuple(example.text for example in examples),
        tuple(example.second for example in examples if example.second),
        np.array(labels, np.int64 if classes else np.float64),
    )


def made(
    name: str,
    examples: Iterable[tuple[PartName, TextExample]],
    classes: Sequence[str],
    metrics: Sequence[str],
    prompts: Sequence[str] = (),
) -> TextTask:
    """Make a task of examples and their parts. Of examples with equal texts the first is kept.

    Raises:
        UserError: a part would be empty.
    """
    parts: dict[PartName, list[TextExample]] = {"train": [], "validation": [], "test": []}
    seen = set()
    for part, example in examples:
        if example[:2] not in seen:
            seen.add(example[:2])
            parts[part].append(example)
    if empty := [part for part, own in parts.items() if not own]:
        raise UserError(f"the task {name} has no example in its {empty[0]} part: are the data whole?")
    train, validation, test = (part_with(own, classes) for own in parts.values())
    return TextTask(name, train, validation, {"": test}, tuple(classes), tuple(metrics), tuple(prompts))
