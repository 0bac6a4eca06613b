"""Probes against scikit-learn, the reference's few-shot classifier, and degenerate data."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier

from clippo.evaluation import probes
from clippo.evaluation.probes import (
    best_C,
    linear_regression,
    logistic_regression,
    nearest_neighbours,
    ridge,
    swept_logistic_regression,
)

CLASSIFIERS = [
    lambda *data: ridge(*data, l2=2.0**10),
    lambda *data: logistic_regression(*data, C=1.0),
    lambda *data: swept_logistic_regression(*data, Cs=(0.1, 1.0)),
    lambda *data: nearest_neighbours(*data, k=5),
]
NAMES = ["ridge", "logistic", "swept", "neighbours"]


@pytest.fixture
def blobs():
    """Four overlapping classes in 12 dimensions of different scales: 160 examples and 400 to predict."""
    rng = np.random.default_rng(0)
    centers, y = rng.normal(size=(4, 12)), rng.integers(4, size=560)
    x = (centers[y] + 0.8 * rng.normal(size=(560, 12))) * rng.uniform(0.01, 10, 12) + 3
    return x[:160], y[:160], x[160:], y[160:]


def standardised(x, other):
    return (other - x.mean(0)) / (x.std(0) + 1e-5)


@pytest.mark.parametrize("shots", [1, 5, 10])
@pytest.mark.parametrize("l2", [1.0, 1024.0])
def test_ridge_is_that_of_the_reference(reference_dir, shots, l2):
    with np.load(reference_dir / "evaluation" / "fewshot_ref.npz") as file:
        ref = dict(file)
    rows = np.concatenate([np.flatnonzero(ref["ytr"] == label)[:shots] for label in np.unique(ref["ytr"])])
    predict = ridge(ref["xtr"][rows], ref["ytr"][rows], 7, l2=l2)
    accuracy = (predict(ref["xte"]).argmax(1) == ref["yte"]).mean()
    # The reference is in float32, in which one of the 280 falls to the other side.
    assert accuracy == pytest.approx(float(ref[f"acc_{shots}_{l2}"]), abs=1.01 / 280)


@pytest.mark.parametrize("count", [8, 160])
def test_regressions_are_those_of_scikit_learn(blobs, count):
    """With fewer examples than features, and with more."""
    x, y, other, _ = blobs
    x, y = x[:count], y[:count]
    z, z_other = standardised(x, x), standardised(x, other)
    fit = Ridge(alpha=5.0).fit(z, y)
    np.testing.assert_allclose(linear_regression(x, y, l2=5.0)(other), fit.predict(z_other), rtol=1e-9)
    both = np.stack([y, y**2], axis=1)
    np.testing.assert_allclose(linear_regression(x, both, l2=5.0)(other)[:, 0], fit.predict(z_other))
    padded = [np.pad(part, ((0, 0), (0, 1)), constant_values=100) for part in (z, z_other)]
    fit = Ridge(alpha=5.0, fit_intercept=False).fit(padded[0], 2 * np.eye(4)[y] - 1)
    np.testing.assert_allclose(ridge(x, y, 4, l2=5.0)(other), fit.predict(padded[1]), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("C", [1e-3, 1.0, 100.0])
def test_logistic_regression_is_that_of_scikit_learn(blobs, C):
    x, y, other, _ = blobs
    fit = LogisticRegression(C=C, tol=1e-8, max_iter=10_000).fit(standardised(x, x), y)
    logits = logistic_regression(x, y, 4, C=C)(other)
    shares = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    np.testing.assert_allclose(shares, fit.predict_proba(standardised(x, other)), atol=2e-3)


def test_the_swept_C_is_the_best_on_the_validation_part(blobs):
    x, y, other, _ = blobs
    x = np.concatenate([x, np.random.default_rng(1).normal(size=(160, 60))], axis=1)  # easy to fit too well
    Cs = (1e-6, 1e-2, 1.0)
    held = probes.validation_part(y, 0.25)
    assert [int(held[y == label].sum()) for label in range(4)] == [
        round(0.25 * (y == label).sum()) for label in range(4)
    ]
    found = {
        C: (logistic_regression(x[~held], y[~held], 4, C=C)(x[held]).argmax(1) == y[held]).mean() for C in Cs
    }
    C = best_C(x, y, 4, validation_share=0.25, Cs=Cs)
    assert found[C] == max(found.values()) > min(found.values())
    other = np.concatenate([other, np.zeros((400, 60))], axis=1)
    swept = swept_logistic_regression(x, y, 4, validation_share=0.25, Cs=Cs)(other)
    np.testing.assert_allclose(swept, logistic_regression(x, y, 4, C=C)(other))
    assert best_C(np.ones((10, 3)), np.arange(10) % 2, 2) == min(probes.CS)  # all are equal


@pytest.mark.parametrize("k", [1, 7, 160])
def test_neighbours_vote_as_in_scikit_learn(blobs, k, monkeypatch):
    monkeypatch.setattr(probes, "BLOCK", 150)
    x, y, other, _ = blobs
    fit = KNeighborsClassifier(k, metric="cosine", weights=lambda d: np.exp(-d / 0.07)).fit(x, y)
    np.testing.assert_allclose(nearest_neighbours(x, y, 4, k=k)(other), fit.predict_proba(other), atol=1e-9)
    assert nearest_neighbours(x, y, 4, k=10_000)(other) == pytest.approx(
        nearest_neighbours(x, y, 4, k=160)(other)
    )


@pytest.mark.parametrize("classifier", CLASSIFIERS, ids=NAMES)
def test_classes_that_are_apart_are_found(blobs, classifier):
    _, y, _, y_other = blobs
    y, y_other = y + 1, y_other + 1  # class 0 has no example
    predicted = classifier(20 * np.eye(5)[y], y, 5)(20 * np.eye(5)[y_other]).argmax(1)
    np.testing.assert_array_equal(predicted, y_other)


@pytest.mark.parametrize("classifier", CLASSIFIERS, ids=NAMES)
def test_degenerate_examples_give_finite_scores(classifier):
    """Constant features, equal examples of different classes, and one class alone."""
    for x, y in [(np.zeros((20, 3)), np.arange(20) % 2), (np.ones((20, 3)), np.zeros(20, int))]:
        scores = classifier(x, y, 2)(np.ones((4, 3)))
        assert scores.shape == (4, 2)
        assert scores.dtype == np.float64
        assert np.isfinite(scores).all()
    assert (scores.argmax(1) == 0).all()
    assert classifier(x, y, 2)(np.ones((0, 3))).shape == (0, 2)
    assert np.isnan(classifier(np.full((20, 3), np.nan), np.arange(20) % 2, 2)(x)).all()


def test_what_cannot_be_fitted_is_refused():
    x, y = np.ones((6, 2)), np.array([0, 1, 2, 0, 1, 2])
    with pytest.raises(ValueError, match=r"features must be \(N, D\) with N and D above 0, got \(0, 2\)"):
        ridge(x[:0], y[:0], 3, l2=1)
    with pytest.raises(ValueError, match=r"labels must be \(N,\) integers with N of 6, got float64"):
        nearest_neighbours(x, y / 2, 3, k=1)
    with pytest.raises(ValueError, match="labels must be from 0 to 1, got 0 to 2"):
        logistic_regression(x, y, 2, C=1)
    with pytest.raises(ValueError, match="l2 must be above 0, got 0"):
        ridge(x, y, 3, l2=0)
    with pytest.raises(ValueError, match="C must be above 0, got -1"):
        logistic_regression(x, y, 3, C=-1)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        nearest_neighbours(x, y, 3, k=0)
    with pytest.raises(ValueError, match=r"targets must be \(N,\) or \(N, T\) with N of 6, got \(3,\)"):
        linear_regression(x, y[:3], l2=1)
    with pytest.raises(ValueError, match="leave examples on both sides, got 0.2 of 6 examples in 3 classes"):
        best_C(x, y, 3)
