"""Classification by the nearest neighbours, as DINO does it (Caron et al., arXiv 2104.14294)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from clippo.data.base import SourceConfig
from clippo.data.transform import Transform, TransformConfig
from clippo.errors import UserError
from clippo.evaluation.base import Evaluator, Metrics
from clippo.evaluation.classification import accuracies, guessing, ranks
from clippo.evaluation.labelled import Labelled, LabelledConfig, joint_fingerprint
from clippo.evaluation.probes import nearest_neighbours
from clippo.model import Clippo

__all__ = ["NearestNeighbours", "NearestNeighboursConfig"]


@dataclass(frozen=True, kw_only=True)
class NearestNeighboursConfig(LabelledConfig):
    """Accuracy of the classes of the images whose embeddings are the most similar.

    Attributes:
        data, test_data: as of `LabelledConfig`.
        ks: numbers of neighbours, each of which is measured; see `probes.nearest_neighbours`.

    Raises:
        UserError: a number below 1, or none.
    """

    name: ClassVar[str] = "nearest_neighbours"
    ks: tuple[int, ...] = (1, 5, 20)

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1:
            raise UserError(f"ks must be numbers above 0, got {', '.join(map(str, self.ks)) or 'none'}")

    def build(self, data: SourceConfig, transform: TransformConfig, image_size: int) -> NearestNeighbours:
        return NearestNeighbours(*self.parts(data, image_size), self.ks, transform.build(image_size))


class NearestNeighbours(Evaluator):
    """Accuracy of the neighbours in percent, by their number: "20_neighbours/top1".

    Args:
        fit, test: examples with known classes, and those to measure.
        num_classes: of both.
        ks: as of `NearestNeighboursConfig`.
        transform: turns images into pixels.
    """

    headline: ClassVar[Mapping[str, str]] = {
        "20_neighbours/top1": "majority/top1",
    }

    def __init__(
        self, fit: Labelled, test: Labelled, num_classes: int, ks: tuple[int, ...], transform: Transform
    ) -> None:
        self.fit = fit
        self.test = test
        self.num_classes = num_classes
        self.ks = ks
        self.transform = transform

    def __call__(self, model: Clippo) -> Metrics:
        (x, fitted), (x_test, measured) = (
            part.embed(model.encode_image, self.transform) for part in (self.fit, self.test)
        )
        labels, test_labels = self.fit.labels[fitted, 0], self.test.labels[measured]
        metrics: Metrics = {}
        for k in self.ks:
            scores = nearest_neighbours(x, labels, self.num_classes, k=k)(x_test)
            found = accuracies(ranks(scores, test_labels), test_labels, self.num_classes)
            metrics |= {f"{k}_neighbours/{name}": value for name, value in found.items()}
        metrics |= guessing(test_labels, self.num_classes)
        # Few neighbours name few classes, and all others tie.
        return {name: value for name, value in metrics.items() if not name.endswith("/top5")}

    @property
    def fingerprint(self) -> str:
        """Checksum of the examples to fit and to measure."""
        return joint_fingerprint(self.fit, self.test)
