"""The order in which training sees the examples: a pure function of the seed and the step."""

from __future__ import annotations

import numpy as np

from clippo.errors import UserError
from clippo.seeds import generator

__all__ = ["Order"]


class Order:
    """Epochs of all examples, each in a new random order, cut into batches.

    An example of weight w comes in a share w of the epochs, as evenly spaced as possible. What is left of an
    epoch after its last whole batch is dropped, so that no batch holds an example twice. A run has no other
    state of its data than the number of its step, and can be resumed by any number of processes.

    Args:
        size: number of examples, N.
        batch_size: examples in a batch, over all processes.
        seed: of the run.
        weights: (N,) from 0 to 1; all 1 by default.

    Raises:
        UserError: an epoch has fewer examples than a batch.
        ValueError: weights are out of range.
    """

    def __init__(
        self, size: int, batch_size: int, *, seed: int = 0, weights: np.ndarray | None = None
    ) -> None:
        self.batch_size = batch_size
        self.seed = seed
        self.weights = np.ones(size) if weights is None else np.asarray(weights, float)
        if self.weights.shape != (size,) or not ((self.weights >= 0) & (self.weights <= 1)).all():
            raise ValueError(f"weights must be {size} numbers from 0 to 1")
        self.phases = generator(seed, "phases").random(size)  # so that examples of equal weight take turns
        self.first_steps = [0]  # of each epoch, as far as they are known
        self.epoch, self.indices = -1, np.zeros(0, np.int64)
        smallest = len(self.examples_of(0))
        if smallest < batch_size:
            raise UserError(
                f"batch_size must be at most {smallest}, the examples of an epoch, got {batch_size}"
            )

    def __call__(self, step: int) -> np.ndarray:
        """(batch_size,) int64 indices of the examples of a step, all different."""
        while self.first_steps[-1] <= step:
            steps = len(self.examples_of(len(self.first_steps) - 1)) // self.batch_size
            self.first_steps.append(self.first_steps[-1] + steps)
        epoch = int(np.searchsorted(self.first_steps, step, side="right")) - 1
        if epoch != self.epoch:
            self.epoch = epoch
            self.indices = generator(self.seed, "epoch", epoch).permutation(self.examples_of(epoch))
        start = (step - self.first_steps[epoch]) * self.batch_size
        return self.indices[start : start + self.batch_size]

    def examples_of(self, epoch: int) -> np.ndarray:
        """Indices of the examples that come in an epoch, in ascending order."""
        before, after = (np.floor(e * self.weights + self.phases) for e in (epoch, epoch + 1))
        return np.flatnonzero(after - before)
