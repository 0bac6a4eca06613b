"""Classification and regression of texts and of pairs of texts by frozen embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from clippo.data.base import SourceConfig
from clippo.data.perturbations import Perturbation
from clippo.data.transform import TransformConfig
from clippo.errors import UserError
from clippo.evaluation.base import Estimate, Evaluator, EvaluatorConfig, Metrics
from clippo.evaluation.embedding import embed_texts
from clippo.evaluation.few_shot import L2, choice
from clippo.evaluation.intervals import percent
from clippo.evaluation.metrics import METRICS, measured
from clippo.evaluation.ngrams import TfIdf, bags_of, cosines, kernel_ridge
from clippo.evaluation.probes import Predictor, linear_regression, ridge, swept_logistic_regression
from clippo.evaluation.text_tasks import Part, TextTask, load_task
from clippo.model import Clippo
from clippo.seeds import generators

__all__ = ["TextClassification", "TextClassificationConfig", "class_vectors"]

# Candidates of the sweep: features of the probe have standard deviation 1, vectors of n-grams length 1.
PROBE_L2S = (1.0, 1e1, 1e2, 1e3, 1e4)
NGRAM_L2S = (0.1, 0.3, 1.0, 3.0)
SHOTS, CHOICES = 10, 3  # examples of a class in the few-shot accuracy, and random choices of them
FEW_SHOT = f"{SHOTS}_shot/accuracy"


@dataclass(frozen=True, kw_only=True)
class TextClassificationConfig(EvaluatorConfig):
    """A task on texts, by a linear model on frozen embeddings and, where classes have names, zero-shot.

    Attributes:
        task: its name: "sentiment", "rating", "domain", "language", "section", "noun_class", "is_a",
            "words_in_context" or "relatedness" on the texts that `clippo data fetch texts` brings, or
            "glue/cola" and others of GLUE.
        path: folder of the texts, by default the one in the user's cache, or of GLUE.
        prompts: texts with {} for the name of a class, in place of the task's own.
        perturbations: "NAME=RATE", such as "typos=0.1": the texts to test on are measured as they are, and
            once more after each of these, see `Perturbation`; the texts to train on stay as they are.
        max_train, max_test: number of examples at most; more are drawn from, always the same ones.

    Raises:
        UserError: a number below 1, a prompt without {}, or a perturbation that there is not.
    """

    name: ClassVar[str] = "text_classification"
    task: str = "sentiment"
    path: str = ""
    prompts: tuple[str, ...] = ()
    perturbations: tuple[str, ...] = ()
    max_train: int = 4000
    max_test: int = 2000

    def __post_init__(self) -> None:
        if self.max_train < 8 or self.max_test < 1:
            given = f"got {self.max_train} and {self.max_test}"
            raise UserError(f"max_train must be at least 8 and max_test at least 1, {given}")
        if without := [prompt for prompt in self.prompts if "{}" not in prompt]:
            raise UserError(f"prompts must have {{}} for the name of a class, got {without[0]!r}")

        for specification in self.perturbations:
            Perturbation.of(specification)

    def build(self, data: SourceConfig, transform: TransformConfig, image_size: int) -> TextClassification:
        task = load_task(self.task, self.path)
        if self.prompts and not task.classes:
            raise UserError(f"prompts name classes, and the task {self.task} has none")
        task = replace(task, prompts=self.prompts or task.prompts)
        task = task.capped(self.max_train, self.max_test)
        tests = {
            "/".join(filter(None, (name, specification))): perturbed(part, specification)
            for specification in ("", *self.perturbations)
            for name, part in task.tests.items()
        }
        return TextClassification(replace(task, tests=tests))


class TextClassification(Evaluator):
    """Metrics of a task: "probe/accuracy" and, as of other tasks, "zero_shot/accuracy" or "probe/spearman".

    "probe" is a logistic regression on the embeddings, whose C is the best on a fifth of the examples to
    train on; of scores, a ridge regression whose l2 is the best on the part for validation. Both texts of a
    pair are drawn into one image, with the letters [SEP] between them. "zero_shot" takes the class whose
    vector is nearest, see `class_vectors`. "10_shot" is a ridge regression on ten examples of each class,
    with the settings of `FewShot`, and the mean over three choices of them. "n-grams" is a baseline without a
    model, a ridge regression on TF-IDF of the character n-grams of the whole texts, and "n-grams_10_shot" the
    same on the ten examples. "majority" says the class that is the most frequent in training. Where a task
    has several sets to test on, their names come first: "matched/probe/accuracy"; and so does a perturbation
    of the texts: "typos=0.1/probe/accuracy".

    Args:
        task: with as many examples as are to be used.
    """

    headline: ClassVar[Mapping[str, str]] = {
        "probe/accuracy": "majority/accuracy",
        "zero_shot/accuracy": "majority/accuracy",
        FEW_SHOT: "majority/accuracy",
        f"n-grams_{FEW_SHOT}": "majority/accuracy",
        "n-grams/accuracy": "majority/accuracy",
        "probe/spearman": "chance/spearman",
        "n-grams/spearman": "chance/spearman",
        "probe/f1": "majority/f1",
        "probe/matthews": "majority/matthews",
    }

    def __init__(self, task: TextTask) -> None:
        self.task = task

    @property
    def fingerprint(self) -> str:
        return self.task.fingerprint

    def __call__(self, model: Clippo) -> Metrics:
        train = embed_texts(model, self.task.train.inputs)
        tests = {name: embed_texts(model, part.inputs) for name, part in self.task.tests.items()}
        found = {name: {"probe": predicted} for name, predicted in self.probed(model, train, tests).items()}
        if self.task.prompts:
            classes = class_vectors(model, self.task.classes, self.task.prompts)
            for name, z in tests.items():
                found[name]["zero_shot"] = (z @ classes.T).argmax(1)
        metrics: Metrics = {}
        for name, part in self.task.tests.items():
            prefix = f"{name}/" if name else ""
            for method, predicted in (found[name] | self.baselines[name]).items():
                for metric in self.task.metrics:
                    metrics[f"{prefix}{method}/{metric}"] = measured(metric, predicted, part.labels)
            metrics |= {f"{prefix}chance/{metric}": chance for metric, chance in self.chances.items()}
            if self.task.classes and "accuracy" in self.task.metrics:
                metrics[prefix + FEW_SHOT] = self.few_shot(train, tests[name], part.labels)
                metrics[f"{prefix}n-grams_{FEW_SHOT}"] = self.few_shot_of_ngrams[name]
        return metrics

    @cached_property
    def choices(self) -> list[np.ndarray]:
        """Examples to train on that the few-shot classifiers are fitted on."""
        labels = self.task.train.labels
        return [choice(labels, len(self.task.classes), SHOTS, seed) for seed in range(CHOICES)]

    def few_shot(self, train: np.ndarray, test: np.ndarray, labels: np.ndarray) -> Estimate:
        """Accuracy in percent, by the embeddings of the examples to train and to test on."""
        fitted, classes = self.task.train.labels, len(self.task.classes)
        predictors = [ridge(train[own], fitted[own], classes, l2=L2) for own in self.choices]
        return percent(np.mean([predict(test).argmax(1) == labels for predict in predictors], axis=0))

    @cached_property
    def few_shot_of_ngrams(self) -> dict[str, Estimate]:
        """Accuracy in percent by test, of n-grams and the examples of `few_shot`."""
        known, _, tests = self.ngram_cosines
        found = {}
        for name, part in self.task.tests.items():
            predictors = [
                kernel_ridge(known[np.ix_(own, own)], self.targets[own], l2=1.0) for own in self.choices
            ]
            scores = [
                predict(tests[name][:, own]) for own, predict in zip(self.choices, predictors, strict=True)
            ]
            found[name] = percent(np.mean([own.argmax(1) == part.labels for own in scores], axis=0))
        return found

    @property
    def chances(self) -> Metrics:
        """What guessing reaches, whatever the labels: of correlations 0, of accuracy 1 / classes."""
        if self.task.classes:
            return {"accuracy": 100 / len(self.task.classes)} if "accuracy" in self.task.metrics else {}
        return dict.fromkeys(self.task.metrics, 0.0)

    @cached_property
    def baselines(self) -> dict[str, dict[str, np.ndarray]]:
        """Predictions of the methods that need no model, by test and method."""
        task = self.task
        known, validation, tests = self.ngram_cosines
        predictors = (kernel_ridge(known, self.targets, l2=l2) for l2 in NGRAM_L2S)
        by_ngrams = self.chosen(predictors, validation, tests)
        found = {name: {"n-grams": predicted} for name, predicted in by_ngrams.items()}
        if task.classes:
            majority = np.bincount(task.train.labels).argmax()
            for name, part in task.tests.items():
                found[name]["majority"] = np.full(len(part), majority)
        return found

    @cached_property
    def ngram_cosines(self) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """How alike in n-grams the examples to train on are to one another, to those of validation and tests.

        Their weights come from all the examples to train on, also where few have a label.
        """
        vectors = TfIdf(bags_of(self.task.train))
        known, validation = (vectors(bags_of(part)) for part in (self.task.train, self.task.validation))
        tests = {name: vectors(bags_of(part)) for name, part in self.task.tests.items()}
        found = {name: cosines(own, known) for name, own in tests.items()}
        return cosines(known, known), cosines(validation, known), found

    def probed(self, model: Clippo, train: np.ndarray, tests: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Predictions for the embeddings of each test."""
        task = self.task
        if not task.classes:
            predictors = (linear_regression(train, self.targets, l2=l2) for l2 in PROBE_L2S)
            return self.chosen(predictors, embed_texts(model, task.validation.inputs), tests)
        predict = swept_logistic_regression(train, task.train.labels, len(task.classes))
        return {name: predict(z).argmax(1) for name, z in tests.items()}

    @property
    def targets(self) -> np.ndarray:
        """What regressions fit: the scores, or for each class whether it is the right one."""
        labels = self.task.train.labels
        return np.eye(len(self.task.classes))[labels] if self.task.classes else labels

    def chosen(
        self, predictors: Iterable[Predictor], validation: np.ndarray, tests: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Predictions for the features of each test, by the predictor that is the best in validation.

        The best is the one with the highest main metric.
        """
        metric, labels = METRICS[self.task.metrics[0]], self.task.validation.labels
        best = max(predictors, key=lambda predict: metric(self.decided(predict(validation)), labels))
        return {name: self.decided(best(features)) for name, features in tests.items()}

    def decided(self, scores: np.ndarray) -> np.ndarray:
        return scores.argmax(1) if self.task.classes else scores


def perturbed(part: Part, specification: str) -> Part:
    """Perturb the texts of a part, both of a pair, the same way at every call; "" leaves them as they are."""
    if not specification:
        return part
    perturbation = Perturbation.of(specification)

    def all_of(texts: tuple[str, ...], name: str) -> tuple[str, ...]:
        rngs = generators(0, "perturbed", perturbation.name, name, count=len(texts))
        return tuple(perturbation(text, rng).text for text, rng in zip(texts, rngs, strict=True))

    return replace(part, texts=all_of(part.texts, "texts"), seconds=all_of(part.seconds, "seconds"))


def class_vectors(model: Clippo, classes: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
    """(C, E) float64 vectors of classes: the means of the embeddings of each name in each prompt.

    They are not brought to length 1 again, as in the published protocol for texts: a class whose prompts
    disagree has a shorter vector. Underscores in names become spaces.
    """
    names = [name.replace("_", " ") for name in classes]
    texts = [prompt.replace("{}", name) for name in names for prompt in prompts]
    out: np.ndarray = embed_texts(model, texts).reshape(len(names), len(prompts), -1).mean(1)
    return out
