"""Inputs of a backward: everything needed to recompute a block of the gradient w.r.t. the logits."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .positives import Positives

__all__ = ["Problem"]


class Problem(NamedTuple):
    """R images and B texts, with logits of `scale` times their dot products.

    The gradient w.r.t. the logits is `factor` times

    - with a `bias` (sigmoid loss): `sigmoid(logits + bias)`, minus 1 for positives;
    - without: `exp(logits - row_shift) + exp(logits - column_shift)`, minus the soft targets of positives. A
      shift is a log-sum-exp, minus the logarithm of the weight of its softmax.
    """

    image: Tensor  # (R, D)
    text: Tensor  # (B, D)
    scale: Tensor  # ()
    bias: Tensor | None  # ()
    factor: Tensor  # ()
    row_shift: Tensor | None  # (R, ...)
    column_shift: Tensor | None  # (B, ...)
    positives: Positives

    def block(self, rows: slice, columns: slice) -> Problem:
        """The problem of the images `rows` and the texts `columns`."""
        return self._replace(
            image=self.image[rows],
            text=self.text[columns],
            row_shift=None if self.row_shift is None else self.row_shift[rows],
            column_shift=None if self.column_shift is None else self.column_shift[columns],
            positives=self.positives.block(rows, columns),
        )

    def transposed(self) -> Problem:
        return self._replace(
            image=self.text,
            text=self.image,
            row_shift=self.column_shift,
            column_shift=self.row_shift,
            positives=self.positives.transposed(),
        )
