import numpy as np
import pytest

from clippo.data.base import Runs
from clippo.data.order import MixedOrder, Shuffle, ShuffledOrder, WeightedOrder, permuted
from clippo.errors import UserError


def test_an_epoch_has_every_example_once():
    order = ShuffledOrder(103, 10, seed=3)
    batches = [order(step) for step in range(20)]
    for epoch in (batches[:10], batches[10:]):  # the last 3 of an epoch do not fill a batch
        assert len(set(np.concatenate(epoch).tolist())) == 100
    assert not np.array_equal(batches[0], batches[10])
    counts = np.bincount(np.concatenate([order(step) for step in range(1000)]), minlength=103)
    assert counts.min() > 85  # of 100 epochs: what is dropped changes


WEIGHTS = np.array([1.0] * 40 + [0.25] * 80 + [0.1] * 30 + [0.0] * 5)
RUNS = Runs(np.array([0, 20, 25, 45]), window=2)
ORDERS = {
    "shuffled": lambda seed: ShuffledOrder(50, 8, seed=seed),
    "runs": lambda seed: ShuffledOrder(50, 8, seed=seed, runs=RUNS),
    "large": lambda seed: ShuffledOrder(100_000, 8, seed=seed),
    "weighted": lambda seed: WeightedOrder(WEIGHTS, 8, seed=seed),
    "mixed": lambda seed: MixedOrder([50, 1000], [1, 4], 8, seed=seed, runs=[RUNS, None]),
}


@pytest.mark.parametrize("name", ORDERS)
def test_a_step_is_a_function_of_the_seed_and_the_step(name):
    order, other = ORDERS[name](1), ORDERS[name](1)
    steps = [7, 0, 31, 7, 6, 12, 1000]
    expected = {step: order(step).tolist() for step in steps}
    assert all(other(step).tolist() == expected[step] for step in reversed(steps))
    assert ORDERS[name](1)(31).tolist() == expected[31]
    assert ORDERS[name](2)(0).tolist() != expected[0]


def test_weights_are_shares_of_the_epochs():
    order = WeightedOrder(WEIGHTS, 16)
    counts = np.zeros(len(WEIGHTS))
    for step in range(2000):
        batch = order(step)
        assert len(set(batch.tolist())) == 16
        counts[batch] += 1
    assert counts[150:].sum() == 0
    assert counts[40:120].mean() / counts[:40].mean() == pytest.approx(0.25, rel=0.02)
    assert counts[120:150].mean() / counts[:40].mean() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("size", [1, 2, 1000, 65_537, 100_003, 262_144])
def test_a_permutation_is_one_and_looks_random(size):
    found = permuted(np.arange(size), size, 0, "a")
    assert np.array_equal(np.sort(found), np.arange(size))
    if size < 1000:
        return
    assert not np.array_equal(found, permuted(np.arange(size), size, 0, "b"))
    assert abs(np.corrcoef(np.arange(size), found)[0, 1]) < 5 / size**0.5
    # Neighbours end up a third of the size apart on average, as in any random permutation.
    assert np.abs(np.diff(found)).mean() / size == pytest.approx(1 / 3, rel=0.1)
    tenths = np.histogram2d(np.arange(size), found, bins=10)[0]
    assert ((tenths - size / 100) ** 2 / (size / 100)).sum() < 81 + 6 * (2 * 81) ** 0.5  # chi-square


def test_runs_come_together_and_are_shuffled_in_windows():
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 200, 50)
    runs = Runs(np.cumsum(lengths) - lengths, window=5)
    size = int(lengths.sum())
    shuffle = Shuffle(size, 0, runs)
    run_of = np.repeat(np.arange(50), lengths)
    for epoch in range(3):
        found = shuffle(epoch * size + np.arange(size))
        assert np.array_equal(np.sort(found), np.arange(size))
        seen = run_of[found]
        spans = [np.ptp(np.flatnonzero(seen == run)) for run in range(50)]
        assert max(spans) < 5 * 200
        # At no time are more runs open than a window has, but for the change from one window to the next.
        opened = [len(set(seen[start : start + 100])) for start in range(0, size - 100, 100)]
        assert max(opened) <= 10
        assert np.median(opened) >= 4
        neighbours = np.abs(np.diff(found))
        assert (neighbours == 1).mean() < 0.01
    assert not np.array_equal(shuffle(np.arange(size)), shuffle(size + np.arange(size)))


def test_any_positions_at_once():
    shuffle = Shuffle(50, 0, RUNS)
    whole = shuffle(np.arange(200))
    picked = np.random.default_rng(0).integers(200, size=99)
    assert np.array_equal(shuffle(picked), whole[picked])


def test_a_mixture_keeps_its_shares_in_every_window():
    sizes, shares = (300, 5000, 77), (0.5, 0.37, 0.13)
    order = MixedOrder(sizes, shares, 64, seed=0)
    found = np.concatenate([order(step) for step in range(1000)])
    part = np.searchsorted(np.cumsum(sizes), found, side="right")
    for number, share in enumerate(shares):
        counts = np.cumsum(part == number)
        windows = counts[10_000:] - counts[:-10_000]
        assert np.abs(windows / 10_000 - share).max() < 0.005
        times = np.bincount(found[part == number] - sum(sizes[:number]), minlength=sizes[number])
        assert np.ptp(times) <= 2  # of the epochs all but the last are whole


def test_what_cannot_be_ordered():
    for order in (lambda: ShuffledOrder(7, 8), lambda: WeightedOrder(np.ones(7), 8)):
        with pytest.raises(UserError, match="batch_size must be at most 7, the examples of an epoch, got 8"):
            order()
    with pytest.raises(ValueError, match="weights must be numbers from 0 to 1"):
        WeightedOrder(np.array([0.5, 2, 1]), 1)
    with pytest.raises(UserError, match="batch_size must be at most 20, "):
        MixedOrder([10, 1000], [1, 1], 24)
    with pytest.raises(UserError, match=r"a source must have a share of at least 0\.2%, got 0\.10%"):
        MixedOrder([10, 1000], [1, 999], 4)
