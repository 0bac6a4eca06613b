"""Patch embedding in plain PyTorch: one copy of the pixels into patches, then one GEMM."""

import torch
from torch import Tensor

from .normalization import Normalization, fold

__all__ = ["image_gradient", "patch_embed"]


def patch_embed(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pos_embed: Tensor | None,
    keep_indices: Tensor | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dtype: torch.dtype,
    out_dtype: torch.dtype,
) -> Tensor:
    """Tokens (B, N, D) of images (B, C, H, W), or (T, D) of the patches listed in `keep_indices` (T, 2).

    `weight` is (D, 3, P, P), `bias` is (D,) and `pos_embed` is (N, D). The GEMM runs in `dtype`.
    """
    (B, C, _, _), (D, _, P, _) = images.shape, weight.shape
    normalization = fold(mean, std, of_bytes=images.dtype == torch.uint8, channels=C)
    patches = patches_of(images, P, keep_indices)
    # Channels keep their order in memory, so that the copy moves contiguous runs that are as long as
    # possible.
    channels_last = images.stride(1) == 1
    if channels_last:
        patches = patches.movedim(-3, -1)
    if images.dtype == torch.uint8:
        patches = patches.flatten(-3)
        # Flipping the top bit turns a pixel into the int8 `pixel - 128`.
        patches = (patches ^ 128).view(torch.int8)
    else:
        patches = normalize(patches, normalization, dtype, channels_last).flatten(-3)

    weight = wide(weight)
    folded = fold_weight(weight, normalization, C)
    if channels_last:
        folded = folded.movedim(1, 3)
    rows, columns = patches.flatten(0, -2).to(dtype), folded.flatten(1).to(dtype).mT
    # Zeros, although beta is 0: torch.func.vmap multiplies them by it, and NaN times 0 is NaN.
    tokens = torch.addmm(rows.new_zeros(D), rows, columns, beta=0, alpha=normalization.scale)
    # This is not a view for autograd, so that the in-place addition below needs no second copy of the tokens.
    shape = (B, patches.shape[1] * patches.shape[2], D) if keep_indices is None else (patches.shape[0], D)
    tokens = torch.ops.aten._unsafe_view(tokens, shape).to(out_dtype)

    added = (weight * per_channel(normalization.shifts, weight)).sum((1, 2, 3))
    if bias is not None:
        added = added + bias
    if pos_embed is not None:
        added = added + (pos_embed if keep_indices is None else select_rows(pos_embed, keep_indices[:, 1]))
    out: Tensor = tokens.add_(added)
    return out


def image_gradient(
    dout: Tensor,
    images: Tensor,
    weight: Tensor,
    keep_indices: Tensor | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dtype: torch.dtype,
) -> Tensor:
    """Gradient w.r.t. floating images, written out for a forward that leaves no graph."""
    B, C, H, W = images.shape
    P = weight.shape[-1]
    normalization = fold(mean, std, of_bytes=False, channels=C)
    folded = fold_weight(wide(weight), normalization, C).flatten(1).to(dtype)
    dpatches = wide(dout.to(dtype) @ folded).reshape(*dout.shape[:-1], C, P, P)
    dpatches = dpatches / per_channel(normalization.std[:C], dpatches)
    grid = (B, H // P, W // P, C, P, P)
    if keep_indices is None:
        dpatches = dpatches.view(grid)
    else:
        N = grid[1] * grid[2]
        dpatches = sum_rows(dpatches, flat_index(keep_indices, N), B * N).view(grid)
    return dpatches.permute(0, 3, 1, 4, 2, 5).reshape(images.shape).to(images.dtype)


def select_rows(x: Tensor, index: Tensor) -> Tensor:
    """Return `x[index]`, whose gradient is accumulated in a fixed order.

    On CPUs, the gradient of indexing is accumulated atomically by several threads and that of `index_select`
    is not; on GPUs it is the other way round.
    """
    return x.index_select(0, index) if x.device.type == "cpu" else x[index]


def sum_rows(x: Tensor, index: Tensor, rows: int) -> Tensor:
    """Sum the rows of `x` with the same index, in a fixed order (see `select_rows`): (rows, ...)."""
    out = x.new_zeros(rows, *x.shape[1:])
    return out.index_add_(0, index, x) if x.device.type == "cpu" else out.index_put_((index,), x, True)


def patches_of(images: Tensor, P: int, keep_indices: Tensor | None) -> Tensor:
    """Return all patches, (B, H / P, W / P, C, P, P), or those of a list, (T, C, P, P).

    All patches keep the memory layout of the images.
    """
    B, C, H, W = images.shape
    grid = images.reshape(B, C, H // P, P, W // P, P).permute(0, 2, 4, 1, 3, 5)
    if keep_indices is None:
        return grid
    if images.requires_grad:
        return select_rows(grid.flatten(0, 2), flat_index(keep_indices, grid.shape[1] * grid.shape[2]))
    # Indexing reads only the listed patches from the strided view.
    image, position = keep_indices.unbind(1)
    return grid[image, position // (W // P), position % (W // P)]


def flat_index(keep_indices: Tensor, patches: int) -> Tensor:
    """Index of each listed patch among the patches of all images, `patches` per image: (T,) int64."""
    image, position = keep_indices.unbind(1)
    return image.long() * patches + position


def normalize(
    patches: Tensor, normalization: Normalization, dtype: torch.dtype, channels_last: bool
) -> Tensor:
    """Normalise patches (..., C, P, P), or (..., P, P, C) if `channels_last`, in at least float32."""
    if not normalization.changes_pixels:
        return patches
    patches = wide(patches.to(torch.promote_types(patches.dtype, dtype)))
    C = patches.shape[-1 if channels_last else -3]
    mean, std = (per_channel(x[:C], patches) for x in (normalization.mean, normalization.std))
    if channels_last:
        mean, std = mean.flatten(), std.flatten()
    return (patches - mean) / std


def fold_weight(weight: Tensor, normalization: Normalization, C: int) -> Tensor:
    """Fold the normalisation into a weight (D, 3, P, P): (D, C, P, P)."""
    if normalization.factors != (1, 1, 1):
        weight = weight * per_channel(normalization.factors, weight)
    return weight.sum(1, keepdim=True) if C == 1 else weight


def per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Return the values as a tensor (C, 1, 1)."""
    return like.new_tensor(values)[:, None, None]


def wide(x: Tensor) -> Tensor:
    """Convert `x` to at least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
