"""The batches of a run, from a step on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from clippo.data.base import Source
from clippo.data.loader import Batch, Batches, load
from clippo.data.order import Order
from clippo.data.text_augment import TextAugment
from clippo.data.transform import Transform
from clippo.model.text_input import TextInput
from clippo.training.config import TrainConfig, image_sizes

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
    left_out: int,
    *,
    config: TrainConfig,
    source: Source,
    order: Order,
    text_input: TextInput,
    text_augment: TextAugment | None,
    rows: slice,
    pin_memory: bool,
) -> Iterator[Batch]:
    """Give the rows of one process of each batch of a run.

    Args:
        step: of the first batch.
        left_out: batches before it that were left out.
        config: the run.
        source: the examples.
        order: says which are in a batch.
        text_input: the workers' own.
        text_augment: as of `Batches`.
        rows: those of this process.
        pin_memory: as of `load`.
    """
    growing = [(end, config.transform.build(size)) for size, end in image_sizes(config)]
    batches = GrowingBatches(
        source,
        order,
        config.transform.build(config.model.image_size),
        text_input,
        rows=rows,
        steps=range(step + left_out, config.steps + left_out),
        seed=config.seed,
        text_augment=text_augment,
        growing=growing,
        left_out=left_out,
    )
    return load(batches, workers=config.workers, pin_memory=pin_memory)
