"""Examples with labels: which classes there are, what they are called, and embeddings of their images."""

from __future__ import annotations

import hashlib
import os
import warnings
from abc import ABC
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from clippo.data.base import BrokenExampleError, Example, Source, SourceConfig
from clippo.data.captions import of_name
from clippo.data.decode import pixels_of
from clippo.data.transform import Transform
from clippo.errors import UserError
from clippo.evaluation.base import EvaluatorConfig
from clippo.evaluation.classification import padded
from clippo.files import read_lines

__all__ = ["Labelled", "LabelledConfig", "classes_of", "joint_fingerprint", "labelled", "names_by_language"]

BATCH_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class LabelledConfig(EvaluatorConfig, ABC):
    """Configuration of a classifier that is fitted on labelled examples.

    Attributes:
        data: labelled examples; those of the run by default. Those to train on are fitted, and those that are
            held out are measured.
        test_data: measure all examples of this source, and fit all of `data`.
    """

    data: SourceConfig | None = None
    test_data: SourceConfig | None = None

    def parts(self, data: SourceConfig, image_size: int) -> tuple[Labelled, Labelled, int]:
        """The examples to fit, the examples to measure, and the number of classes of both.

        Raises:
            UserError: there are no labels, or none in one part.
        """
        data = self.data or data
        if self.test_data is None:
            fit, test = (data.build(split, image_size=image_size) for split in ("train", "held_out"))
        else:
            fit, test = (one.build("all", image_size=image_size) for one in (data, self.test_data))
        classes = classes_of(source.described(i) for source in (fit, test) for i in range(len(source)))
        return labelled(fit, classes), labelled(test, classes), len(classes)


@dataclass(frozen=True)
class Labelled:
    """Examples of a source that have labels.

    Attributes:
        source: where they are.
        rows: (N,) their indices in it.
        labels: (N, L) numbers of their classes, filled up with -1.
    """

    source: Source
    rows: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """Checksum of the source and of the labels."""
        own = repr((self.rows.tolist(), self.labels.tolist()))
        return hashlib.sha256((self.source.fingerprint + own).encode()).hexdigest()

    def take(self, which: np.ndarray) -> Labelled:
        """Some of the examples, by their numbers among the N."""
        return Labelled(self.source, self.rows[which], self.labels[which])

    def embed(self, embed: Callable[[Tensor], Tensor], transform: Transform) -> tuple[Tensor, np.ndarray]:
        """Embed the images of the examples, without random changes.

        Examples that cannot be read are left out, with one warning.

        Args:
            embed: takes (B, S, S, 3) uint8 pixels and gives (B, D), such as `model.encode_image`.
            transform: makes the pixels.

        Returns:
            (M, D) float64 on the CPU, and the numbers among the N of the M examples that can be read.
        """
        parts, kept = [], []
        broken: list[BrokenExampleError] = []
        for start in tqdm(range(0, len(self), BATCH_SIZE), desc="embed", unit="batch", leave=False):
            pixels = []
            for number in range(start, min(start + BATCH_SIZE, len(self))):
                try:
                    pixels.append(transform(pixels_of(self.source[int(self.rows[number])])))
                    kept.append(number)
                except BrokenExampleError as error:
                    broken.append(error)
            if pixels:
                parts.append(embed(torch.from_numpy(np.stack(pixels))).cpu().double())
        if broken:
            warnings.warn(
                f"{len(broken)} of {len(self):,} examples cannot be read and are left out: {broken[0]}",
                stacklevel=2,
            )
        if not parts:
            raise UserError(f"none of {len(self):,} examples can be read" + f": {broken[0]}" * bool(broken))
        return torch.cat(parts), np.array(kept)


def joint_fingerprint(fit: Labelled, test: Labelled) -> str:
    return hashlib.sha256((fit.fingerprint + test.fingerprint).encode()).hexdigest()


def classes_of(examples: Iterable[Example]) -> list[str]:
    """The labels of examples in order: by their values if all are numbers.

    Raises:
        UserError: there are fewer than two.
    """
    found = {label for example in examples for label in example.labels}
    if len(found) < 2:
        raise UserError(
            "examples must have labels of at least two classes, as in a folder of folders or a table with a"
            f" column `label`; got {', '.join(found) or 'none'}"
        )
    return sorted(found, key=int if all(label.isdecimal() for label in found) else str)


def labelled(source: Source, classes: Sequence[str]) -> Labelled:
    """The examples of a source that have some of these classes.

    Raises:
        UserError: there are none.
    """
    numbers = {label: number for number, label in enumerate(classes)}
    own = {
        row: found
        for row in range(len(source))
        if (found := [numbers[label] for label in source.described(row).labels if label in numbers])
    }
    if not own:
        raise UserError(f"none of {len(source):,} examples has a label that is measured")
    return Labelled(source, np.fromiter(own, np.int64), padded(list(own.values())))


def names_by_language(
    examples: Iterable[Example], classes: Sequence[str], names: str
) -> dict[str, dict[int, str]]:
    """The names of classes, by language ("" where it is not known) and by the number of the class.

    Args:
        examples: of all classes.
        classes: their labels, in order.
        names: "text", the first text in each language of the examples of a class; "label", the words of the
            labels; or a file of names, one a line, in the order of the classes, or at their numbers.

    Raises:
        UserError: there is no such file, or it has too few lines; the examples of a class have different
            texts, or none.
    """
    if names == "label":
        return {"": {number: of_name(os.path.basename(label)) for number, label in enumerate(classes)}}
    if names != "text":
        return {"": dict(enumerate(names_in(names, classes)))}
    numbers = {label: number for number, label in enumerate(classes)}
    found: dict[str, dict[int, str]] = {}
    for example in examples:
        texts = {text.language or "": text.text for text in reversed(example.texts)}
        own: Iterable[tuple[str, str, str]] = ()
        if len(example.labels) == 1:
            own = [(language, example.labels[0], text) for language, text in texts.items()]
        elif len(example.labels) == len(example.texts):
            own = [(t.language or "", label, t.text) for label, t in zip(example.labels, example.texts)]  # noqa: B905
        for language, label, text in own:
            if label in numbers and text != found.setdefault(language, {}).setdefault(numbers[label], text):
                raise UserError(
                    f"examples of the class {label} have different texts, {text!r} and"
                    f" {found[language][numbers[label]]!r}: take names=label, or a file of names"
                )
    return found


def names_in(file: str, classes: Sequence[str]) -> list[str]:
    """The names of classes in a file: line i of the class "i", or as many lines as there are classes."""
    try:
        lines = [line.strip() for line in read_lines(file)]
    except OSError as error:
        raise UserError(
            f"names must be text, label or a file of names; got {file!r}: {error.strerror}"
        ) from error
    if all(label.isdecimal() for label in classes) and int(classes[-1]) < len(lines):
        return [lines[int(label)] for label in classes]
    if len(lines) != len(classes):
        raise UserError(f"{file} must have {len(classes):,} lines, a name for each class; got {len(lines):,}")
    return lines
