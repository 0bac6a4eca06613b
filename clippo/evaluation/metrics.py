"""Metrics of predictions against labels, in percent from 0 to 100; correlations from -100 to 100.

Each takes the predictions (N,) first and the labels (N,) second. `METRICS` has them by name.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from clippo.evaluation.base import Estimate
from clippo.evaluation.intervals import bootstrap, percent

__all__ = ["METRICS", "accuracy", "f1", "macro_f1", "matthews", "measured", "pearson", "spearman"]


def accuracy(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Share of the predictions that are right."""
    found, wanted = checked(predicted, labels)
    return 100 * float((found == wanted).mean())


def f1(predicted: ArrayLike, labels: ArrayLike) -> float:
    """F1 of class 1, as GLUE measures QQP and MRPC (arXiv 1804.07461); 0 where that class never occurs."""
    found, wanted = checked(predicted, labels)
    both, either = ((found == 1) & (wanted == 1)).sum(), (found == 1).sum() + (wanted == 1).sum()
    return 200 * float(both / either) if either else 0.0


def macro_f1(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Mean of the F1 of each class that is among the labels or the predictions."""
    found, wanted = checked(predicted, labels)
    _, numbers = np.unique(np.concatenate([found, wanted]), return_inverse=True)
    either = np.bincount(numbers)
    both = np.bincount(numbers[: len(found)][found == wanted], minlength=len(either))
    return 200 * float((both / either).mean())


def matthews(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Matthews' correlation of two or more classes (Gorodkin 2004); 0 if either is constant."""
    found, wanted = checked(predicted, labels)
    classes, numbers = np.unique(np.concatenate([found, wanted]), return_inverse=True)
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (numbers[len(found) :], numbers[: len(found)]), 1)
    N, predicted_N, label_N = counts.sum(), counts.sum(0), counts.sum(1)
    covariance = counts.trace() * N - predicted_N @ label_N
    spread = (N**2 - predicted_N @ predicted_N) * (N**2 - label_N @ label_N)
    return 100 * float(covariance / np.sqrt(spread)) if spread else 0.0


def pearson(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Pearson's correlation; 0 if either is constant, as a constant tells nothing."""
    found, wanted = (np.asarray(values, np.float64) for values in checked(predicted, labels))
    if np.ptp(found) == 0 or np.ptp(wanted) == 0:
        return 0.0
    x, y = found - found.mean(), wanted - wanted.mean()
    return 100 * float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))


def spearman(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Spearman's correlation, Pearson's of the ranks; what ties has the mean of its ranks."""
    found, wanted = checked(predicted, labels)
    return pearson(ranks(found), ranks(wanted))


METRICS: dict[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}


def measured(metric: str, predicted: ArrayLike, labels: ArrayLike) -> Estimate:
    """A metric of `METRICS` with its confidence interval."""
    if metric == "accuracy":
        found, wanted = checked(predicted, labels)
        return percent(found == wanted)
    return bootstrap(METRICS[metric], *checked(predicted, labels))


def checked(predicted: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays.

    Raises:
        ValueError: they are not of one length above 0.
    """
    found, wanted = np.asarray(predicted), np.asarray(labels)
    if found.ndim != 1 or found.shape != wanted.shape or not len(found):
        raise ValueError(
            f"predictions and labels must be (N,) with N above 0, got {found.shape} and {wanted.shape}"
        )
    return found, wanted


def ranks(values: np.ndarray) -> np.ndarray:
    """(N,) the rank of each value, from 1; equal values have the mean of theirs."""
    _, numbers, counts = np.unique(values, return_inverse=True, return_counts=True)
    out: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[numbers]
    return out
