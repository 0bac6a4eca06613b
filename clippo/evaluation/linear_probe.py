"""Linear probe: a logistic regression on frozen features (Radford et al., arXiv 2103.00020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from clippo.data.base import SourceConfig
from clippo.data.transform import Transform, TransformConfig
from clippo.evaluation.base import Evaluator, Metrics
from clippo.evaluation.classification import accuracies, guessing, ranks
from clippo.evaluation.labelled import Labelled, LabelledConfig, joint_fingerprint
from clippo.evaluation.probes import best_C, logistic_regression
from clippo.model import Clippo

__all__ = ["LinearProbe", "LinearProbeConfig"]


@dataclass(frozen=True, kw_only=True)
class LinearProbeConfig(LabelledConfig):
    """Accuracy of a logistic regression on the pooled features of images.

    Its C is the best on one in five of the images to fit, which are then fitted together.
    """

    name: ClassVar[str] = "linear_probe"

    def build(self, data: SourceConfig, transform: TransformConfig, image_size: int) -> LinearProbe:
        return LinearProbe(*self.parts(data, image_size), transform.build(image_size))


class LinearProbe(Evaluator):
    """Accuracy of a linear probe in percent, and the logarithm to base 10 of its C, "log10_C".

    Args:
        fit, test: examples to fit and to measure.
        num_classes: of both.
        transform: turns images into pixels.
    """

    headline: ClassVar[Mapping[str, str]] = {
        "top1": "majority/top1",
    }

    def __init__(self, fit: Labelled, test: Labelled, num_classes: int, transform: Transform) -> None:
        self.fit = fit
        self.test = test
        self.num_classes = num_classes
        self.transform = transform

    def __call__(self, model: Clippo) -> Metrics:
        (x, fitted), (x_test, measured) = (
            part.embed(model.image_features, self.transform) for part in (self.fit, self.test)
        )
        labels, test_labels = self.fit.labels[fitted, 0], self.test.labels[measured]
        C = best_C(x, labels, self.num_classes)
        predict = logistic_regression(x, labels, self.num_classes, C=C)
        found = ranks(predict(x_test), test_labels)
        metrics = accuracies(found, test_labels, self.num_classes)
        return metrics | guessing(test_labels, self.num_classes) | {"chosen/log10_C": float(np.log10(C))}

    @property
    def fingerprint(self) -> str:
        """Checksum of the examples to fit and to measure."""
        return joint_fingerprint(self.fit, self.test)
