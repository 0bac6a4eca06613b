"""Launches of the contrastive kernels: allocation, chunks, and the choice between two backwards.

The functions replace those of `eager`, which documents their results.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import tuning
from .._triton import cdiv, launch, with_unit_last_stride
from . import kernels
from .positives import Positives
from .problem import Problem

__all__ = ["backward", "contrastive_forward", "sigmoid_forward"]

LN_2 = 0.6931471805599453

# Limit in bytes on the partial results of the forward, for any batch size.
PARTIAL_BYTES = 64 * 2**20

# Side of a square chunk of the gradient w.r.t. the logits, by its itemsize: the chunks take 61 and 64 MiB.
# 5632 is 44 tiles of 128: at 768 features, each of the two products of a chunk has 264 tiles, twice the
# number of SMs of an H100.
CHUNK = {2: 5632, 4: 4096}


def contrastive_forward(
    image: Tensor, text: Tensor, scale: Tensor, positives: Positives
) -> tuple[Tensor, Tensor, Tensor]:
    image, text = with_unit_last_stride(image), with_unit_last_stride(text)
    R, B, D = len(image), len(text), image.shape[1]
    options = find(forward_kernel("forward", positives), image)
    blocks_b = cdiv(B, options["BLOCK_B"])
    bytes_per_block = 4 * (4 * options["BLOCK_R"] * blocks_b + 2 * B)
    step = options["BLOCK_R"] * max(1, PARTIAL_BYTES // bytes_per_block)
    rows_total, positive = (image.new_empty((2, R), dtype=torch.float32) for _ in range(2))
    # The first row holds the merged columns of earlier chunks.
    columns = image.new_empty((2, 1 + cdiv(min(R, step), options["BLOCK_R"]), B), dtype=torch.float32)
    for rows in chunks(R, step):
        some = positives.block(rows, slice(0, B))
        n = rows.stop - rows.start
        blocks_r = cdiv(n, options["BLOCK_R"])
        partials = image.new_empty((4, blocks_b, n), dtype=torch.float32)
        launch(
            kernels.forward, blocks_r * blocks_b,
            image[rows], text, scale, *some[1:], partials, *columns[:, 1:],
            image.stride(0), text.stride(0), n, B, blocks_r, blocks_b, some.offset, D=D, **options,
        )  # fmt: skip
        combine(partials[:2], rows_total[:, rows])
        combine(columns[:, 1 if rows.start == 0 else 0 : 1 + blocks_r], columns[:, 0])
        torch.sum(partials[2:], 1, out=positive[:, rows])
    row_lse, column_lse = (
        (highest.double() + total.double().log2_()).mul_(LN_2)
        for highest, total in (rows_total, columns[:, 0])
    )
    return row_lse, column_lse, positive.double().sum(0).mul_(LN_2)


def combine(parts: Tensor, whole: Tensor) -> None:
    """Merge maxima and sums of exponentials: `parts` (2, count, width) into `whole` (2, width)."""
    options = find("combine", parts)
    _, count, width = parts.shape
    launch(kernels.combine, cdiv(width, options["BLOCK"]), *parts, *whole, count, width, **options)


def sigmoid_forward(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, positives: Positives
) -> tuple[Tensor, Tensor]:
    image, text = with_unit_last_stride(image), with_unit_last_stride(text)
    R, B, D = len(image), len(text), image.shape[1]
    options = find(forward_kernel("sigmoid_forward", positives), image)
    blocks_b = cdiv(B, options["BLOCK_B"])
    step = options["BLOCK_R"] * max(1, PARTIAL_BYTES // (4 * 2 * options["BLOCK_R"] * blocks_b))
    row_loss, row_dlogits = (image.new_empty(R, dtype=torch.float32) for _ in range(2))
    for rows in chunks(R, step):
        some = positives.block(rows, slice(0, B))
        n = rows.stop - rows.start
        blocks_r = cdiv(n, options["BLOCK_R"])
        partials = image.new_empty((2, blocks_b, n), dtype=torch.float32)
        launch(
            kernels.sigmoid_forward, blocks_r * blocks_b,
            image[rows], text, scale, bias, some.image_ids, some.text_ids, *partials,
            image.stride(0), text.stride(0), n, B, blocks_r, blocks_b, some.offset, D=D, **options,
        )  # fmt: skip
        torch.sum(partials[0], 0, out=row_loss[rows])
        torch.sum(partials[1], 0, out=row_dlogits[rows])
    return row_loss, row_dlogits


def backward(
    problem: Problem, image_dtype: torch.dtype, text_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    image, text = with_unit_last_stride(problem.image), with_unit_last_stride(problem.text)
    problem = problem._replace(
        image=image,
        text=text,
        row_shift=split_shift(problem.row_shift),
        column_shift=split_shift(problem.column_shift),
    )
    dimage = image.new_empty(image.shape, dtype=image_dtype)
    dtext = text.new_empty(text.shape, dtype=text_dtype)
    in_kernel = tuning.find("contrastive.gradient", image.device, image.dtype, channels=image.shape[1])
    if in_kernel is None:
        row_dot = backward_by_chunks(problem, dimage, dtext)
    else:
        row_dot = backward_in_kernel(problem, dimage, dtext, in_kernel)
    # The logits are bilinear in the embeddings: sum(d * (image @ text.T)) equals sum((d @ text) * image).
    dscale = row_dot.sum(dtype=torch.float64) * problem.factor
    return dimage, dtext, dscale.to(problem.scale.dtype)


def split_shift(lse: Tensor | None) -> Tensor | None:
    """Split a log-sum-exp (R,), in units of log2, into a float32 and its rounding error: (R, 2) float32."""
    if lse is None:
        return None
    lse = lse / LN_2
    rounded = lse.float()
    return torch.stack([rounded, (lse - rounded).nan_to_num_(0.0).float()], 1)  # inf - inf is NaN


def backward_in_kernel(problem: Problem, dimage: Tensor, dtext: Tensor, options: dict[str, int]) -> Tensor:
    """Fill dimage and dtext; return the product of each image with its gradient, before `factor` (R,)."""

    def gradient(problem: Problem, dx: Tensor) -> Tensor:
        x, y, scale, bias, factor, x_shift, y_shift, pairs = problem
        R, D = x.shape
        row_dot = x.new_empty(R, dtype=torch.float32)
        launch(
            kernels.gradient, cdiv(R, options["BLOCK_R"]),
            x, y, scale, bias, factor, *pairs[1:], x_shift, y_shift, dx, row_dot,
            x.stride(0), y.stride(0), R, len(y), pairs.offset,
            GAIN=gain(x.dtype), D=D, WIDTH=max(16, 1 << (D - 1).bit_length()), **options,
        )  # fmt: skip
        return row_dot

    gradient(problem.transposed(), dtext)
    return gradient(problem, dimage)


def backward_by_chunks(problem: Problem, dimage: Tensor, dtext: Tensor) -> Tensor:
    """Same as `backward_in_kernel`, but store the gradient w.r.t. the logits, one square chunk at a time."""
    image = problem.image
    R, B, D = len(image), len(problem.text), image.shape[1]
    side = CHUNK[image.itemsize]
    memory = image.new_empty(min(side, R) * min(side, B))
    image_total = image.new_empty((min(side, R), D), dtype=torch.float32)
    text_total = dtext if dtext.dtype == torch.float32 else torch.empty_like(dtext, dtype=torch.float32)
    text_total.zero_()
    row_dot = image_total.new_empty(R)
    final = problem.scale * problem.factor / gain(image.dtype)
    for rows in chunks(R, side):
        total = image_total[: rows.stop - rows.start].zero_()
        for columns in chunks(B, side):
            some = problem.block(rows, columns)
            d = dlogits(some, memory)
            add_product(total, d, some.text)
            add_product(text_total[columns], d.T, some.image)
        torch.sum(total * image[rows], 1, out=row_dot[rows])
        dimage[rows] = total.mul_(final)
    text_total.mul_(final)
    if text_total is not dtext:
        dtext.copy_(text_total)
    return row_dot.div_(gain(image.dtype))


def dlogits(problem: Problem, memory: Tensor) -> Tensor:
    """Gradient w.r.t. the logits (R, B), before `factor` and times `gain`, stored in `memory`."""
    image, text, scale, bias, _, row_shift, column_shift, pairs = problem
    R, B, D = len(image), len(text), image.shape[1]
    options = find("dlogits", image)
    out = memory[: R * B].view(R, B)
    blocks_r, blocks_b = cdiv(R, options["BLOCK_R"]), cdiv(B, options["BLOCK_B"])
    launch(
        kernels.dlogits, blocks_r * blocks_b,
        image, text, scale, bias, *pairs[1:], row_shift, column_shift, out,
        image.stride(0), text.stride(0), R, B, blocks_r, blocks_b, pairs.offset,
        GAIN=gain(image.dtype), D=D, **options,
    )  # fmt: skip
    return out


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Compute total += a @ b, accumulated in float32 like `total`."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    elif total.device.type == "cpu":  # CPUs do not support out_dtype
        total.addmm_(a.float(), b.float())
    elif not total.is_meta:  # torch 2.11 raises a TypeError for meta tensors; their sums are not read
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)


def gain(dtype: torch.dtype) -> float:
    """Factor on the stored gradient w.r.t. the logits.

    The gradient is at most 2 in magnitude; for a large batch it is below the normal numbers of float16.
    """
    return 2.0**13 if dtype == torch.float16 else 1.0


def chunks(size: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def forward_kernel(name: str, positives: Positives) -> str:
    """Name of a forward kernel's rows: labels take registers, so the tiles with labels are smaller."""
    return name if positives.image_ids is None else f"{name}_labelled"


def find(kernel: str, x: Tensor) -> dict[str, int]:
    options = tuning.find(f"contrastive.{kernel}", x.device, x.dtype)
    assert options is not None, "the last row of a table takes all sizes"
    return options
