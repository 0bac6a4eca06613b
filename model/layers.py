"""Layers of a vision transformer on the ops of `clippo_kernels`.

Each takes B sequences of one length, (B, N, D), or sequences of any lengths packed without padding, (T, D),
together with their `VarlenInfo`. Shapes: B batch, N tokens, T tokens of all sequences, D width, H heads,
F = D / H features of a head, P patch size in px.
"""

from __future__ import annotations

from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clippo.model.packing import VarlenInfo
from clippo_kernels import (
    attention_pool,
    attention_pool_varlen,
    flash_attention_qkvpacked,
    flash_attention_varlen,
    patch_embed,
    patch_embed_select,
)

__all__ = [
    "LAYER_NORM_EPS",
    "Attention",
    "AttentionPool",
    "Block",
    "Mlp",
    "PatchEmbed",
    "lecun_normal_",
    "resample_pos_embed",
]

LAYER_NORM_EPS = 1e-6  # of the published models


class PatchEmbed(nn.Module):
    """Patches of an image to tokens with a position embedding.

    Args:
        image_size: side of the square images in px.
        patch_size: side of a square patch in px.
        width: features of a token.

    Attributes:
        takes_smaller: whether smaller images are taken as well, with the position embedding resampled to
            their grid of patches.
    """

    def __init__(self, image_size: int, patch_size: int, width: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.takes_smaller = False
        num_patches = (image_size // patch_size) ** 2
        self.weight = nn.Parameter(torch.empty(width, 3, patch_size, patch_size))
        self.bias = nn.Parameter(torch.empty(width))
        self.pos_embed = nn.Parameter(torch.empty(1, num_patches, width))

    def reset_parameters(self) -> None:
        lecun_normal_(self.weight)
        nn.init.zeros_(self.bias)
        nn.init.normal_(self.pos_embed, std=self.pos_embed.shape[-1] ** -0.5)

    def forward(self, images: Tensor, keep_indices: Tensor | None = None) -> Tensor:
        """Embed all patches, or those that are kept.

        Args:
            images: (B, S, S, C) or (B, C, S, S) with C of 1 or 3, or (B, S, S) grey, S = image_size px;
                uint8, or floating and already in [-1, 1].
            keep_indices: (T, 2) int32, image and position of each patch to embed; all by default.

        Returns:
            (B, N, D) tokens, row by row over the image, or (T, D) tokens of the kept patches.

        Raises:
            ValueError: images of another size.
        """
        if images.ndim == 3:
            images = images.unsqueeze(1)
        side = self.image_size
        if self.takes_smaller and images.ndim == 4:
            side = min(side, images.shape[2])  # the width of (B, S, S, C), the height of (B, C, S, S)
        if images.ndim != 4 or (side, side) not in (images.shape[1:3], images.shape[2:]):
            raise ValueError(f"images must be {side} x {side} px, got shape {tuple(images.shape)}")
        mean, std = (0.5, 0.5) if images.dtype == torch.uint8 else (0.0, 1.0)
        pos_embed: Tensor = self.pos_embed
        if side != self.image_size:
            pos_embed = resample_pos_embed(pos_embed, (side // self.weight.shape[-1]) ** 2)
        parameters = self.weight, self.bias, pos_embed
        if keep_indices is None:
            return patch_embed(images, *parameters, mean=mean, std=std)
        return patch_embed_select(images, keep_indices, *parameters, mean=mean, std=std)

    def embed_packed(self, pixels: Tensor, positions: Tensor) -> Tensor:
        """Embed patches that come without their images, to the same bits as `forward` embeds them.

        Args:
            pixels: (T, P, P) uint8 grey levels.
            positions: (T,) int32, the position of each patch in its image.

        Returns:
            (T, D) tokens.
        """
        T, P, _ = pixels.shape
        # To the kernel, the patches are one image of T rows of one patch.
        pos_embed = F.embedding(positions, self.pos_embed[0])
        image = pixels.view(1, 1, T * P, P)
        out: Tensor = patch_embed(image, self.weight, self.bias, pos_embed, mean=0.5, std=0.5)[0]
        return out


class Attention(nn.Module):
    """Multi-head self-attention; qkv stays packed from the projection to the kernel."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def reset_parameters(self) -> None:
        xavier_uniform_(self.qkv, parts=3)
        xavier_uniform_(self.proj)

    def forward(self, x: Tensor, varlen: VarlenInfo | None = None) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        # (B, N, H, F) or (T, H, F)
        mixed = flash_attention_qkvpacked(qkv) if varlen is None else flash_attention_varlen(qkv, *varlen)
        out: Tensor = self.proj(mixed.flatten(-2))
        return out


class Mlp(nn.Module):
    """Two linear layers with GELU in its tanh form between them."""

    def __init__(self, width: int, mlp_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, width)

    def reset_parameters(self) -> None:
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return out


class Block(nn.Module):
    """Pre-LN transformer block."""

    def __init__(self, width: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(width, mlp_dim)

    def reset_parameters(self) -> None:
        self.norm1.reset_parameters()
        self.attn.reset_parameters()
        self.norm2.reset_parameters()
        self.mlp.reset_parameters()

    def forward(self, x: Tensor, varlen: VarlenInfo | None = None) -> Tensor:
        x = x + self.attn(self.norm1(x), varlen)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class AttentionPool(nn.Module):
    """MAP head: one learned probe attends to the tokens of a sequence, then an MLP with a residual.

    Multihead attention pooling of Lee et al. (arXiv 1810.00825), as in Zhai et al. (arXiv 2106.04560).
    """

    def __init__(self, width: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.probe = nn.Parameter(torch.empty(1, 1, width))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(width, mlp_dim)

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.probe[0])
        xavier_uniform_(self.q)
        xavier_uniform_(self.kv, parts=2)
        xavier_uniform_(self.proj)
        self.norm.reset_parameters()
        self.mlp.reset_parameters()

    def forward(self, x: Tensor, varlen: VarlenInfo | None = None) -> Tensor:
        """Pool tokens (B, N, D), or packed (T, D), to (B, D)."""
        q_HF = self.q(self.probe).view(self.num_heads, -1)
        kv = self.kv(x).unflatten(-1, (2, self.num_heads, -1))
        pooled_BHF = attention_pool(q_HF, kv) if varlen is None else attention_pool_varlen(q_HF, kv, *varlen)
        return self.project(pooled_BHF)

    def project(self, pooled_BHF: Tensor) -> Tensor:
        """Mix the heads of the pooled values (B, H, F), and add the MLP."""
        x_BD = self.proj(pooled_BHF.flatten(1))
        out: Tensor = x_BD + self.mlp(self.norm(x_BD))
        return out


def xavier_uniform_(layer: nn.Linear, parts: int = 1) -> None:
    """Fill a layer with Xavier weights and no bias.

    `parts` projections that are stored as one matrix are filled one by one.
    """
    for weight in layer.weight.chunk(parts):
        nn.init.xavier_uniform_(weight)
    nn.init.zeros_(layer.bias)


def lecun_normal_(weight: Tensor) -> None:
    """Fill with a normal of variance 1 / fan_in, truncated at two standard deviations.

    Dimension 0 of the weight is the output.
    """
    fan_in = weight[0].numel()
    # A standard normal cut at +-2 has this standard deviation; dividing by it restores the variance.
    std = fan_in**-0.5 / 0.87962566103423978
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def resample_pos_embed(pos_embed: Tensor, positions: int) -> Tensor:
    """Resample the position embedding of a square grid, (1, N, D), to (1, positions, D).

    If the row of a class token precedes the grid, it is removed. The interpolation is bilinear with aligned
    corners, as in big_vision.
    """
    own = isqrt(pos_embed.shape[1])
    grid = pos_embed[:, pos_embed.shape[1] - own**2 :]
    if own**2 == positions:
        return grid
    # big_vision computes in float64.
    grid_DYX = grid.double().reshape(1, own, own, -1).permute(0, 3, 1, 2)
    resampled = F.interpolate(grid_DYX, size=(isqrt(positions),) * 2, mode="bilinear", align_corners=True)
    return resampled.flatten(2).mT.to(pos_embed.dtype)
