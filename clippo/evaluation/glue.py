"""GLUE (arXiv 1804.07461) by linear models on frozen embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from clippo.data.base import SourceConfig
from clippo.data.transform import TransformConfig
from clippo.errors import UserError
from clippo.evaluation.base import Estimate, Evaluator, EvaluatorConfig, Metrics
from clippo.evaluation.text_classification import TextClassification, TextClassificationConfig
from clippo.evaluation.text_tasks import GLUE, checksum_of
from clippo.model import Clippo

__all__ = ["GlueConfig", "average"]

METHODS = ("probe", "n-grams", "majority")


@dataclass(frozen=True, kw_only=True)
class GlueConfig(EvaluatorConfig):
    """The tasks of GLUE, and their average, by linear models on frozen embeddings.

    The paper fine-tunes the whole model; its figures are higher.

    Attributes:
        path: folder of GLUE; `clippo.evaluation.text_tasks.glue` says what is in it.
        tasks: by default all eight; the average is that of all.
        max_train, max_test: as of `TextClassificationConfig`.

    Raises:
        UserError: an unknown task.
    """

    name: ClassVar[str] = "glue"
    path: str = ""
    tasks: tuple[str, ...] = tuple(GLUE)
    max_train: int = 4000
    max_test: int = 2000

    def __post_init__(self) -> None:
        if not self.tasks or not set(self.tasks) <= set(GLUE):
            raise UserError(f"tasks must be among {', '.join(GLUE)}; got {', '.join(self.tasks)}")

    def build(self, data: SourceConfig, transform: TransformConfig, image_size: int) -> Glue:
        tasks = {}
        for name in self.tasks:
            config = TextClassificationConfig(
                task=f"glue/{name}", path=self.path, max_train=self.max_train, max_test=self.max_test
            )
            tasks[name] = config.build(data, transform, image_size)
        return Glue(tasks)


class Glue(Evaluator):
    """Metrics of the tasks, "sst2/probe/accuracy", and of all eight tasks together "probe/average".

    The average is that of nine main metrics, as the two sets of MNLI count by themselves: accuracy, F1 of QQP
    and MRPC, Matthews' correlation of CoLA, and Spearman's of STS-B.
    """

    headline: ClassVar[Mapping[str, str]] = {
        "probe/average": "majority/average",
    }

    def __init__(self, tasks: Mapping[str, TextClassification]) -> None:
        self.tasks = tasks

    @property
    def fingerprint(self) -> str:
        return checksum_of([evaluator.fingerprint for evaluator in self.tasks.values()])

    def __call__(self, model: Clippo) -> Metrics:
        found = {name: evaluator(model) for name, evaluator in self.tasks.items()}
        metrics: Metrics = {}
        if set(found) == set(GLUE):
            for method in METHODS:
                main = [
                    own.get(f"{prefix}{method}/{GLUE[name].metrics[0]}", 0.0)  # STS-B has no majority
                    for name, own in found.items()
                    for prefix in (f"{title}/" if title else "" for _, title in GLUE[name].tests)
                ]
                metrics[f"{method}/average"] = average(main)
        for name, own in found.items():
            metrics |= {f"{name}/{metric}": value for metric, value in own.items()}
        return metrics


def average(values: Sequence[float]) -> Estimate:
    """The mean of metrics that were measured on different examples, so that their errors are independent."""
    half = [(v - v.low, v.high - v) if isinstance(v, Estimate) else (0.0, 0.0) for v in values]
    mean, (below, above) = float(np.mean(values)), np.linalg.norm(half, axis=0) / len(values)
    return Estimate(mean, mean - float(below), mean + float(above))
