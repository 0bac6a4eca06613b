"""The batches of a run, from a step on."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from clippo.data.base import Source
from clippo.data.loader import Batch, Batches, load
from clippo.data.order import Order
from clippo.data.transform import Transform
from clippo.training.config import TrainConfig, image_sizes
from clippo.training.state import TrainState

__all__ = ["batches_from"]


class GrowingBatches(Batches):
    """Batches whose images grow in the course of a run, see `TrainConfig.resolutions`.

    Args:
        growing: the transforms, and before which step of the run each ends; the last is the one of `Batches`.
        left_out: batches that were left out, by which the step of the run is behind that of the data.
        options: of `Batches`.
    """

    def __init__(
        self, *args: Any, growing: Sequence[tuple[int, Transform]], left_out: int, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.growing = growing
        self.left_out = left_out

    def transform_of(self, step: int) -> Transform:
        ahead = (transform for end, transform in self.growing if step - self.left_out < end)
        return next(ahead, self.transform)


def batches_from(
    step: int,
    config: TrainConfig,
    state: TrainState,
    source: Source,
    order: Order,
    rows: slice,
    device: torch.device,
) -> Iterator[Batch]:
    """Give the rows of one process of each batch from a step on, without those that were left out."""
    text_input = copy.deepcopy(state.model.text_input).cpu()  # the workers' own
    growing = [(end, config.transform.build(size)) for size, end in image_sizes(config)]
    batches = GrowingBatches(
        source,
        order,
        config.transform.build(config.model.image_size),
        text_input,
        rows=rows,
        steps=range(step + state.left_out, config.steps + state.left_out),
        seed=config.seed,
        growing=growing,
        left_out=state.left_out,
    )
    return load(batches, workers=config.workers, pin_memory=device.type == "cuda")
