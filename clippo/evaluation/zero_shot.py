"""Zero-shot classification of images by the names of classes (Radford et al., arXiv 2103.00020)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clippo.data.base import SourceConfig, Split
from clippo.data.transform import Transform, TransformConfig
from clippo.errors import UserError
from clippo.evaluation.base import Estimate, Evaluator, EvaluatorConfig, Metrics
from clippo.evaluation.classification import accuracies, guessing, ranks
from clippo.evaluation.classification_pictures import draw_accuracies, draw_confusion
from clippo.evaluation.intervals import percent
from clippo.evaluation.labelled import Labelled, classes_of, labelled, names_by_language
from clippo.evaluation.prompts import canonical, class_embeddings, read_prompts
from clippo.model import Clippo

__all__ = ["ZeroShot", "ZeroShotConfig"]

MIN_CLASSES = 20  # in one of several languages; the accuracy among fewer says little
BLOCK = 4096  # images that are compared with all classes at a time
ENGLISH = ("en", "")  # languages of the prompts; "" is not known


@dataclass(frozen=True, kw_only=True)
class ZeroShotConfig(EvaluatorConfig):
    """Accuracy of naming the class of an image, by sets of prompts.

    Attributes:
        data: labelled examples; those of the run by default.
        split: the examples that are measured. The classes are those of all examples.
        names: what the classes are called: "text", as the texts of the examples say; "label", the words of
            the labels; or a file of names, one a line, in the order of the sorted labels.
        prompts: sets of prompts, each as of `read_prompts`.
        canonicalize: names and prompts in lower case without punctuation, and of a name only what stands
            before the first comma, as for the published figures; see `canonical`.
        by_language: measure the names in each language, and not the first text alone. Prompts are English, so
            that names in other languages stand alone.

    Raises:
        UserError: no prompts.
    """

    name: ClassVar[str] = "zero_shot"
    data: SourceConfig | None = None
    split: Split = "held_out"
    names: str = "text"
    prompts: tuple[str, ...] = ("class_name_only", "short", "long")
    canonicalize: bool = True
    by_language: bool = False

    def __post_init__(self) -> None:
        if not self.prompts:
            raise UserError("prompts must be one set of prompts at least, got none")

    def build(self, data: SourceConfig, transform: TransformConfig, image_size: int) -> ZeroShot:
        data = self.data or data
        every = data.build("all", image_size=image_size)
        prompts = {set_name(which): read_prompts(which) for which in self.prompts}
        described = [every.described(index) for index in range(len(every))]
        classes = classes_of(described)
        names = names_by_language(described, classes, self.names)
        if not self.by_language:
            names = {"": only(names, classes)}
        if self.canonicalize:
            prompts = {which: [canonical(one, keep="{}") for one in own] for which, own in prompts.items()}
            names = {
                language: {number: first_alias(canonical(name, keep=",")) for number, name in own.items()}
                for language, own in names.items()
            }
        source = every if self.split == "all" else data.build(self.split, image_size=image_size)
        return ZeroShot(labelled(source, classes), names, prompts, transform.build(image_size))


def only(names: dict[str, dict[int, str]], classes: Sequence[str]) -> dict[int, str]:
    """A name for each class, the English one where there are several languages.

    Raises:
        UserError: a class has none.
    """
    merged: dict[int, str] = {}
    for language in sorted(names, key=lambda language: (language not in ENGLISH, language)):
        merged = {**names[language], **merged}
    for number, label in enumerate(classes):
        if number not in merged:
            raise UserError(f"the class {label} has no name: take names=label, or a file of names")
    return dict(sorted(merged.items()))


def set_name(which: str) -> str:
    """The name of a set of prompts in metrics: of a file, the data set in it or else its stem."""
    file, _, data_set = which.partition("#")
    return data_set or Path(file).stem


def first_alias(name: str) -> str:
    return name.partition(",")[0].strip()


class ZeroShot(Evaluator):
    """Zero-shot accuracy in percent, by set of prompts: "short/top1".

    A class is embedded as the mean of the embeddings of its prompts, all of unit length, and an image belongs
    to the class of the highest cosine similarity. An example with several labels is right if its class is one
    of them; a class that ties with the right one comes before it. "per_class" is the mean of the accuracies
    of the classes, "majority" is naming the most frequent class.

    With several languages the names begin with them, "de/class_name_only/top1"; each is measured among the
    classes that have a name in it, and left out where these are fewer than 20. "mean" is their mean, and its
    interval tells how much other languages would change it.

    Args:
        examples: what is measured.
        names: of the classes by language, by number of the class.
        prompts: by the name of their set.
        transform: turns images into pixels.
    """

    headline: ClassVar[Mapping[str, str]] = {
        "mean/class_name_only/top1": "majority/top1",
        "class_name_only/top1": "majority/top1",
        "long/top1": "majority/top1",
    }

    def __init__(
        self,
        examples: Labelled,
        names: dict[str, dict[int, str]],
        prompts: dict[str, list[str]],
        transform: Transform,
    ) -> None:
        self.examples = examples
        is_one = len(names) == 1
        self.names = {language: own for language, own in names.items() if is_one or len(own) >= MIN_CLASSES}
        if not self.names:
            raise UserError(f"no language has names of {MIN_CLASSES} classes or more")
        self.prompts = prompts
        self.transform = transform

    def __call__(self, model: Clippo) -> Metrics:
        images, kept = self.examples.embed(model.encode_image, self.transform)
        labels = self.examples.labels[kept]
        if self.names.keys() == {""}:
            return self.measured(model, images, labels, "")
        metrics: Metrics = {}
        for language in self.names:
            own = self.measured(model, images, labels, language)
            metrics |= {f"{language or 'unknown'}/{name}": value for name, value in own.items()}
        by_name: dict[str, list[float]] = {}
        for name, value in metrics.items():
            by_name.setdefault(name.partition("/")[2], []).append(value)
        means: Metrics = {}
        for name, values in by_name.items():
            if name.startswith(("chance/", "majority/")):
                means[name] = float(np.mean(values))
            else:
                means[f"mean/{name}"] = percent(np.array(values) / 100)
        return means | metrics

    def measured(self, model: Clippo, images: Tensor, labels: np.ndarray, language: str) -> Metrics:
        """The metrics of one language."""
        names = self.names[language]
        numbers = np.full(2 + max(*names, int(labels.max())), -1)  # among the classes of the language
        numbers[list(names)] = range(len(names))
        own = numbers[labels]  # -1 stays, because the last number is -1 as well
        is_named = (own >= 0).any(1)
        images, own = images[torch.from_numpy(is_named)], own[is_named]
        if not len(own):
            return {}
        metrics: Metrics = {}
        for which, prompts in self.prompts.items():
            if prompts == ["{}"] or language in ENGLISH:
                rank = ranks_of(images, class_embeddings(model, list(names.values()), prompts), own)
                found_by_set = accuracies(rank, own, len(names))
                metrics |= {f"{which}/{name}": value for name, value in found_by_set.items()}
        return metrics | guessing(own, len(names))

    def picture(self, model: Clippo) -> Image.Image:
        """The confusions of the classes, or the accuracy in each language, with the first set of prompts."""
        if len(self.names) > 1:
            metrics, which = self(model), next(iter(self.prompts))
            found = {
                language: value
                for language in self.names
                if isinstance(value := metrics.get(f"{language or 'unknown'}/{which}/top1"), Estimate)
            }
            chance = {language: metrics[f"{language or 'unknown'}/chance/top1"] for language in found}
            return draw_accuracies(found, chance)
        names = next(iter(self.names.values()))
        images, read = self.examples.embed(model.encode_image, self.transform)
        labels = self.examples.labels[read]
        vectors = class_embeddings(model, list(names.values()), next(iter(self.prompts.values())))
        predicted = np.array(list(names))[(images @ vectors.T).argmax(1).numpy()]
        is_right = (labels == predicted[:, None]).any(1)
        true = np.where(is_right, predicted, labels[:, 0])
        kept = np.isin(true, list(names))
        return draw_confusion(true[kept], predicted[kept], names)

    @property
    def fingerprint(self) -> str:
        """Checksum of the examples, of the names of the classes, and of the prompts."""
        own = repr((self.names, self.prompts))
        return hashlib.sha256((self.examples.fingerprint + own).encode()).hexdigest()


def ranks_of(images: Tensor, vectors: Tensor, labels: np.ndarray) -> np.ndarray:
    """As of `ranks`, of the cosine similarities of images (N, E) and classes (C, E), in blocks of images."""
    blocks = range(0, len(images), BLOCK)
    return np.concatenate([ranks(images[i : i + BLOCK] @ vectors.T, labels[i : i + BLOCK]) for i in blocks])
