"""Metrics against scikit-learn and SciPy, on random and on degenerate input."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn

from clippo.evaluation.intervals import percent
from clippo.evaluation.metrics import METRICS, measured

ORACLES = {
    "accuracy": sklearn.accuracy_score,
    "f1": lambda labels, found: sklearn.f1_score(labels == 1, found == 1, zero_division=0),
    "macro_f1": lambda labels, found: sklearn.f1_score(labels, found, average="macro", zero_division=0),
    "matthews": sklearn.matthews_corrcoef,
    "pearson": lambda labels, found: stats.pearsonr(labels, found).statistic,
    "spearman": lambda labels, found: stats.spearmanr(labels, found).statistic,
}
CORRELATIONS = ("pearson", "spearman")


@pytest.mark.parametrize("name", METRICS)
def test_metrics_are_those_of_scikit_learn_and_scipy(name):
    rng = np.random.default_rng(0)
    for count, classes in [(200, 2), (50, 5), (7, 2), (3, 40)]:
        labels = rng.integers(classes, size=count)  # with ties
        noise = rng.integers(classes, size=count)
        found = np.where(rng.random(count) < 0.4, labels, noise)
        assert METRICS[name](found, labels) == pytest.approx(100 * ORACLES[name](labels, found), abs=1e-9)
        if name in CORRELATIONS:
            found = labels + 1e6 + rng.normal(size=count)  # an offset that costs digits
            assert METRICS[name](found, labels) == pytest.approx(100 * ORACLES[name](labels, found))


@pytest.mark.parametrize("name", METRICS)
def test_the_right_answers_score_100(name):
    labels = np.array([0, 1, 1, 0, 1])
    assert METRICS[name](labels, labels) == pytest.approx(100)
    if name in (*CORRELATIONS, "matthews"):
        assert METRICS[name](1 - labels, labels) == pytest.approx(-100)


def test_constants_tell_nothing():
    labels, constant = np.array([0, 1, 1, 0]), np.ones(4, int)
    for name in (*CORRELATIONS, "matthews"):
        assert METRICS[name](constant, labels) == METRICS[name](labels, constant) == 0
        assert METRICS[name](constant, constant) == 0
    assert METRICS["f1"](0 * labels, 0 * labels) == 0
    assert METRICS["macro_f1"](constant, constant) == 100
    assert METRICS["f1"](constant, labels) == pytest.approx(200 / 3)


@pytest.mark.parametrize("name", ["accuracy", "f1", "spearman"])
def test_an_interval_holds_the_value_and_its_bounds_vary_with_the_examples(name):
    rng = np.random.default_rng(1)
    labels = rng.integers(2, size=300)
    found = np.where(rng.random(300) < 0.5, labels, rng.integers(2, size=300))
    wide, narrow = measured(name, found[:60], labels[:60]), measured(name, found, labels)
    assert narrow == METRICS[name](found, labels)
    assert narrow.low < narrow < narrow.high
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


@pytest.mark.parametrize(("found", "labels"), [([], []), ([1, 2], [1]), ([[1]], [[1]])])
def test_other_shapes_are_refused(found, labels):
    for metric in METRICS.values():
        with pytest.raises(ValueError, match=r"predictions and labels must be \(N,\) with N above 0, got \("):
            metric(found, labels)


def test_a_share_of_hits_is_in_percent_with_its_bounds():
    found = percent([True, False, True, True])
    assert found == 75
    assert (found.low, found.high) == pytest.approx((30.06, 95.44), abs=0.01)  # Wilson's
    for hit in (False, True):
        few, many = percent([hit] * 4), percent([hit] * 12, [0, 1, 2, 3] * 3)
        assert (few, few.low, few.high) == (many, many.low, many.high)
        assert many.high - many.low == pytest.approx(49, abs=1)
    halves = percent([True, False] * 50, [0] * 50 + [1] * 50)
    assert halves.low == halves.high == 50
    with pytest.raises(ValueError, match=r"scores must be \(N,\) with N above 0"):
        percent([], [])
