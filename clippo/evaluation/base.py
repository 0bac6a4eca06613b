"""Evaluators: measures of a model. A new one is one file in this package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from PIL import Image

from clippo.data.base import SourceConfig
from clippo.data.transform import TransformConfig
from clippo.model import Clippo

__all__ = ["Estimate", "Evaluator", "EvaluatorConfig", "Metrics"]


class Estimate(float):
    """A measured value that knows how sure it is. `clippo.evaluation.intervals` makes them.

    Attributes:
        low, high: bounds of the 95 % confidence interval.
    """

    __slots__ = ("high", "low")
    low: float
    high: float

    def __new__(cls, value: float, low: float, high: float) -> Estimate:
        made = super().__new__(cls, value)
        made.low, made.high = low, high
        return made

    def __repr__(self) -> str:
        return f"{float(self)} [{self.low}, {self.high}]"

    def __reduce__(self) -> tuple[type[Estimate], tuple[float, float, float]]:
        return Estimate, (float(self), self.low, self.high)


# By name. The parts of a name are separated by "/", and the last says what is measured. What is a mean or
# another statistic of a sample is an `Estimate`.
Metrics = dict[str, float]


class Evaluator(ABC):
    """A measure of a model.

    Attributes:
        headline: the metrics that say most, each with the metric of what guessing reaches, or "". A summary
            of many evaluators shows those that are there.
    """

    headline: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def __call__(self, model: Clippo) -> Metrics:
        """Measure a model that is in evaluation mode. What guessing would reach is named "chance/...".

        The same model gives the same metrics, whatever the state of random number generators.
        """

    @property
    def fingerprint(self) -> str:
        """Checksum of the data that is measured on, such as that of a `Source`; "" if there is none."""
        return ""

    def picture(self, model: Clippo) -> Image.Image | None:
        """Draw something for people to look at, if there is anything to see."""
        return None


@dataclass(frozen=True, kw_only=True)
class EvaluatorConfig(ABC):
    """Configuration of an evaluator. The subclasses are the choices, each in the file of its evaluator."""

    name: ClassVar[str]

    @abstractmethod
    def build(self, data: SourceConfig, transform: TransformConfig, image_size: int) -> Evaluator:
        """Make the evaluator.

        Args:
            data, transform: what a run trains on, for evaluators that take parts of the same data.
            image_size: side in px of the images that the model takes.

        Raises:
            UserError: the data are not there, or cannot be measured on.
        """
