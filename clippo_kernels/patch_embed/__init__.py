"""Patch embedding of uint8 or floating images, whole or at listed patches, with normalisation folded in.

On a GPU the ops run Triton kernels (`operators`, `launch`, `kernels`). On other devices, and for float64,
they run in PyTorch (`eager`). The ops can be differentiated once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .._checks import check_floating, check_once, check_same_device, check_tensor
from .._ops import autocast_dtype
from ..dispatch import choose_backend
from . import eager, operators

__all__ = ["patch_embed", "patch_embed_select"]

PRODUCT_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def patch_embed(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pos_embed: Tensor | None = None,
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
    out_dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    """Normalise images, cut them into P x P patches and embed each patch: the tokens (B, N, D).

    N = (H / P) * (W / P), row-major over the grid of patches. This is the same function as a convolution with
    kernel size and stride P (Dosovitskiy et al., arXiv 2010.11929) over `(images - mean) / std`, where uint8
    pixels are divided by 255 first and floating images are taken as they are. `weight`, `bias`, `pos_embed`
    and floating `images` get gradients; the result and its gradients are the same bits every time.

    Args:
        images: (B, C, H, W) or (B, H, W, C), uint8 or floating, C of 1 or 3, with any strides. The axis of
            size 1 or 3 is the channel axis; if both could be, the images are channels-first. A grey image
            (C = 1) gives the same tokens as the image replicated to three channels, at a third of the work.
        weight: (D, 3, P, P) or (D, P, P, 3), distinguished in the same way.
        bias: (D,).
        pos_embed: (N, D) or (1, N, D), added to the tokens.
        mean, std: one number or one per channel of the weight, in units of the pixels after the division.
        out_dtype: dtype of the tokens. The default is the dtype of the products: that of `weight`, or the
            autocast dtype if autocast is on.
        backend: "eager" or "triton" to force one; None leaves the choice to the environment variable and the
            device, as `clippo_kernels.dispatch` describes.

    Raises:
        TypeError: if an argument has the wrong type or dtype.
        ValueError: if shapes do not match, H or W is not a multiple of P, devices differ, a `std` is 0, or
            there is no such `backend`.
        RuntimeError: if `backend` forces kernels that cannot run on these tensors.
    """
    return embed(images, weight, bias, pos_embed, None, mean, std, out_dtype, backend)


def patch_embed_select(
    images: Tensor,
    keep_indices: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pos_embed: Tensor | None = None,
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
    out_dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    """Embed the listed patches: packed tokens (T, D), each equal to its row in the output of `patch_embed`.

    This serves rendered text, whose patches without ink are left out, and photographs with patch dropout (Li
    et al., arXiv 2212.00794). `flash_attention_varlen` takes packed tokens. In eager mode the list is
    checked, which copies its minimum and maximum to the host, once per tensor until it is modified.

    Args:
        keep_indices: (T, 2), int32, on the device of `images`: image b and position n of each token, where n
            counts the N patches of an image row by row. Patches may be in any order and may be repeated.
        images, weight, bias, pos_embed, mean, std, out_dtype, backend: as in `patch_embed`; row n of
            `pos_embed` is added to the tokens of position n.

    Raises:
        TypeError: as in `patch_embed`, or if `keep_indices` is not int32.
        ValueError: as in `patch_embed`; in eager mode also if an index is out of range.
        RuntimeError: as in `patch_embed`.
    """
    check_tensor("keep_indices", keep_indices, "(T, 2)")
    if keep_indices.shape[1] != 2:
        raise ValueError(f"keep_indices must have shape (T, 2), got {tuple(keep_indices.shape)}")
    if keep_indices.dtype != torch.int32:
        raise TypeError(f"keep_indices must be int32, got {keep_indices.dtype}")
    return embed(images, weight, bias, pos_embed, keep_indices, mean, std, out_dtype, backend)


def embed(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pos_embed: Tensor | None,
    keep_indices: Tensor | None,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    out_dtype: torch.dtype | None,
    backend: str | None,
) -> Tensor:
    """Check the arguments of both functions, and run the op on views (B, C, H, W), (D, 3, P, P), (N, D)."""
    images = check_images(images)
    weight = check_weight(weight, images)
    B, _, H, W = images.shape
    D, _, P, _ = weight.shape
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
    if keep_indices is not None:
        check_same_device("keep_indices", keep_indices, "images", images)
        check_once(keep_indices, (B, N), check_range)
        keep_indices = keep_indices.contiguous()
    if out_dtype is not None and not out_dtype.is_floating_point:
        raise TypeError(f"out_dtype must be floating, got {out_dtype}")
    statistics = per_channel("mean", mean), per_channel("std", std)

    dtype = autocast_dtype(weight)
    out_dtype = out_dtype or dtype
    has_kernels = {dtype, out_dtype, images.dtype} <= {torch.uint8, *PRODUCT_DTYPES}
    chosen = choose_backend("patch_embed", images.device, has_kernels, backend)
    implementation = operators.PatchEmbed.apply if chosen == "triton" else eager.patch_embed
    out: Tensor = implementation(images, weight, bias, pos_embed, keep_indices, *statistics, dtype, out_dtype)
    return out


def check_images(images: Tensor) -> Tensor:
    """Check `images` and return them as (B, C, H, W)."""
    check_tensor("images", images, "(B, C, H, W)")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating, got {images.dtype}")
    if images.shape[1] in (1, 3):
        return images
    if images.shape[3] in (1, 3):
        return images.permute(0, 3, 1, 2)
    raise ValueError(
        f"images must be (B, C, H, W) or (B, H, W, C) with C of 1 or 3, got {tuple(images.shape)}"
    )


def check_weight(weight: Tensor, images: Tensor) -> Tensor:
    """Check `weight` and return it as (D, 3, P, P)."""
    check_tensor("weight", weight, "(D, 3, P, P)")
    check_floating("weight", weight)
    check_same_device("weight", weight, "images", images)
    view = weight if weight.shape[1] == 3 else weight.permute(0, 3, 1, 2)
    _, channels, P, P_width = view.shape
    if channels != 3 or P_width != P or P == 0:
        raise ValueError(f"weight must be (D, 3, P, P) or (D, P, P, 3), got {tuple(weight.shape)}")
    return view


def check_range(keep_indices: Tensor, B: int, N: int) -> None:
    if len(keep_indices) == 0:
        return
    (b_low, n_low), (b_high, n_high) = torch.stack(keep_indices.aminmax(dim=0)).tolist()
    for name, low, high, size in (("images", b_low, b_high, B), ("positions", n_low, n_high, N)):
        if low < 0 or high >= size:
            raise ValueError(
                f"keep_indices must name {name} of 0 to {size - 1}, got {low if low < 0 else high}"
            )


def per_channel(name: str, value: float | Sequence[float]) -> tuple[float, ...]:
    values = (float(value),) * 3 if isinstance(value, int | float) else tuple(float(v) for v in value)
    if len(values) != 3:
        raise ValueError(f"{name} must be one number or three, got {len(values)}")
    if name == "std" and 0.0 in values:
        raise ValueError(f"std must not be 0, got {value}")
    return values
