"""Classifiers and regressions on frozen features: what a linear layer, or the neighbours, can read off them.

Each function fits on features (N, D) with labels (N,), numbers of C classes, and returns a predictor that
turns features (M, D) into scores (M, C), the highest of which is the prediction. All is float64 on the CPU
and deterministic. Those that are linear standardise the features first: each has mean 0 and standard
deviation 1 over the N examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike

from clippo.errors import UserError
from clippo.seeds import generator

__all__ = [
    "CS",
    "Predictor",
    "best_C",
    "linear_regression",
    "logistic_regression",
    "nearest_neighbours",
    "ridge",
    "swept_logistic_regression",
]

Predictor = Callable[[ArrayLike], np.ndarray]

STD_EPS = 1e-5  # is added to standard deviations, so that constant features become 0
BIAS_FEATURE = 100.0  # so large that its weight, the bias, is hardly regularised
CS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)
MAX_ITERATIONS = 1000  # of L-BFGS
TOLERANCE = 1e-7  # of the gradient of the mean loss
SWEPT_TOLERANCE = 1e-4  # while C is swept, where accuracies alone are compared
TEMPERATURE = 0.07  # of the votes of neighbours
BLOCK = 1024  # examples that are compared with all others at a time


def ridge(features: ArrayLike, labels: ArrayLike, num_classes: int, *, l2: float) -> Predictor:
    """Fit the few-shot classifier of big_vision: least squares to targets of -1 and 1.

    The bias is the weight of one more feature, 100 for all examples, and is regularised like the others.

    Args:
        features, labels, num_classes: see above.
        l2: factor of the squared weights, above 0.

    Raises:
        ValueError: arrays of other shapes, labels that are no numbers of classes, or an l2 out of range.
    """
    x, y = checked(features, labels, num_classes)
    standardise = standardiser(x)
    weights = least_squares(with_bias(standardise(x)), 2 * np.eye(num_classes)[y] - 1, l2)
    return lambda features: with_bias(standardise(np.asarray(features, np.float64))) @ weights


def linear_regression(features: ArrayLike, targets: ArrayLike, *, l2: float) -> Predictor:
    """Fit a ridge regression, whose intercept is not regularised.

    Args:
        features: (N, D).
        targets: (N,) or (N, T) numbers.
        l2: factor of the squared weights, above 0.

    Returns:
        A predictor of targets, (M,) or (M, T).

    Raises:
        ValueError: arrays of other shapes, or an l2 out of range.
    """
    x, y = checked_features(features), np.asarray(targets, np.float64)
    if y.ndim not in (1, 2) or len(y) != len(x):
        raise ValueError(f"targets must be (N,) or (N, T) with N of {len(x)}, got {y.shape}")
    standardise, intercept = standardiser(x), y.mean(0)
    weights = least_squares(standardise(x), y - intercept, l2)
    return lambda features: standardise(np.asarray(features, np.float64)) @ weights + intercept


def logistic_regression(features: ArrayLike, labels: ArrayLike, num_classes: int, *, C: float) -> Predictor:
    """Fit a multinomial logistic regression by L-BFGS; the scores are logits.

    The loss is that of scikit-learn, C times the sum of the cross-entropies and half of the squared weights;
    the intercepts are not regularised.

    Args:
        features, labels, num_classes: see above.
        C: inverse strength of the regularisation, above 0.

    Raises:
        ValueError: arrays of other shapes, labels that are no numbers of classes, or a C out of range.
    """
    x, y = checked(features, labels, num_classes)
    standardise = standardiser(x)
    layer = fitted(standardise(x), y, C, np.zeros((x.shape[1] + 1, num_classes)))
    return lambda features: logits_of(standardise(np.asarray(features, np.float64)), layer)


def swept_logistic_regression(
    features: ArrayLike,
    labels: ArrayLike,
    num_classes: int,
    *,
    validation_share: float = 0.2,
    Cs: Sequence[float] = CS,
) -> Predictor:
    """Fit a logistic regression on all examples, with the C that is the best on a part of them.

    Args:
        features, labels, num_classes: see above.
        validation_share, Cs: as of `best_C`.

    Raises:
        ValueError: as of `logistic_regression` and `best_C`.
    """
    C = best_C(features, labels, num_classes, validation_share=validation_share, Cs=Cs)
    return logistic_regression(features, labels, num_classes, C=C)


def best_C(
    features: ArrayLike,
    labels: ArrayLike,
    num_classes: int,
    *,
    validation_share: float = 0.2,
    Cs: Sequence[float] = CS,
) -> float:
    """The C whose logistic regression is the most accurate on a validation part; the smallest of equal ones.

    Args:
        features, labels, num_classes: see above.
        validation_share: share of the examples of each class that validate; the others are fitted.
        Cs: what is tried.

    Raises:
        ValueError: as of `logistic_regression`; no C; a share with which no example validates.
    """
    x, y = checked(features, labels, num_classes)
    if not len(Cs):
        raise ValueError("Cs must not be empty")
    validates = validation_part(y, validation_share)
    if not 0 < validates.sum() < len(y):
        raise UserError(
            f"validation_share must leave examples on both sides, got {validation_share} of {len(y)} examples"
            f" in {len(np.unique(y))} classes"
        )
    standardise = standardiser(x[~validates])
    fit, held = standardise(x[~validates]), standardise(x[validates])
    layer = np.zeros((x.shape[1] + 1, num_classes))
    best, best_accuracy = min(Cs), -1.0
    for C in sorted(Cs):  # each fit begins where the last one ended
        layer = fitted(fit, y[~validates], C, layer, SWEPT_TOLERANCE)
        accuracy = float((logits_of(held, layer).argmax(1) == y[validates]).mean())
        if accuracy > best_accuracy:
            best, best_accuracy = C, accuracy
    return best


def nearest_neighbours(features: ArrayLike, labels: ArrayLike, num_classes: int, *, k: int) -> Predictor:
    """Let the k examples of the highest cosine similarity vote, as DINO does (arXiv 2104.14294).

    A vote weighs exp(similarity / 0.07). The scores are shares of the votes.

    Args:
        features, labels, num_classes: see above.
        k: neighbours, at least 1; all where there are fewer.

    Raises:
        ValueError: arrays of other shapes, labels that are no numbers of classes, or a k out of range.
    """
    x, y = checked(features, labels, num_classes)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    known, k = unit_length(x), min(k, len(x))

    def predict(features: ArrayLike) -> np.ndarray:
        asked = unit_length(np.asarray(features, np.float64))
        scores: np.ndarray = np.zeros((len(asked), num_classes))
        for start in range(0, len(asked), BLOCK):
            similarity = asked[start : start + BLOCK] @ known.T
            nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
            votes = np.exp((np.take_along_axis(similarity, nearest, axis=1) - 1) / TEMPERATURE)
            np.add.at(scores, (start + np.arange(len(nearest))[:, None], y[nearest]), votes)
        scores /= scores.sum(1, keepdims=True)
        return scores

    return predict


def checked_features(features: ArrayLike) -> np.ndarray:
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or not x.size:
        raise ValueError(f"features must be (N, D) with N and D above 0, got {x.shape}")
    return x


def checked(features: ArrayLike, labels: ArrayLike, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Features as float64 and labels as integers.

    Raises:
        ValueError: as of `ridge`.
    """
    x, y = checked_features(features), np.asarray(labels)
    if y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"labels must be (N,) integers with N of {len(x)}, got {y.dtype} {y.shape}")
    if y.min() < 0 or y.max() >= num_classes:
        raise ValueError(f"labels must be from 0 to {num_classes - 1}, got {y.min()} to {y.max()}")
    return x, y


def standardiser(x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function that shifts and scales features as those of `x`, to mean 0 and standard deviation 1."""
    mean, std = x.mean(0), x.std(0) + STD_EPS
    return lambda features: (features - mean) / std


def with_bias(x: np.ndarray) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, 1)), constant_values=BIAS_FEATURE)


def least_squares(x: np.ndarray, y: np.ndarray, l2: float) -> np.ndarray:
    """The weights w that make |x w - y|^2 + l2 |w|^2 the smallest, in closed form.

    The system of equations is the smaller of (D, D) and (N, N), which have the same solution.
    """
    if not l2 > 0:
        raise ValueError(f"l2 must be above 0, got {l2}")
    N, D = x.shape
    if N >= D:
        return np.linalg.solve(x.T @ x + l2 * np.eye(D), x.T @ y)
    out: np.ndarray = x.T @ np.linalg.solve(x @ x.T + l2 * np.eye(N), y)
    return out


def fitted(
    x: np.ndarray, y: np.ndarray, C: float, start: np.ndarray, tolerance: float = TOLERANCE
) -> np.ndarray:
    """Weights of a logistic regression and, in the last row, its intercepts: (D + 1, C).

    They are nan where features are not numbers.

    Args:
        x: (N, D) features.
        y: (N,) labels.
        C: as of `logistic_regression`.
        start: where the search begins.
        tolerance: of the gradient, at which it ends.
    """
    if not C > 0:
        raise ValueError(f"C must be above 0, got {C}")
    if not np.isfinite(x).all():
        return np.full_like(start, np.nan)
    features, labels = torch.from_numpy(x), torch.from_numpy(y.astype(np.int64))
    # Searched for in units in which all directions have about the same curvature, that of a model that has
    # learned nothing: correlated features take ten times as many steps in their own.
    num_classes = max(2, start.shape[1])
    at_start = (1 - 1 / num_classes) / num_classes  # p (1 - p), where all classes are equally likely
    curvature, basis = torch.linalg.eigh(features.T @ features / len(x))
    scales = (at_start * curvature.clamp(min=0) + 1 / (C * len(x))) ** -0.5
    of_intercepts = torch.full((1, 1), at_start**-0.5, dtype=torch.float64)
    units = torch.block_diag((basis * scales) @ basis.T, of_intercepts)
    layer = torch.linalg.solve(units, torch.from_numpy(start)).contiguous().requires_grad_()
    search = torch.optim.LBFGS(
        [layer],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=tolerance,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        search.zero_grad()
        own = units @ layer
        weights, intercepts = own[:-1], own[-1]
        error = F.cross_entropy(torch.addmm(intercepts, features, weights), labels)
        total: torch.Tensor = error + weights.square().sum() / (2 * C * len(x))
        total.backward()
        return total

    search.step(loss)
    out: np.ndarray = (units @ layer.detach()).numpy()
    return out


def logits_of(x: np.ndarray, layer: np.ndarray) -> np.ndarray:
    out: np.ndarray = x @ layer[:-1] + layer[-1]
    return out


def validation_part(y: np.ndarray, share: float) -> np.ndarray:
    """(N,) bool: this share of the examples of each class, rounded, drawn at random."""
    rng, validates = generator(0, "validation"), np.zeros(len(y), bool)
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        validates[members[: round(share * len(members))]] = True
    return validates


def unit_length(x: np.ndarray) -> np.ndarray:
    out: np.ndarray = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return out
