"""Accuracy of classifiers, also where examples have several labels, and what guessing would reach."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from clippo.evaluation.base import Metrics
from clippo.evaluation.intervals import bootstrap, percent

__all__ = ["accuracies", "guessing", "padded", "ranks"]

TOP = 5


def padded(labels: Sequence[Sequence[int]]) -> np.ndarray:
    """The labels of N examples, at least one each, as an (N, L) array that is filled up with -1."""
    out = np.full((len(labels), max(map(len, labels), default=1)), -1)
    for row, own in enumerate(labels):
        out[row, : len(own)] = own
    return out


def ranks(scores: ArrayLike, labels: np.ndarray) -> np.ndarray:
    """The place, from 1, of the best right class of each example among all classes that are not right.

    Classes that tie with it come before it, and so do scores that are not numbers.

    Args:
        scores: (N, C), the higher the better.
        labels: (N, L) right classes, as of `padded`.
    """
    scores = np.asarray(scores, np.float64)
    is_right = members(labels, scores.shape[1])
    best = np.where(is_right, scores, -np.inf).max(1, keepdims=True)
    out: np.ndarray = 1 + (~(scores < best) & ~is_right).sum(1)
    return out


def accuracies(ranks: np.ndarray, labels: np.ndarray, num_classes: int) -> Metrics:
    """Percent of the examples with a right class at the first place, and among the first five.

    "per_class" is the mean accuracy of the classes that have examples. An example with several labels counts
    for each of them. With five classes or fewer there is no "top5".

    Args:
        ranks: (N,) as of `ranks`.
        labels: (N, L) right classes, as of `padded`.
        num_classes: C.
    """
    metrics: Metrics = {"top1": percent(ranks <= 1)}
    if num_classes > TOP:
        metrics["top5"] = percent(ranks <= TOP)
    metrics["per_class"] = bootstrap(mean_of_classes, 100.0 * (ranks <= 1), labels)
    return metrics


def guessing(labels: np.ndarray, num_classes: int) -> Metrics:
    """Metrics of random scores, on average, and of always naming the most frequent class."""
    is_right = members(labels, num_classes)
    count = is_right.sum(1)
    per_class = np.array([mean_of_classes(count, labels)]) if len(labels) else np.array([np.nan])
    metrics: Metrics = {"chance/top1": 100 * float(count.mean()) / num_classes}
    if num_classes > TOP:
        # None of m right ones is among the first k of C with the product over i < k of (C - m - i) / (C - i).
        i = np.arange(TOP)
        missed = ((num_classes - count[:, None] - i).clip(min=0) / (num_classes - i)).prod(1)
        metrics["chance/top5"] = 100 * float((1 - missed).mean())
    metrics["chance/per_class"] = 100 * float(per_class[0]) / num_classes
    metrics["majority/top1"] = 100 * float(is_right.mean(0).max())
    return metrics


def members(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """(N, C) bool: the right classes of each example."""
    out = np.zeros((len(labels), num_classes + 1), bool)
    out[np.arange(len(labels))[:, None], labels] = True  # -1 is the last column
    return out[:, :-1]


def mean_of_classes(scores: np.ndarray, labels: np.ndarray) -> float:
    """The mean, over the classes that have examples, of the mean score of the examples of each."""
    is_label = labels >= 0
    own = labels[is_label]
    sums = np.bincount(own, np.broadcast_to(scores[:, None], labels.shape)[is_label])
    counts = np.bincount(own)
    return float((sums[counts > 0] / counts[counts > 0]).mean())
