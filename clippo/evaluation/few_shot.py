"""Few-shot classification: a ridge regression on a few images of each class, as big_vision does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from clippo.data.base import SourceConfig
from clippo.data.transform import Transform, TransformConfig
from clippo.errors import UserError
from clippo.evaluation.base import Evaluator, Metrics
from clippo.evaluation.classification import guessing, ranks
from clippo.evaluation.intervals import percent
from clippo.evaluation.labelled import Labelled, LabelledConfig, joint_fingerprint
from clippo.evaluation.probes import ridge
from clippo.model import Clippo

__all__ = ["L2", "FewShot", "FewShotConfig", "choice"]

L2 = 2.0**10
RESIZED = 256 / 224  # side of an image before its middle is cut out, in sides of the middle


@dataclass(frozen=True, kw_only=True)
class FewShotConfig(LabelledConfig):
    """Accuracy of a ridge regression on the pooled features of a few images of each class.

    Attributes:
        data, test_data: as of `LabelledConfig`.
        shots: images of each class; all where a class has fewer.
        seeds: random choices of the images, over which the accuracy is averaged.

    Raises:
        UserError: a number below 1, or none.
    """

    name: ClassVar[str] = "few_shot"
    shots: tuple[int, ...] = (1, 5, 10, 25)
    seeds: int = 3

    def __post_init__(self) -> None:
        if not self.shots or min(self.shots) < 1:
            raise UserError(f"shots must be numbers above 0, got {', '.join(map(str, self.shots)) or 'none'}")
        if self.seeds < 1:
            raise UserError(f"seeds must be at least 1, got {self.seeds}")

    def build(self, data: SourceConfig, transform: TransformConfig, image_size: int) -> FewShot:
        fit, test, num_classes = self.parts(data, image_size)
        middle = Middle(transform.build(round(RESIZED * image_size)), image_size)
        return FewShot(fit, test, num_classes, self.shots, self.seeds, middle)


class Middle(Transform):
    """The middle of what another transform gives."""

    def __init__(self, transform: Transform, image_size: int) -> None:
        self.transform = transform
        self.image_size = image_size

    def __call__(self, image: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        start = (self.transform.image_size - self.image_size) // 2
        kept = slice(start, start + self.image_size)
        return np.ascontiguousarray(self.transform(image, rng)[kept, kept])


class FewShot(Evaluator):
    """Few-shot accuracy in percent, "10_shot/top1", the mean over the seeds.

    Features are standardised over the chosen images, l2 is 2^10 and the targets are -1 and 1. The intervals
    tell how much other test images would change the accuracy; "seed_std" is the standard deviation over the
    choices of the images that are fitted.

    Args:
        fit, test: examples to fit and to measure.
        num_classes: of both.
        shots, seeds: as of `FewShotConfig`.
        transform: turns images into pixels.
    """

    headline: ClassVar[Mapping[str, str]] = {
        "1_shot/top1": "chance/top1",
        "10_shot/top1": "chance/top1",
        "25_shot/top1": "chance/top1",
    }

    def __init__(
        self,
        fit: Labelled,
        test: Labelled,
        num_classes: int,
        shots: tuple[int, ...],
        seeds: int,
        transform: Transform,
    ) -> None:
        self.test = test
        self.num_classes = num_classes
        self.transform = transform
        chosen = {
            (count, seed): choice(fit.labels[:, 0], num_classes, count, seed)
            for count in shots
            for seed in range(seeds)
        }
        used = np.unique(np.concatenate(list(chosen.values())))  # so that no other images are read
        self.fit = fit.take(used)
        self.chosen = {key: np.searchsorted(used, own) for key, own in chosen.items()}

    def __call__(self, model: Clippo) -> Metrics:
        (x, fitted), (x_test, measured) = (
            part.embed(model.image_features, self.transform) for part in (self.fit, self.test)
        )
        labels, test_labels = self.fit.labels[fitted, 0], self.test.labels[measured]
        hits: dict[int, list[np.ndarray]] = {}
        for (count, _), chosen in self.chosen.items():
            rows = np.searchsorted(fitted, chosen[np.isin(chosen, fitted)])  # of those that can be read
            predict = ridge(x[rows], labels[rows], self.num_classes, l2=L2)
            hits.setdefault(count, []).append(ranks(predict(x_test), test_labels) <= 1)
        metrics: Metrics = {}
        for count, of_seeds in hits.items():
            metrics[f"{count}_shot/top1"] = percent(np.mean(of_seeds, axis=0))
            metrics[f"{count}_shot/seed_std"] = 100 * float(np.std(np.mean(of_seeds, axis=1)))
        guesses = guessing(test_labels, self.num_classes)
        return metrics | {name: value for name, value in guesses.items() if name.endswith("/top1")}

    @property
    def fingerprint(self) -> str:
        """Checksum of both sources and of the examples that are used."""
        return joint_fingerprint(self.fit, self.test)


def choice(labels: np.ndarray, num_classes: int, count: int, seed: int) -> np.ndarray:
    """Indices of `count` examples of each class, those that the published evaluation would take."""
    rng = np.random.default_rng(seed)
    members = [rng.permutation(np.flatnonzero(labels == label)) for label in range(num_classes)]
    return np.concatenate([own[:count] for own in members])
