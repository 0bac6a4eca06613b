"""Launches of the patch embedding kernels: allocation, strides, and how sums are split.

Images are (B, C, H, W) with any strides, weights are (D, 3, P, P), lists of patches are (T, 2) or None for
all patches, and tokens and their gradients are (M, D) with M = B N or T.
"""

from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from .. import tuning
from .._triton import cdiv, launch, num_sms
from . import kernels
from .normalization import Normalization, fold

__all__ = ["forward", "position_gradient", "weight_gradient"]

PRODUCT_DTYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}

# Target number of programs per SM of a split sum: as many as fit at a time or, for kernels that only read, as
# many as keep the memory busy.
PRODUCT_PROGRAMS, READING_PROGRAMS = 2, 4


def forward(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pos_embed: Tensor | None,
    keep_indices: Tensor | None,
    mean: list[float],
    std: list[float],
    dtype: torch.dtype,
    out_dtype: torch.dtype,
) -> Tensor:
    problem = problem_of(images, weight, keep_indices, mean, std)
    M, D = problem.M, len(weight)
    out = images.new_empty((M, D), dtype=out_dtype)
    if out.numel() == 0:
        return out
    options = problem.options("forward", images, dtype)
    pitch = cdiv(problem.K, options["BLOCK_K"]) * options["BLOCK_K"]
    prepared = images.new_empty((D, pitch), dtype=dtype)
    shift = images.new_empty(D, dtype=torch.float32)
    _, _, scale, factors, shifts = problem.normalization
    launch(
        kernels.prepare, D, weight, contiguous(bias), prepared, shift, weight.stride(), factors, shifts,
        PITCH=pitch, **problem.order, **problem.options("prepare", images, dtype),
    )  # fmt: skip
    programs = cdiv(M, options["BLOCK_M"]) * cdiv(D, options["BLOCK_D"])
    launch(
        kernels.forward, programs,
        images, prepared, shift, contiguous(pos_embed), out, keep_indices,
        problem.stride, M, len(images), problem.N, problem.grid_width, scale, *problem.statistics,
        D=D, PITCH=pitch, **problem.order, **problem.reading, **options,
    )  # fmt: skip
    return out


def weight_gradient(
    dout: Tensor,
    images: Tensor,
    weight: Tensor,
    dbias: Tensor,
    keep_indices: Tensor | None,
    mean: list[float],
    std: list[float],
    dtype: torch.dtype,
) -> Tensor:
    """Gradient w.r.t. the weight, shaped like it. `dbias` (D,) is the float32 sum of all rows of `dout`."""
    problem = problem_of(images, weight, keep_indices, mean, std)
    M, D = problem.M, len(weight)
    dweight = torch.empty_like(weight)
    if dweight.numel() == 0 or M == 0:
        return dweight.zero_()
    options = problem.options("weight_gradient", images, dtype)
    pitch = cdiv(problem.K, options["BLOCK_K"]) * options["BLOCK_K"]
    tiles = cdiv(D, options["BLOCK_D"]) * (pitch // options["BLOCK_K"])
    splits, rows = split(M, options["BLOCK_M"], tiles, PRODUCT_PROGRAMS, images.device)
    partials = images.new_empty((splits, D, pitch), dtype=torch.float32)
    launch(
        kernels.weight_gradient, splits * tiles,
        dout.contiguous(), images, partials, keep_indices,
        problem.stride, M, problem.N, problem.grid_width, rows, *problem.statistics, PRODUCT_DTYPES[dtype],
        D=D, PITCH=pitch, **problem.order, **problem.reading, **options,
    )  # fmt: skip
    options = problem.options("finish", images, dtype)
    _, _, scale, factors, shifts = problem.normalization
    launch(
        kernels.finish, D * cdiv(problem.K, options["BLOCK"]),
        partials, dbias, dweight, dweight.stride(), splits, scale, factors, shifts, D,
        PITCH=pitch, **problem.order, **options,
    )  # fmt: skip
    return dweight


def position_gradient(dout: Tensor, keep_indices: Tensor | None, N: int) -> Tensor:
    """Sum of the gradients of the tokens at each position: (N, D), float32."""
    M, D = dout.shape
    if dout.numel() == 0:
        return dout.new_zeros((N, D), dtype=torch.float32)
    dout = dout.contiguous()
    if keep_indices is None:
        options = find("position_gradient", dout, dout.dtype)
        row = N * D
        blocks = cdiv(row, options["BLOCK_E"])
        splits, rows = split(M // N, options["BLOCK_B"], blocks, READING_PROGRAMS, dout.device)
        partials = dout.new_empty((splits, N, D), dtype=torch.float32)
        launch(kernels.position_gradient, splits * blocks, dout, partials, M // N, row, rows, **options)
    else:
        options = find("position_gradient_select", dout, dout.dtype)
        blocks_n = cdiv(N, options["BLOCK_N"])
        tiles = blocks_n * cdiv(D, options["BLOCK_D"])
        splits, rows = split(M, options["BLOCK_M"], tiles, PRODUCT_PROGRAMS, dout.device)
        partials = dout.new_empty((splits, N, D), dtype=torch.float32)
        launch(
            kernels.position_gradient_select, splits * tiles,
            dout, keep_indices, partials, M, N, blocks_n, rows, D=D, **options,
        )  # fmt: skip
    return partials[0] if splits == 1 else partials.sum(0)


# ---------------------------------------------------------------------------------------------------------
# Shared by the launches


class Problem(NamedTuple):
    """M patches of K pixels, from images with N patches each."""

    M: int
    N: int
    K: int
    grid_width: int
    stride: tuple[int, ...]  # of the images: (b, c, h, w)
    normalization: Normalization
    order: dict[str, Any]  # constants of all kernels that index pixels
    reading: dict[str, Any]  # constants of the kernels that read images

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and inverse std of floating pixels."""
        return self.normalization.mean, tuple(1 / s for s in self.normalization.std)

    def options(self, kernel: str, images: Tensor, dtype: torch.dtype) -> dict[str, int]:
        if self.reading["SELECT"] and kernel in ("forward", "weight_gradient"):
            kernel += "_select"
        return find(kernel, images, dtype, pixel_bytes=images.itemsize, pixels=self.K)


def problem_of(
    images: Tensor, weight: Tensor, keep_indices: Tensor | None, mean: list[float], std: list[float]
) -> Problem:
    B, C, H, W = images.shape
    P = weight.shape[-1]
    # The stride of an axis of length 1 is arbitrary; 0 keeps it from deciding alignment.
    stride = tuple(s if n > 1 else 0 for s, n in zip(images.stride(), images.shape, strict=True))
    N, grid_width = (H // P) * (W // P), W // P
    normalization = fold(mean, std, of_bytes=images.dtype == torch.uint8, channels=C)
    channels_last = C == 3 and stride[1] == 1 and stride[3] == 3
    return Problem(
        B * N if keep_indices is None else len(keep_indices),
        N,
        C * P * P,
        grid_width,
        stride,
        normalization,
        order={"C": C, "P": P, "CHANNELS_LAST": channels_last},
        reading={"NORMALIZE": normalization.changes_pixels, "SELECT": keep_indices is not None},
    )


def find(kernel: str, x: Tensor, dtype: torch.dtype, **sizes: int) -> dict[str, int]:
    options = tuning.find(f"patch_embed.{kernel}", x.device, dtype, **sizes)
    assert options is not None, "the last row of a table takes all sizes"
    return options


def split(rows: int, block: int, tiles: int, programs: int, device: torch.device) -> tuple[int, int]:
    """Return the number of parts of a sum over rows, and the rows per part: a multiple of `block`.

    All parts of all `tiles` together are about `programs` programs per SM.
    """
    parts = max(1, programs * num_sms(device) // tiles)
    rows_per_part = cdiv(cdiv(rows, parts), block) * block
    return cdiv(rows, rows_per_part), rows_per_part


def contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()
