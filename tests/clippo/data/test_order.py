import numpy as np
import pytest

from clippo.data.order import Order


def test_an_epoch_has_every_example_once():
    order = Order(103, 10, seed=3)
    batches = [order(step) for step in range(20)]
    for epoch in (batches[:10], batches[10:]):  # the last 3 of an epoch do not fill a batch
        assert len(set(np.concatenate(epoch).tolist())) == 100
    assert not np.array_equal(batches[0], batches[10])
    counts = np.bincount(np.concatenate([order(step) for step in range(1000)]), minlength=103)
    assert counts.min() > 85  # of 100 epochs: what is dropped changes


def test_a_step_is_a_function_of_the_seed_and_the_step():
    order, other = Order(50, 8, seed=1), Order(50, 8, seed=1)
    steps = [7, 0, 31, 7, 6, 12]
    assert all(np.array_equal(order(step), other(step)) for step in reversed(steps))
    assert [order(step).tolist() for step in steps] == [Order(50, 8, seed=1)(step).tolist() for step in steps]
    assert not np.array_equal(order(0), Order(50, 8, seed=2)(0))


def test_weights_are_shares_of_the_epochs():
    weights = np.array([1.0] * 40 + [0.25] * 80 + [0.1] * 30 + [0.0] * 5)
    order = Order(len(weights), 16, seed=0, weights=weights)
    counts = np.zeros(len(weights))
    for step in range(2000):
        batch = order(step)
        assert len(set(batch.tolist())) == 16
        counts[batch] += 1
    assert counts[150:].sum() == 0
    assert counts[40:120].mean() / counts[:40].mean() == pytest.approx(0.25, rel=0.02)
    assert counts[120:150].mean() / counts[:40].mean() == pytest.approx(0.1, rel=0.05)


def test_what_cannot_be_ordered():
    with pytest.raises(ValueError, match="batch_size must be at most 7, the examples of an epoch, got 8"):
        Order(7, 8)
    with pytest.raises(ValueError, match="weights must be 3 numbers from 0 to 1"):
        Order(3, 1, weights=np.array([0.5, 2, 1]))
    with pytest.raises(ValueError, match="weights must be 3 numbers"):
        Order(3, 1, weights=np.ones(2))
