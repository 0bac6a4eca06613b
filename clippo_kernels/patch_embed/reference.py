"""Patch embedding in plain PyTorch: one copy of the pixels into patches, then one matrix product."""

import torch
import torch.nn.functional as F
from torch import Tensor


def patch_embed(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pos_embed: Tensor | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    out_dtype: torch.dtype | None,
) -> Tensor:
    """Tokens (B, N, D) of images (B, C, H, W) for weight (D, 3, P, P), bias (D,), pos_embed (N, D)."""
    dtype = _product_dtype(weight)
    B, C, H, W = images.shape
    D, _, P, _ = weight.shape

    # Pixels keep the order of their channels in memory, so that the copy moves the longest runs it can.
    channels_last = images.stride(1) == 1
    patches = images.reshape(B, C, H // P, P, W // P, P).permute(0, 2, 4, 1, 3, 5)  # (B, H/P, W/P, C, P, P)
    patches = patches.movedim(3, 5) if channels_last else patches
    patches = patches.reshape(B, (H // P) * (W // P), C * P * P)
    if images.dtype == torch.uint8:
        # Flipping the top bit turns a pixel into the int8 `pixel - 128`. Those are exact in every floating
        # dtype and nearly zero-mean, so that in bfloat16 neither the tokens nor the gradient of the weight
        # is the small difference of two large sums.
        patches = (patches ^ 128).view(torch.int8)
        unit, centre = 255.0, 128.0
    else:
        unit, centre = 1.0, 0.0

    # With p = x * unit - centre for what `patches` holds, (x - mean) / std = scale * p + shift. The scale
    # goes into the weight and the shift into the bias, both rounded to the dtype of the products only then.
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    mean_C11, std_C11 = weight.new_tensor((mean, std)).view(2, 3, 1, 1)
    shift = (weight * ((centre / unit - mean_C11) / std_C11)).sum((1, 2, 3))
    weight = weight * (1 / (unit * std_C11))
    if C == 1:
        weight = weight.sum(1, keepdim=True)
    weight = weight.movedim(1, 3) if channels_last else weight
    bias = shift if bias is None else shift + bias

    tokens = F.linear(patches.to(dtype), weight.reshape(D, -1).to(dtype), bias.to(dtype))
    if out_dtype is not None:
        tokens = tokens.to(out_dtype)
    if pos_embed is not None:
        tokens = tokens + pos_embed.to(tokens.dtype)
    return tokens


def _product_dtype(weight: Tensor) -> torch.dtype:
    device_type = weight.device.type
    # Autocast leaves float64 alone.
    if torch.is_autocast_enabled(device_type) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(device_type)
    return weight.dtype
