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

__all__ = ["backward", "contrastive_forward", "sigmoid_forward", "total"]

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
    options = find(forward_kernel("forward", positives), image.device, image.dtype)
    merging = find("combine", image.device, torch.float32)
    blocks_b = cdiv(B, options["BLOCK_B"])
    bytes_per_block = 4 * (4 * options["BLOCK_R"] * blocks_b + 2 * B)
    step = options["BLOCK_R"] * max(1, PARTIAL_BYTES // bytes_per_block)
    row_lse, column_lse, positive = (image.new_empty(n, dtype=torch.float64) for n in (R, B, R))
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
        parts = columns[:, 1 if rows.start == 0 else 0 : 1 + blocks_r]
        launch(
            kernels.combine, programs(n, B, merging["BLOCK"]),
            partials, *parts, *columns[:, 0], row_lse[rows], positive[rows], column_lse,
            blocks_b, parts.shape[1], n, B, **merging,
        )  # fmt: skip
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
    out = x.new_empty((), dtype=dtype)
    options = find("total", x.device, torch.float64)
    launch(
        kernels.total, 1, x, x_weight, y, y_weight, subtracted, factor, out,
        len(x), 0 if y is None else len(y), divisor, **options,
    )  # fmt: skip
    return out


def programs(R: int, B: int, size: int) -> int:
    """Programs of `size` rows or columns each, of which none has both."""
    return cdiv(R, size) + cdiv(B, size)


def sigmoid_forward(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, positives: Positives) -> Tensor:
    image, text = with_unit_last_stride(image), with_unit_last_stride(text)
    R, B, D = len(image), len(text), image.shape[1]
    options = find(forward_kernel("sigmoid_forward", positives), image.device, image.dtype)
    blocks_b = cdiv(B, options["BLOCK_B"])
    step = options["BLOCK_R"] * max(1, PARTIAL_BYTES // (4 * 2 * options["BLOCK_R"] * blocks_b))
    sums = image.new_empty((2, R), dtype=torch.float32)
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
        torch.sum(partials, 1, out=sums[:, rows])
    return sums


def backward(
    problem: Problem, image_dtype: torch.dtype, text_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    image, text = with_unit_last_stride(problem.image), with_unit_last_stride(problem.text)
    problem = with_split_shifts(problem._replace(image=image, text=text))
    dimage = image.new_empty(image.shape, dtype=image_dtype)
    dtext = text.new_empty(text.shape, dtype=text_dtype)
    in_kernel = tuning.find("contrastive.gradient", image.device, image.dtype, channels=image.shape[1])
    if in_kernel is None:
        row_dot = backward_by_chunks(problem, dimage, dtext)
    else:
        row_dot = backward_in_kernel(problem, dimage, dtext, in_kernel)
    # The logits are bilinear in the embeddings: sum(d * (image @ text.T)) equals sum((d @ text) * image).
    return dimage, dtext, total(row_dot, problem.scale.dtype, factor=problem.factor)


def with_split_shifts(problem: Problem) -> Problem:
    """Split the log-sum-exps into (R, 2) and (B, 2) float32, in units of log2: see `kernels.split`."""
    row_lse, column_lse = problem.row_shift, problem.column_shift
    if row_lse is None or column_lse is None:
        return problem
    shifts = [lse.new_empty((len(lse), 2), dtype=torch.float32) for lse in (row_lse, column_lse)]
    options = find("split", row_lse.device, row_lse.dtype)
    R, B = len(row_lse), len(column_lse)
    launch(
        kernels.split, programs(R, B, options["BLOCK"]),
        row_lse.contiguous(), column_lse.contiguous(), *shifts, R, B, **options,
    )  # fmt: skip
    return problem._replace(row_shift=shifts[0], column_shift=shifts[1])


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
    memory = image.new_empty(min(side, R) * aligned(min(side, B)))
    image_total = image.new_empty((min(side, R), D), dtype=torch.float32)
    text_total = dtext if dtext.dtype == torch.float32 else torch.empty_like(dtext, dtype=torch.float32)
    row_dot = image_total.new_empty(R)
    options = find("finish", image.device, image.dtype)
    for rows in chunks(R, side):
        n = rows.stop - rows.start
        for columns in chunks(B, side):
            some = problem.block(rows, columns)
            d = dlogits(some, memory)
            set_or_add_product(image_total[:n], d, some.text, is_first=columns.start == 0)
            set_or_add_product(text_total[columns], d.T, some.image, is_first=rows.start == 0)
        finished = B if rows.stop == R else 0  # texts have their sums after the last chunk
        launch(
            kernels.finish, programs(n, finished, options["ROWS"]),
            image_total, text_total[:finished], image[rows], problem.scale, problem.factor,
            dimage[rows], dtext[:finished], row_dot[rows], image.stride(0), n, finished,
            GAIN=gain(image.dtype), D=D, **options,
        )  # fmt: skip
    return row_dot


def dlogits(problem: Problem, memory: Tensor) -> Tensor:
    """Gradient w.r.t. the logits (R, B), before `factor` and times `gain`, stored in `memory`."""
    image, text, scale, bias, _, row_shift, column_shift, pairs = problem
    R, B, D = len(image), len(text), image.shape[1]
    options = find("dlogits", image.device, image.dtype)
    pitch = aligned(B)
    out = memory[: R * pitch].view(R, pitch)
    blocks_r, blocks_b = cdiv(R, options["BLOCK_R"]), cdiv(B, options["BLOCK_B"])
    launch(
        kernels.dlogits, blocks_r * blocks_b,
        image, text, scale, bias, *pairs[1:], row_shift, column_shift, out,
        image.stride(0), text.stride(0), R, B, pitch, blocks_r, blocks_b, pairs.offset,
        GAIN=gain(image.dtype), D=D, **options,
    )  # fmt: skip
    return out[:, :B]


def aligned(columns: int) -> int:
    """Elements from row to row of a stored matrix, so that every row starts at a multiple of 32 bytes."""
    return cdiv(columns, 16) * 16


def set_or_add_product(total: Tensor, a: Tensor, b: Tensor, is_first: bool) -> None:
    """Compute total += a @ b, or total = a @ b if `is_first`, accumulated in float32 like `total`."""
    beta = 0 if is_first else 1
    if a.dtype == total.dtype:
        total.addmm_(a, b, beta=beta)
    elif total.device.type == "cpu":  # CPUs do not support out_dtype
        total.addmm_(a.float(), b.float(), beta=beta)
    elif not total.is_meta:  # torch 2.11 raises a TypeError for meta tensors; their sums are not read
        torch.addmm(total, a, b, out_dtype=total.dtype, beta=beta, out=total)


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


def find(kernel: str, device: torch.device, dtype: torch.dtype) -> dict[str, int]:
    options = tuning.find(f"contrastive.{kernel}", device, dtype)
    assert options is not None, "the last row of a table takes all sizes"
    return options
