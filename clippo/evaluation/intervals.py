"""Confidence intervals of what is measured on a sample.

Intervals are those of the percentile bootstrap (Efron 1979): the sample is drawn anew from itself 1,000
times, and the interval holds 95 % of the values that come out. They say how much a value would change with
other examples of the same kind, and not with another seed of training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from clippo.evaluation.base import Estimate
from clippo.seeds import generator

__all__ = ["bootstrap", "difference_in_percent", "mean_estimate", "percent", "percent_of_means"]

RESAMPLES = 1000
LEVEL = 0.95
Z = 1.959964  # of the normal distribution, for 95 %
MAX_DRAWN = 2**24  # numbers at a time, 128 MiB


def percent(scores: ArrayLike, clusters: ArrayLike | None = None) -> Estimate:
    """The mean of scores from 0 to 1, such as hits, in percent; see `mean_estimate`."""
    return in_percent(mean_estimate(scores, clusters))


def in_percent(share: Estimate) -> Estimate:
    return Estimate(100 * share, 100 * share.low, 100 * share.high)


def mean_estimate(scores: ArrayLike, clusters: ArrayLike | None = None) -> Estimate:
    """The mean of scores with its confidence interval.

    Scores of 0 and 1 have Wilson's interval (Wilson 1927), which does not shrink to a point where all are
    equal, as the bootstrap's does.

    Args:
        scores: (N,) of each example.
        clusters: (N,) numbers; examples of one number, such as the captions of an image, are drawn together.

    Raises:
        ValueError: no scores, or another number of clusters.
    """
    scores = checked_scores(scores, clusters)
    if clusters is not None and scores[0] in (0, 1) and np.ptp(scores) == 0:
        scores, clusters = scores[: len(np.unique(np.asarray(clusters)))], None
    if clusters is None and set(np.unique(scores).tolist()) <= {0.0, 1.0}:
        return wilson(float(scores.mean()), len(scores))
    return resampled_mean(scores, clusters)


def checked_scores(scores: ArrayLike, clusters: ArrayLike | None) -> np.ndarray:
    """(N,) float64 scores, with which the clusters go."""
    out = np.asarray(scores, np.float64)
    if out.ndim != 1 or not len(out):
        raise ValueError(f"scores must be (N,) with N above 0, got {out.shape}")
    if clusters is not None and np.asarray(clusters).shape != out.shape:
        raise ValueError(f"clusters must be ({len(out)},), one a score, got {np.shape(clusters)}")
    return out


def resampled_mean(scores: np.ndarray, clusters: ArrayLike | None) -> Estimate:
    """The mean of scores with the interval of the bootstrap, without a loop over the resamples."""
    if clusters is None:
        sums, counts = np.unique(scores, return_counts=True)
        sizes = np.ones(len(sums))
    else:
        _, numbers = np.unique(np.asarray(clusters), return_inverse=True)
        both = np.stack([np.bincount(numbers, weights=scores), np.bincount(numbers)], axis=1)
        unique, counts = np.unique(both, axis=0, return_counts=True)
        sums, sizes = unique.T
    N, rng = int(counts.sum()), generator(0, "bootstrap")
    means = []
    for drawn in blocks(len(counts)):
        times = rng.multinomial(N, counts / N, drawn)
        means.append((times @ sums) / (times @ sizes))
    return Estimate(float(scores.mean()), *bounds(np.concatenate(means)))


def difference_in_percent(after: ArrayLike, before: ArrayLike, clusters: ArrayLike | None = None) -> Estimate:
    """By how many percentage points the mean of scores of the same examples differs from what it was.

    The interval draws an example with both of its scores, and is a point where all differences are equal.

    Args:
        after, before: (N,) of each example, from 0 to 1.
        clusters: as of `mean_estimate`.

    Raises:
        ValueError: no scores, or another number of them or of clusters.
    """
    after, before = (checked_scores(scores, clusters) for scores in (after, before))
    if len(after) != len(before):
        raise ValueError(f"after and before must be of the same examples, got {len(after)} and {len(before)}")
    return in_percent(resampled_mean(after - before, clusters))


def percent_of_means(scores: ArrayLike, groups: ArrayLike, clusters: ArrayLike) -> Estimate:
    """The mean over groups, such as languages, of the mean score of each, in percent.

    Args:
        scores: (N,) of each example, from 0 to 1.
        groups: (N,) number of the group of each score. A resample without scores of a group is the mean of
            the others.
        clusters: (N,) numbers as of `mean_estimate`; a cluster may have scores in several groups.

    Raises:
        ValueError: no scores, or another number of groups or clusters.
    """
    scores = np.asarray(scores, np.float64)
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    cluster = np.unique(np.asarray(clusters), return_inverse=True)[1]
    if not len(scores) or not scores.shape == group.shape == cluster.shape:
        shapes = f"{scores.shape}, {group.shape} and {cluster.shape}"
        raise ValueError(f"scores, groups and clusters must be (N,) with N above 0, got {shapes}")
    if scores[0] in (0, 1) and np.ptp(scores) == 0:
        return percent(scores, clusters)
    C, G = int(cluster.max()) + 1, int(group.max()) + 1
    cells = cluster * G + group
    sums = np.bincount(cells, weights=scores, minlength=C * G).reshape(C, G)
    sizes = np.bincount(cells, minlength=C * G).reshape(C, G).astype(np.float64)
    rng = generator(0, "bootstrap")
    means = []
    for drawn in blocks(max(C, G)):
        times = rng.multinomial(C, np.full(C, 1 / C), drawn).astype(np.float64)
        with np.errstate(invalid="ignore"):
            means.append(np.nanmean((times @ sums) / (times @ sizes), axis=1))
    mean = float(np.mean(sums.sum(0) / sizes.sum(0)))
    return in_percent(Estimate(mean, *bounds(np.concatenate(means))))


def bootstrap(statistic: Callable[..., float], *columns: Any, clusters: ArrayLike | None = None) -> Estimate:
    """A statistic of a sample with its confidence interval, such as a correlation.

    Args:
        statistic: takes the columns and gives a number. A resample for which it gives nan, such as a
            correlation of constants, does not count.
        columns: arrays of N rows, such as predictions and labels.
        clusters: as of `mean_estimate`.

    Raises:
        ValueError: no rows.
    """
    columns = tuple(np.asarray(column) for column in columns)
    N = len(columns[0])
    if not N:
        raise ValueError("the columns must not be empty")
    rng = generator(0, "bootstrap")
    members = [np.array([i]) for i in range(N)]
    if clusters is not None:
        _, numbers = np.unique(np.asarray(clusters), return_inverse=True)
        members = np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers))[:-1])
    found = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(len(members), size=len(members))
        rows = drawn if clusters is None else np.concatenate([members[i] for i in drawn])
        found.append(statistic(*(column[rows] for column in columns)))
    known = np.array(found)[~np.isnan(found)]
    value = float(statistic(*columns))
    return Estimate(value, *(bounds(known) if len(known) else (value, value)))


def wilson(mean: float, count: int) -> Estimate:
    """Wilson's interval of a proportion."""
    center = (mean + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * np.sqrt(mean * (1 - mean) / count + Z**2 / (4 * count**2))
    return Estimate(mean, min(mean, max(0.0, center - half)), max(mean, min(1.0, center + half)))


def bounds(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def blocks(width: int) -> list[int]:
    """How many resamples of so many values are drawn at a time."""
    size = max(1, min(RESAMPLES, MAX_DRAWN // width))
    return [min(size, RESAMPLES - start) for start in range(0, RESAMPLES, size)]
