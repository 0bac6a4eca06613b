"""Patch embedding of uint8 or floating images, with normalisation folded into weight and bias."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .._checks import check_floating, check_same_device, check_tensor
from ..dispatch import select
from . import reference

IMPLEMENTATIONS = {"reference": reference.patch_embed}


def patch_embed(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pos_embed: Tensor | None = None,
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Normalises images, cuts them into P x P patches and embeds each: the tokens (B, N, D).

    N = (H / P) * (W / P), row-major over the grid of patches. The same function as a convolution of kernel
    and stride P (Dosovitskiy et al., arXiv 2010.11929) over `(images - mean) / std`, where uint8 pixels are
    divided by 255 first and floating images are taken as they are. Gradients reach `weight`, `bias`,
    `pos_embed` and floating `images`.

    Args:
        images: (B, C, H, W) or (B, H, W, C), uint8 or floating, C of 1 or 3. The axis of size 1 or 3 is the
            channel; where both could be, the images are channels-first. A grey image (C = 1) gives what its
            replication to three channels gives, at a third of the work.
        weight: (D, 3, P, P) or (D, P, P, 3), told apart in the same way.
        bias: (D,).
        pos_embed: (N, D) or (1, N, D), added to the tokens.
        mean, std: one number or one per channel of the weight, in units of the pixels after the division.
        out_dtype: dtype of the tokens; the dtype of the products by default, which is that of `weight`, or
            the autocast dtype where autocast is on.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: shapes that do not fit one another, H or W not a multiple of P, devices that differ, a
            `std` of 0.
    """
    check_tensor("images", images, "(B, C, H, W)")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating, got {images.dtype}")
    if images.shape[1] not in (1, 3):
        if images.shape[3] not in (1, 3):
            raise ValueError(
                f"images must be (B, C, H, W) or (B, H, W, C) with C of 1 or 3, got {tuple(images.shape)}"
            )
        images = images.permute(0, 3, 1, 2)

    check_tensor("weight", weight, "(D, 3, P, P)")
    check_floating("weight", weight)
    check_same_device("weight", weight, "images", images)
    shape = tuple(weight.shape)
    if shape[1] != 3:
        weight = weight.permute(0, 3, 1, 2)
    D, channels, P, P_width = weight.shape
    if channels != 3 or P_width != P or P == 0:
        raise ValueError(f"weight must be (D, 3, P, P) or (D, P, P, 3), got {shape}")

    H, W = images.shape[2:]
    if H % P or W % P:
        raise ValueError(f"images must have a height and width that are multiples of P = {P}, got {H} x {W}")
    N = (H // P) * (W // P)

    if bias is not None:
        check_tensor("bias", bias, "(D,)")
        check_floating("bias", bias)
        check_same_device("bias", bias, "images", images)
        if bias.shape[0] != D:
            raise ValueError(f"bias must have shape ({D},), got {tuple(bias.shape)}")
    if pos_embed is not None:
        if isinstance(pos_embed, Tensor) and pos_embed.ndim == 3 and pos_embed.shape[0] == 1:
            pos_embed = pos_embed[0]
        check_tensor("pos_embed", pos_embed, "(N, D)")
        check_floating("pos_embed", pos_embed)
        check_same_device("pos_embed", pos_embed, "images", images)
        if pos_embed.shape != (N, D):
            raise ValueError(f"pos_embed must have shape ({N}, {D}), got {tuple(pos_embed.shape)}")
    if out_dtype is not None and not out_dtype.is_floating_point:
        raise TypeError(f"out_dtype must be floating, got {out_dtype}")

    implementation = select("patch_embed", images.device, IMPLEMENTATIONS)
    return implementation(
        images, weight, bias, pos_embed, _per_channel("mean", mean), _per_channel("std", std), out_dtype
    )


def _per_channel(name: str, value: float | Sequence[float]) -> tuple[float, ...]:
    values = (float(value),) * 3 if isinstance(value, int | float) else tuple(float(v) for v in value)
    if len(values) != 3:
        raise ValueError(f"{name} must be one number or three, got {len(values)}")
    if name == "std" and 0.0 in values:
        raise ValueError(f"std must not be 0, got {value}")
    return values
