"""The definitions of the patch-embedding ops, written out. They are slow, and the oracle of the tests."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["patch_embed", "patch_embed_select"]


def patch_embed(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pos_embed: Tensor | None = None,
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> Tensor:
    """Normalise images, convolve them with a stride of one patch, and add positions: (B, N, D).

    `images` are (B, C, H, W) or (B, H, W, C), where C is 3 or 1; `weight` is (D, 3, P, P). Bytes are divided
    by 255 first.
    """
    x = images if images.shape[1] in (1, 3) else images.permute(0, 3, 1, 2)
    x = x.expand(-1, 3, -1, -1).to(weight.dtype)
    if images.dtype == torch.uint8:
        x = x / 255
    mean_C11, std_C11 = (x.new_tensor(value).expand(3).view(3, 1, 1) for value in (mean, std))
    x = (x - mean_C11) / std_C11
    tokens = F.conv2d(x, weight, bias, stride=weight.shape[-1]).flatten(2).mT
    return tokens if pos_embed is None else tokens + pos_embed


def patch_embed_select(images: Tensor, keep_indices: Tensor, *args: Any, **options: Any) -> Tensor:
    """Rows of `patch_embed` for pairs of an image and a patch, `keep_indices` (T, 2): (T, D)."""
    image_T, patch_T = keep_indices.long().unbind(1)
    return patch_embed(images, *args, **options)[image_T, patch_T]
