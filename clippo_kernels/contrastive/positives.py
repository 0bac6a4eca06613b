"""Positive pairs of images and texts, and their soft targets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Positives", "by_label", "with_soft_targets"]


class Positives(NamedTuple):
    """The positive pairs of R images and B texts: the pairs with equal ids.

    Without ids, image r and text `offset` + r are a positive pair, if there is such a text. `image_target[r]`
    is the soft target of each positive of image r, times the weight of the image's cross-entropy in the loss;
    `text_target` is the same for the texts. None means 1 for all.
    """

    offset: int = 0
    image_ids: Tensor | None = None  # (R,) int32
    text_ids: Tensor | None = None  # (B,) int32
    image_target: Tensor | None = None  # (R,) float32
    text_target: Tensor | None = None  # (B,) float32

    def block(self, rows: slice, columns: slice) -> Positives:
        """Positives among the images `rows` and the texts `columns`."""
        image_ids, image_target = (
            None if x is None else x[rows] for x in (self.image_ids, self.image_target)
        )
        text_ids, text_target = (None if x is None else x[columns] for x in (self.text_ids, self.text_target))
        return Positives(
            self.offset + rows.start - columns.start, image_ids, text_ids, image_target, text_target
        )

    def transposed(self) -> Positives:
        """Positives with images and texts exchanged."""
        return Positives(-self.offset, self.text_ids, self.image_ids, self.text_target, self.image_target)

    def indices(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column indices of the positives in logits (R, B)."""
        if self.image_ids is not None and self.text_ids is not None:
            rows, columns = (self.image_ids[:, None] == self.text_ids).nonzero(as_tuple=True)
            return rows, columns
        R, B = logits.shape
        first, end = max(0, -self.offset), min(R, B - self.offset)
        rows = torch.arange(first, max(first, end), device=logits.device)
        return rows, rows + self.offset


class Weights(NamedTuple):
    """Weight of the cross-entropy of each image and each text in the loss, divided by `unit`."""

    image: Tensor  # (R,)
    text: Tensor  # (B,)
    unit: Tensor  # ()


def by_label(image_labels: Tensor, text_labels: Tensor) -> Positives:
    # Labels are mapped to ids that fit into 32 bits: their positions among all labels in sorted order.
    labels = torch.cat([image_labels, text_labels])
    ids = torch.searchsorted(labels.sort().values, labels, out_int32=True)
    return Positives(0, ids[: len(image_labels)], ids[len(image_labels) :])


def with_soft_targets(positives: Positives, dtype: torch.dtype) -> tuple[Positives, Weights]:
    """Add soft targets; also return the weights of means over the images, and texts, that have positives."""

    def count(ids: Tensor, others: Tensor) -> Tensor:
        others = others.sort().values
        return torch.searchsorted(others, ids, right=True) - torch.searchsorted(others, ids)

    _, image_ids, text_ids, *_ = positives
    assert image_ids is not None and text_ids is not None  # noqa: PT018
    positives_of_image, positives_of_text = count(image_ids, text_ids), count(text_ids, image_ids)
    # Each side is half of the loss: the weight of a row is 1 / 2 over the number of rows that have positives.
    images, texts = (n.count_nonzero().to(dtype) for n in (positives_of_image, positives_of_text))
    fewer = torch.minimum(images, texts)
    image_weight = positives_of_image.clamp(max=1) * (fewer / images)
    text_weight = positives_of_text.clamp(max=1) * (fewer / texts)
    positives = positives._replace(
        image_target=image_weight / positives_of_image.clamp(min=1),
        text_target=text_weight / positives_of_text.clamp(min=1),
    )
    return positives, Weights(image_weight, text_weight, 0.5 / fewer)
