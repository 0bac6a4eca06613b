"""The batches of a run, from a step on."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch

from clippo.data.base import Source
from clippo.data.loader import Batch, Batches, load
from clippo.data.order import Order
from clippo.training.config import TrainConfig
from clippo.training.state import TrainState

__all__ = ["batches_from"]


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
    batches = Batches(
        source,
        order,
        config.transform.build(config.model.image_size),
        text_input,
        rows=rows,
        steps=range(step + state.left_out, config.steps + state.left_out),
        seed=config.seed,
    )
    return load(batches, workers=config.workers, pin_memory=device.type == "cuda")
