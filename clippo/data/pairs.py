"""The first sides of the pairs of a batch: images, and texts that stand in their place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clippo.model.packing import PackedPatches

__all__ = ["FirstSides"]


@dataclass(frozen=True)
class FirstSides:
    """The first sides of B pairs, of which some are images and the others texts.

    It has a length and can be split, as a tensor of B rows can.

    Attributes:
        images: (I, S, S, 3) uint8, those of the pairs that have one, in their order.
        texts: of the other B - I pairs, in their order; as `Batch.texts`.
        text_mask: as `Batch.text_mask`, of these texts.
        is_text: (B,) bool, whether the first side is a text; on the CPU.
    """

    images: Tensor
    texts: Tensor | PackedPatches
    text_mask: Tensor | None
    is_text: Tensor

    @property
    def device(self) -> torch.device:
        return self.images.device

    @property
    def order(self) -> Tensor:
        """(B,) int64, the row of each pair among the I images followed by the B - I texts."""
        is_text = self.is_text
        image_row, text_row = (~is_text).cumsum(0) - 1, is_text.cumsum(0) - 1
        return torch.where(is_text, len(self.images) + text_row, image_row)

    def __len__(self) -> int:
        return len(self.is_text)

    def split(self, size: int) -> list[FirstSides]:
        """Split into parts of `size` pairs."""
        parts, images, texts = [], 0, 0
        for is_text in self.is_text.split(size):
            num_texts = int(is_text.sum())
            own_images = slice(images, images + len(is_text) - num_texts)
            own_texts = slice(texts, texts + num_texts)
            mask = None if self.text_mask is None else self.text_mask[own_texts]
            parts.append(FirstSides(self.images[own_images], self.texts[own_texts], mask, is_text))
            images, texts = own_images.stop, own_texts.stop
        return parts

    def pin_memory(self) -> FirstSides:
        """Copy to memory from which a GPU reads faster; torch's DataLoader calls this."""
        mask = None if self.text_mask is None else self.text_mask.pin_memory()
        return FirstSides(self.images.pin_memory(), self.texts.pin_memory(), mask, self.is_text)
