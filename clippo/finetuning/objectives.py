"""Objectives of a head: classes, scores or answers, each with its loss, its metrics and those of guessing.

A new one is a class in this file. Shapes: B or N examples, O outputs of the head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clippo.data.questions import Question
from clippo.errors import UserError
from clippo.evaluation.base import Metrics
from clippo.evaluation.intervals import percent
from clippo.evaluation.metrics import METRICS, measured
from clippo.evaluation.vqa_accuracy import SoftTargets, vqa_accuracy

__all__ = ["Answers", "Asked", "Classification", "Objective", "Regression", "most_frequent_by_kind"]


class Asked(NamedTuple):
    """The targets of questions.

    Attributes:
        questions: with the answers of people.
        soft: the accuracy of each answer of the vocabulary.
    """

    questions: Sequence[Question]
    soft: SoftTargets


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """Kind of prediction of a head. The subclasses are the choices; their fields are saved with the model.

    Targets are of all examples of a part; `rows` says which are meant.
    """

    name: ClassVar[str]
    guesses: ClassVar[str]  # what is compared with, in words

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """O."""

    @property
    @abstractmethod
    def main(self) -> str:
        """The metric by which is chosen; the higher, the better."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Any, rows: np.ndarray) -> Tensor:
        """The mean loss of outputs (B, O) float32: a scalar with a graph."""

    @abstractmethod
    def metrics(self, outputs: Tensor, targets: Any, rows: np.ndarray, *, main_only: bool = False) -> Metrics:
        """Measure outputs (N, O), each metric with its interval; the main one comes first.

        The main one alone spares what the intervals of the others take.
        """

    @abstractmethod
    def guessing(self, targets: Any, rows: np.ndarray) -> dict[str, float]:
        """The same metrics of always giving one and the same prediction, such as the most frequent class."""

    @abstractmethod
    def decided(self, outputs: Tensor) -> list[Any]:
        """The predictions of outputs (N, O): a name of a class, a score or an answer each."""


@dataclass(frozen=True, kw_only=True)
class Classification(Objective):
    """One of several classes, by cross-entropy. Targets are (N,) int64 numbers of classes.

    Attributes:
        classes: their names by number, two at least.
        measures: names in `clippo.evaluation.metrics.METRICS`, the main one first.

    Raises:
        UserError: fewer than two classes, or an unknown metric.
    """

    name: ClassVar[str] = "classification"
    guesses: ClassVar[str] = "the most frequent class"
    classes: tuple[str, ...]
    measures: tuple[str, ...] = ("accuracy",)

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise UserError(f"classes must be two or more, got {', '.join(self.classes) or 'none'}")
        check_measures(self.measures)

    @property
    def num_outputs(self) -> int:
        return len(self.classes)

    @property
    def main(self) -> str:
        return self.measures[0]

    def loss(self, outputs: Tensor, targets: Any, rows: np.ndarray) -> Tensor:
        return F.cross_entropy(outputs, torch.from_numpy(targets[rows]).to(outputs.device))

    def metrics(self, outputs: Tensor, targets: Any, rows: np.ndarray, *, main_only: bool = False) -> Metrics:
        predicted = outputs.argmax(1).numpy()
        names = self.measures[:1] if main_only else self.measures
        return {name: measured(name, predicted, targets[rows]) for name in names}

    def guessing(self, targets: Any, rows: np.ndarray) -> dict[str, float]:
        constants = [np.full(len(rows), number) for number in np.unique(targets[rows])]
        return {
            name: max(METRICS[name](constant, targets[rows]) for constant in constants)
            for name in self.measures
        }

    def decided(self, outputs: Tensor) -> list[Any]:
        return [self.classes[number] for number in outputs.argmax(1).tolist()]


@dataclass(frozen=True, kw_only=True)
class Regression(Objective):
    """A score, by the squared error. Targets are (N,) float64.

    Attributes:
        mean, std: of the scores in training; the output of the head is the score in units of `std` from
            `mean`.
        measures: names in `clippo.evaluation.metrics.METRICS`, the main one first.

    Raises:
        UserError: a standard deviation that is not above 0, or an unknown metric.
    """

    name: ClassVar[str] = "regression"
    guesses: ClassVar[str] = "the mean"
    mean: float
    std: float
    measures: tuple[str, ...] = ("spearman", "pearson")

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise UserError(f"the scores to train on must not all be equal, got a deviation of {self.std}")
        check_measures(self.measures)

    @property
    def num_outputs(self) -> int:
        return 1

    @property
    def main(self) -> str:
        return self.measures[0]

    def loss(self, outputs: Tensor, targets: Any, rows: np.ndarray) -> Tensor:
        wanted = torch.from_numpy((targets[rows] - self.mean) / self.std).to(outputs)
        return F.mse_loss(outputs[:, 0], wanted)

    def metrics(self, outputs: Tensor, targets: Any, rows: np.ndarray, *, main_only: bool = False) -> Metrics:
        predicted = np.array(self.decided(outputs))
        names = self.measures[:1] if main_only else self.measures
        return {name: measured(name, predicted, targets[rows]) for name in names}

    def guessing(self, targets: Any, rows: np.ndarray) -> dict[str, float]:
        constant = np.full(len(rows), self.mean)
        return {name: METRICS[name](constant, targets[rows]) for name in self.measures}

    def decided(self, outputs: Tensor) -> list[Any]:
        scores: list[Any] = (self.mean + self.std * outputs[:, 0].double()).tolist()
        return scores


@dataclass(frozen=True, kw_only=True)
class Answers(Objective):
    """An answer of a vocabulary, by binary cross-entropy with the accuracy that each answer would have.

    These are the soft targets of Teney et al. (arXiv 1708.02711). Targets are `Asked`.

    Attributes:
        vocabulary: the answers, two at least.
        majority: the most frequent one in training, by the kind of question.

    Raises:
        UserError: fewer than two answers.
    """

    name: ClassVar[str] = "answers"
    guesses: ClassVar[str] = "the most frequent answers"
    vocabulary: tuple[str, ...]
    majority: Mapping[str, str]

    def __post_init__(self) -> None:
        if len(self.vocabulary) < 2:
            raise UserError(f"vocabulary must have two answers or more, got {len(self.vocabulary)}")

    @property
    def num_outputs(self) -> int:
        return len(self.vocabulary)

    @property
    def main(self) -> str:
        return "accuracy"

    def loss(self, outputs: Tensor, targets: Any, rows: np.ndarray) -> Tensor:
        wanted = torch.from_numpy(targets.soft.rows(rows)).to(outputs.device)
        return F.binary_cross_entropy_with_logits(outputs, wanted, reduction="sum") / len(rows)

    def metrics(self, outputs: Tensor, targets: Any, rows: np.ndarray, *, main_only: bool = False) -> Metrics:
        return self.scored(self.decided(outputs), targets, rows, percent, main_only=main_only)

    def guessing(self, targets: Any, rows: np.ndarray) -> dict[str, float]:
        asked = [targets.questions[row] for row in rows.tolist()]
        given = [self.majority.get(question.kind, self.vocabulary[0]) for question in asked]
        return self.scored(given, targets, rows, lambda scores, _: 100 * float(np.mean(scores)))

    def scored(
        self,
        given: Sequence[str],
        targets: Any,
        rows: np.ndarray,
        percent_of: Callable[[np.ndarray, np.ndarray], float],
        *,
        main_only: bool = False,
    ) -> Metrics:
        """The official accuracy of answers, of all questions and by kind; those of a picture go together."""
        asked = [targets.questions[row] for row in rows.tolist()]
        scores = np.array([vqa_accuracy(a, q.answers) for a, q in zip(given, asked, strict=True)])
        pictures = np.array([question.picture for question in asked])
        kinds = np.array([question.kind for question in asked])
        found: Metrics = {"accuracy": percent_of(scores, pictures)}
        for kind in () if main_only else sorted(set(kinds.tolist())):
            own = kinds == kind
            found[f"{kind}/accuracy"] = percent_of(scores[own], pictures[own])
        return found

    def decided(self, outputs: Tensor) -> list[Any]:
        return [self.vocabulary[number] for number in outputs.argmax(1).tolist()]


def most_frequent_by_kind(asked: Sequence[Question]) -> dict[str, str]:
    """The answer that is right of most questions of each kind."""
    counts: dict[str, Counter[str]] = {}
    for question in asked:
        counts.setdefault(question.kind, Counter())[question.answer] += 1
    return {kind: own.most_common(1)[0][0] for kind, own in counts.items()}


def check_measures(measures: Sequence[str]) -> None:
    if not measures or not set(measures) <= set(METRICS):
        raise UserError(f"measures must be among {', '.join(METRICS)}; got {', '.join(measures) or 'none'}")
