"""Contrastive losses in plain PyTorch, in blocks of the logits.

There are R images and B texts; R = B if the batch is not distributed. A block of logits is computed, reduced
and dropped, in the forward and in the backward, so that memory grows with R + B and never with R * B. A block
is large enough for its product to run at full speed, and small enough that the block and a copy of it fit the
caches of a CPU. Sums are float32 (float64 for float64 embeddings).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .positives import Positives
from .problem import Problem

__all__ = ["accumulation_dtype", "wide_dtype"]

BLOCK = 1024

# exp(-60) is a normal float32: if the logits of a block span less, its rows and columns can share one
# exponential without underflow.
NARROW = 60.0


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def wide_dtype(x: Tensor) -> torch.dtype:
    """float64, or float32 on a device without float64."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def parts(size: int) -> Iterator[slice]:
    for start in range(0, size, BLOCK):
        yield slice(start, min(start + BLOCK, size))


def contrastive_forward(
    image: Tensor, text: Tensor, scale: Tensor, positives: Positives
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log-sum-exp of each row (R,) and each column (B,) of the logits, and sums of positives (R,).

    The third result sums the positive logits of each row, each times the sum of the soft targets of its image
    and its text. All are float64: the logit of a confident pair is nearly the log-sum-exp, and the loss and
    the gradient depend on the digits in which they differ.
    """
    dtype, wide = accumulation_dtype(image.dtype), wide_dtype(image)
    R, B = len(image), len(text)
    row_lse, positive = image.new_full((R,), -torch.inf, dtype=wide), image.new_zeros(R, dtype=wide)
    column_lse = image.new_full((B,), -torch.inf, dtype=wide)
    for rows in parts(R):
        image_rows = image[rows].to(dtype)
        for columns in parts(B):
            logits = (image_rows @ text[columns].to(dtype).T).mul_(scale)
            block = positives.block(rows, columns)
            i, j = block.indices(logits)
            weighted = logits[i, j] * (target(block.image_target, i) + target(block.text_target, j))
            # In this dtype, index_put_ accumulates in a fixed order, also for several positives of a row.
            positive[rows].index_put_((i,), weighted.to(wide), accumulate=True)
            add_to_lse(logits, row_lse[rows], column_lse[columns])
    return row_lse, column_lse, positive


def total(
    x: Tensor,
    dtype: torch.dtype,
    x_weight: Tensor | None = None,
    y: Tensor | None = None,
    y_weight: Tensor | None = None,
    subtracted: Tensor | None = None,
    factor: Tensor | None = None,
    divisor: int = 1,
) -> Tensor:
    """Weighted sums of x (R,) and y (B,), minus the sum of `subtracted` (R,), accumulated in float64: ().

    The result is multiplied by `factor` () and divided by `divisor`.
    """
    result = weighted_sum(x, x_weight)
    if y is not None:
        result = result + weighted_sum(y, y_weight)
    if subtracted is not None:
        result = result - weighted_sum(subtracted, None)
    if factor is not None:
        result = result * factor
    return (result / divisor).to(dtype)


def weighted_sum(x: Tensor, weight: Tensor | None) -> Tensor:
    x = x.to(wide_dtype(x))
    return x.sum() if weight is None else (x * weight).sum()


def target(targets: Tensor | None, index: Tensor) -> Tensor | float:
    return 1.0 if targets is None else targets[index]


def add_to_lse(logits: Tensor, row_lse: Tensor, column_lse: Tensor) -> None:
    """Merge a block into the log-sum-exps of its rows and columns; `logits` are overwritten."""
    highest = logits.amax()
    if highest - torch.minimum(logits.amax(1).min(), logits.amax(0).min()) < NARROW:
        # Rows and columns share one exponential.
        p = logits.sub_(highest).exp_()
        row, column = (p.sum(axis).to(row_lse.dtype).log_().add_(highest) for axis in (1, 0))
    else:
        row, column = (accurate_lse(logits, axis) for axis in (1, 0))
    torch.logaddexp(row_lse, row, out=row_lse)
    torch.logaddexp(column_lse, column, out=column_lse)


def accurate_lse(logits: Tensor, axis: int) -> Tensor:
    highest = logits.amax(axis, keepdim=True)
    total = (logits - highest).exp_().sum(axis).to(wide_dtype(logits))
    return total.log_().add_(highest.squeeze(axis))


def contrastive_dlogits(
    logits: Tensor, row_shift: Tensor, column_shift: Tensor, positives: Positives
) -> Tensor:
    """Compute exp(logits - row_shift) + exp(logits - column_shift) - targets; `logits` are overwritten."""
    i, j = positives.indices(logits)
    # For confident pairs the softmax p is close to 1 and the gradient is p - 1: it is subtracted in float64,
    # before it is rounded to float32.
    of_positives = logits[i, j].to(row_shift.dtype)
    of_positives = ((of_positives - row_shift[i]).exp_() - target(positives.image_target, i)) + (
        (of_positives - column_shift[j]).exp_() - target(positives.text_target, j)
    )
    highest = logits.amax()
    if highest - torch.minimum(row_shift.min(), column_shift.min()) < NARROW:
        row, column = ((highest - shift).exp_().to(logits.dtype) for shift in (row_shift, column_shift))
        d = logits.sub_(highest).exp_().mul_(row[:, None] + column)
    else:
        d = exp_of_difference(logits.clone(), row_shift[:, None])
        d.add_(exp_of_difference(logits, column_shift))
    d[i, j] = of_positives.to(d.dtype)
    return d


def exp_of_difference(logits: Tensor, shift: Tensor) -> Tensor:
    """Compute exp(logits - shift) for a shift with more digits than the logits, which are overwritten.

    Next to a large shift the digits that its rounding drops are not small: near 3,000, where float32 steps by
    2.4e-4, they would change the exponential by up to 1.2e-4 of itself.
    """
    rounded = shift.to(logits.dtype)
    return logits.sub_(rounded).sub_((shift - rounded).to(logits.dtype)).exp_()


def sigmoid_forward(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, positives: Positives) -> Tensor:
    """Return two sums over each row (2, R): of the loss, and of its derivative w.r.t. the logit.

    The loss of a pair is `-log sigmoid(z * logit)`, with z = 1 for positives and -1 for negatives.
    """
    dtype = accumulation_dtype(image.dtype)
    sums = image.new_zeros((2, len(image)), dtype=dtype)
    for rows in parts(len(image)):
        image_rows = image[rows].to(dtype)
        for columns in parts(len(text)):
            logits = (image_rows @ text[columns].to(dtype).T).mul_(scale).add_(bias)
            i, j = positives.block(rows, columns).indices(logits)
            minus_z_logits = logits.clone()
            minus_z_logits[i, j] *= -1
            sums[0, rows] += F.softplus(minus_z_logits, threshold=40.0).sum(1)
            sums[1, rows] += sigmoid_dlogits(logits, i, j).sum(1)
    return sums


def sigmoid_dlogits(logits: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Compute -z * sigmoid(-z * logits), z = 1 at (i, j) and -1 elsewhere; `logits` are overwritten."""
    of_positives = -(-logits[i, j]).sigmoid()
    d = logits.sigmoid_()
    d[i, j] = of_positives
    return d


def backward(
    problem: Problem, image_dtype: torch.dtype, text_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients w.r.t. image (R, D), text (B, D) and the scale."""
    image, text, scale, _, factor, *_ = problem
    dtype = accumulation_dtype(image.dtype)
    dimage, dtext = image.new_empty(image.shape, dtype=image_dtype), text.new_zeros(text.shape, dtype=dtype)
    dscale = scale.new_zeros((), dtype=wide_dtype(image))
    for rows in parts(len(image)):
        image_rows = image[rows].to(dtype)
        total = torch.zeros_like(image_rows)
        for columns in parts(len(text)):
            text_columns = text[columns].to(dtype)
            d = dlogits((image_rows @ text_columns.T).mul_(scale), problem.block(rows, columns))
            total.addmm_(d, text_columns)
            dtext[columns].addmm_(d.T, image_rows)
        # The logits are bilinear in the embeddings: sum(d * (image @ text.T)) equals sum((d @ text) * image).
        dscale += torch.linalg.vecdot(total, image_rows).sum(dtype=dscale.dtype)
        dimage[rows] = total.mul_(scale * factor)
    return dimage, dtext.mul_(scale * factor).to(text_dtype), (dscale * factor).to(dtype)


def dlogits(logits: Tensor, problem: Problem) -> Tensor:
    """Gradient w.r.t. the logits, before multiplication by `factor`; `logits` are overwritten."""
    if problem.bias is not None:
        return sigmoid_dlogits(logits.add_(problem.bias), *problem.positives.indices(logits))
    assert problem.row_shift is not None and problem.column_shift is not None  # noqa: PT018
    return contrastive_dlogits(logits, problem.row_shift, problem.column_shift, problem.positives)
