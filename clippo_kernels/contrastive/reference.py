"""Contrastive losses of a shard in plain PyTorch, by chunks of rows of the logits.

A shard is R image rows against all B texts, with the pair of image row r in text row `diagonal_offset + r`;
R = B and an offset of 0 where nothing is distributed. A chunk of logits is made, reduced, and dropped, in
the forward as in the backward, so that memory grows with B and never with B * B. Sums and results are
float32 (float64 for float64 embeddings).
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

# What one chunk of logits may take. A few of its size are alive at once; on CPUs they should fit the caches.
CHUNK_BYTES = 4 * 2**20


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def row_chunks(rows: int, columns: int, itemsize: int) -> Iterator[slice]:
    size = max(1, CHUNK_BYTES // (columns * itemsize))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def contrastive_forward(
    image: Tensor, text: Tensor, scale: Tensor, diagonal_offset: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exp of each row (R,) and of each column over these rows (B,), and the positives (R,)."""
    image, text = _accumulated(image, text)
    image = image * scale
    R, B = len(image), len(text)
    row_lse = image.new_empty(R)
    column_lse = image.new_full((B,), -torch.inf)
    for rows in row_chunks(R, B, image.itemsize):
        logits = image[rows] @ text.T
        row_lse[rows] = logits.logsumexp(1)
        torch.logaddexp(column_lse, logits.logsumexp(0), out=column_lse)
    positive = (image * text[diagonal_offset : diagonal_offset + R]).sum(1)
    return row_lse, column_lse, positive


def contrastive_backward(
    image: Tensor, text: Tensor, scale: Tensor, row_lse: Tensor, column_lse: Tensor, diagonal_offset: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `sum(row_lse + column_lse - 2 * positive) / 2B`: (R, D), (B, D), ().

    `column_lse` (B,) is that of all images, not of this shard's alone.
    """
    image, text = _accumulated(image, text)
    R, B = len(image), len(text)
    scaled = image * (scale / (2 * B))
    dimage, dtext = torch.empty_like(image), torch.zeros_like(text)
    for rows in row_chunks(R, B, image.itemsize):
        logits = (image[rows] * scale) @ text.T
        d = _contrastive_dlogits(logits, row_lse[rows, None], column_lse, diagonal_offset + rows.start)
        torch.mm(d, text, out=dimage[rows])
        dtext.addmm_(d.T, scaled[rows])
    # The logits are bilinear, so their sum against d is that of the embeddings against their gradients.
    dscale = (dimage * image).sum() / (2 * B)
    return dimage.mul_(scale / (2 * B)), dtext, dscale


def _contrastive_dlogits(logits: Tensor, row_lse: Tensor, column_lse: Tensor, diagonal: int) -> Tensor:
    """(softmax over the row - identity) + (softmax over the column - identity); `logits` is overwritten."""
    # The identity is taken from each alone: a fitted pair has softmaxes near 1, and their sum near 2 would
    # round away the small difference that is its gradient.
    d_row = (logits - row_lse).exp_()
    d_column = logits.sub_(column_lse).exp_()
    d_row.diagonal(diagonal).sub_(1)
    d_column.diagonal(diagonal).sub_(1)
    return d_row.add_(d_column)


def sigmoid_forward(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, diagonal_offset: int) -> Tensor:
    """Sum over each row of `-log sigmoid(z * logit)`, with z = 1 for the pair and -1 for the others: (R,)."""
    image, text = _accumulated(image, text)
    image = image * scale
    row_loss = image.new_empty(len(image))
    for rows in row_chunks(len(image), len(text), image.itemsize):
        z_logits = (image[rows] @ text.T).add_(bias).neg_()
        z_logits.diagonal(diagonal_offset + rows.start).neg_()
        row_loss[rows] = F.logsigmoid(z_logits).sum(1).neg_()
    return row_loss


def sigmoid_backward(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, diagonal_offset: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `sum(row_loss) / B`: (R, D), (B, D), (), ()."""
    image, text = _accumulated(image, text)
    R, B = len(image), len(text)
    scaled = image * (scale / B)
    dimage, dtext, dbias = torch.empty_like(image), torch.zeros_like(text), image.new_empty(R)
    for rows in row_chunks(R, B, image.itemsize):
        # d = -z * sigmoid(-z * logit)
        d = ((image[rows] * scale) @ text.T).add_(bias)
        diagonal = d.diagonal(diagonal_offset + rows.start)
        diagonal.neg_()
        d.sigmoid_()
        diagonal.neg_()
        torch.mm(d, text, out=dimage[rows])
        dtext.addmm_(d.T, scaled[rows])
        dbias[rows] = d.sum(1)
    dscale = (dimage * image).sum() / B
    return dimage.mul_(scale / B), dtext, dscale, dbias.sum() / B


def _accumulated(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(image.dtype)
    return image.to(dtype), text.to(dtype)
