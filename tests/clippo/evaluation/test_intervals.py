import pickle

import numpy as np
import pytest

from clippo.evaluation.base import Estimate
from clippo.evaluation.intervals import bootstrap, mean_estimate, percent, percent_of_means

RNG = np.random.default_rng(0)


def test_an_estimate_is_a_number():
    estimate = Estimate(2.5, 1.0, 3.0)
    assert estimate == 2.5
    assert f"{estimate:.2f}" == "2.50"
    again = pickle.loads(pickle.dumps(estimate))  # noqa: S301
    assert (again, again.low, again.high) == (2.5, 1.0, 3.0)


@pytest.mark.slow
@pytest.mark.parametrize("draw", [lambda: RNG.normal(3, 2, 200), lambda: RNG.random(150) < 0.2])
def test_nineteen_of_twenty_intervals_hold_the_truth(draw):
    truth = 3 if draw().dtype == float else 0.2
    estimates = [mean_estimate(draw()) for _ in range(200)]
    assert 0.9 < np.mean([e.low <= truth <= e.high for e in estimates]) < 0.98
    assert all(e.low <= e <= e.high for e in estimates)


def test_the_interval_of_a_mean_is_that_of_any_statistic():
    scores = RNG.gamma(2, size=300)
    quick, slow = mean_estimate(scores), bootstrap(np.mean, scores)
    assert quick == pytest.approx(slow)
    assert (quick.low, quick.high) == pytest.approx((slow.low, slow.high), abs=0.02)


def test_what_is_alike_in_a_cluster_says_it_once():
    own = RNG.random(50)
    copied, clusters = np.repeat(own, 10), np.repeat(np.arange(50), 10)
    alone, together = mean_estimate(own), mean_estimate(copied, clusters)
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high), abs=0.02)
    slow = bootstrap(np.mean, copied, clusters=clusters)
    assert (slow.low, slow.high) == pytest.approx((alone.low, alone.high), abs=0.03)
    assert mean_estimate(copied).high - copied.mean() < (alone.high - alone) / 2


def test_clusters_of_different_sizes():
    scores, clusters = np.array([0.0, 0.0, 0.0, 1.0]), np.array([7, 7, 7, 2])
    estimate = mean_estimate(scores, clusters)
    assert (estimate, estimate.low, estimate.high) == (0.25, 0.0, 1.0)


def test_the_percent_of_means_is_that_of_any_statistic():
    """Six groups of different sizes; every cluster has a score in some of them."""
    clusters, groups = np.nonzero(RNG.random((80, 6)) < np.linspace(0.2, 0.9, 6))
    scores = RNG.random(80)[clusters] + groups

    def statistic(scores, groups):
        return np.mean([scores[groups == group].mean() for group in np.unique(groups)])

    quick = percent_of_means(scores, groups, clusters)
    slow = bootstrap(statistic, scores, groups, clusters=clusters)
    assert quick == pytest.approx(100 * slow)
    assert (quick.low, quick.high) == pytest.approx((100 * slow.low, 100 * slow.high), abs=2)
    # Of copies of one group the mean is as sure as that of one.
    own = RNG.random(50)
    copies = percent_of_means(np.tile(own, 3), np.repeat([4, 7, 9], 50), np.tile(np.arange(50), 3))
    alone = percent(own)
    assert (copies.low, copies.high) == pytest.approx((alone.low, alone.high), abs=2)
    with pytest.raises(ValueError, match=r"must be \(N,\) with N above 0, got \(2,\), \(2,\) and \(1,\)"):
        percent_of_means([1.0, 2.0], [0, 0], [1])


def test_a_resample_without_a_group():
    estimate = percent_of_means([0.0, 1.0], [0, 1], [0, 1])
    assert (estimate, estimate.low, estimate.high) == (50, 0, 100)


def test_equal_scores_leave_a_doubt():
    # The bounds of Wilson's interval for 0 and 20 of 20 are 16.1 % and 83.9 %.
    none, every = percent(np.zeros(20)), percent(np.ones(20))
    of_groups = percent_of_means(np.ones(60), np.repeat([0, 1, 2], 20), np.tile(np.arange(20), 3))
    assert (of_groups, of_groups.low) == (100, pytest.approx(every.low))
    assert (none.low, none.high) == (0, pytest.approx(16.1, abs=0.05))
    assert (every.low, every.high) == (pytest.approx(83.9, abs=0.05), 100)
    together = percent(np.zeros(60), np.repeat(np.arange(20), 3))
    assert together.high == none.high
    assert mean_estimate([2.5] * 9).low == 2.5


def test_a_statistic_that_a_resample_does_not_have():
    x = np.array([0.0, 0.0, 0.0, 1.0])

    def correlation(a, b):
        with np.errstate(invalid="ignore"):
            return np.corrcoef(a, b)[0, 1]

    estimate = bootstrap(correlation, x, x)  # a resample of zeros alone has none
    assert (estimate, estimate.low, estimate.high) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("scores", [[], [[1.0]]])
def test_no_scores(scores):
    with pytest.raises(ValueError, match=r"scores must be \(N,\)"):
        mean_estimate(scores)
    with pytest.raises(ValueError, match="clusters must be"):
        mean_estimate([1.0, 2.0], [1])
    with pytest.raises(ValueError, match="must not be empty"):
        bootstrap(np.mean, [])
