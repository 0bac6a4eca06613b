"""The shared tower: a pre-LN ViT with a MAP head, read from top to bottom.

The architecture is the one of the published CLIPPO checkpoints (arXiv 2212.08045): a patch embedding with
bias, a learned position embedding, no CLS token, pre-LN blocks with a tanh-GELU MLP, a final LayerNorm,
attention pooling by one learned probe (MAP head), and a biased linear head. Tensors are named with their
shape: B batch, N tokens, D width, H heads, F = D / H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clippo.model.packing import Patches, Sequences
from clippo_kernels import (
    attention_pool,
    attention_pool_varlen,
    flash_attention_qkvpacked,
    flash_attention_varlen,
    patch_embed,
    patch_embed_select,
)

# Far above any vision transformer; what a broken or hostile file asks for is refused before it is allocated.
LARGEST = {
    "width": 16_384,
    "depth": 512,
    "mlp_dim": 131_072,
    "heads": 512,
    "patch_size": 512,
    "image_size": 8_192,
    "out_dim": 131_072,
}


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """Sizes of a tower.

    Attributes:
        width: D, channels of a token.
        depth: number of encoder blocks.
        mlp_dim: hidden channels of every MLP, the MAP head's included.
        heads: attention heads; must divide `width`.
        patch_size: P, side of a square patch in px.
        image_size: side of the square input in px; a multiple of `patch_size`.
        out_dim: channels of the embedding.
        text_tokens: which patches of a rendered text the tower reads: "all", as the published models do, or
            "inked", those that are not blank.

    Raises:
        ValueError: a size that is no integer from 1 to the largest in `LARGEST`, or sizes that do not fit
            one another.
    """

    width: int
    depth: int
    mlp_dim: int
    heads: int
    patch_size: int
    image_size: int
    out_dim: int
    text_tokens: Literal["all", "inked"] = "all"

    def __post_init__(self) -> None:
        for name, largest in LARGEST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
                raise ValueError(f"{name} must be an integer from 1 to {largest}, got {value!r}")
        if self.text_tokens not in ("all", "inked"):
            raise ValueError(f'text_tokens must be "all" or "inked", got {self.text_tokens!r}')
        if self.width % self.heads:
            raise ValueError(f"heads must divide width: {self.heads} does not divide {self.width}")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size must be a multiple of patch_size, got {self.image_size} and {self.patch_size} px"
            )

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


class Attention(nn.Module):
    """Multi-head self-attention; qkv stays packed from the projection to the kernel."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, sequences: Sequences | None) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        if sequences is None:
            mixed = flash_attention_qkvpacked(qkv)  # (B, N, H, F)
        else:
            mixed = flash_attention_varlen(qkv, *sequences)  # (T, H, F)
        return self.proj(mixed.flatten(-2))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attn = Attention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = Mlp(config.width, config.mlp_dim)

    def forward(self, x: Tensor, sequences: Sequences | None = None) -> Tensor:
        x = x + self.attn(self.norm1(x), sequences)
        return x + self.mlp(self.norm2(x))


class MapHead(nn.Module):
    """Multi-head attention pooling: one learned probe attends to the tokens, then an MLP with a residual."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.probe = nn.Parameter(torch.empty(1, 1, config.width))
        self.q = nn.Linear(config.width, config.width)
        self.kv = nn.Linear(config.width, 2 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = Mlp(config.width, config.mlp_dim)

    def forward(self, x: Tensor, sequences: Sequences | None = None) -> Tensor:
        # Every sequence asks the same question.
        q_HF = self.q(self.probe).view(self.heads, -1)
        kv = self.kv(x).unflatten(-1, (2, self.heads, -1))
        if sequences is None:
            answers_BHF = attention_pool(q_HF, kv)
        else:
            answers_BHF = attention_pool_varlen(q_HF, kv, *sequences)
        a_BD = self.proj(answers_BHF.flatten(1))
        return a_BD + self.mlp(self.norm(a_BD))


class Encoder(nn.Module):
    """What comes behind the embedding of patches, or of anything else: tokens in, one embedding out.

    Tokens are (B, N, D), B sequences of one length, or (T, D), sequences of any lengths, packed without
    padding; then `encode` and `pool` are told where each begins and ends.

    Attributes:
        recompute_blocks: keep a block's input alone for the backward pass, and compute the rest anew there: a
            third more time for a fraction of the memory (Chen et al., arXiv 1604.06174).
    """

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute_blocks = False
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.pool = MapHead(config)
        self.head = nn.Linear(config.width, config.out_dim)

    @torch.no_grad()
    def init_weights(self, residual_scale: float = 1.0) -> None:
        """Fill the parameters from the distributions that the published models start from.

        `residual_scale` then multiplies the two matrices of a block that write to the residual stream. Below
        1 the tower starts closer to the identity, and a short training run wastes less of itself on the way
        there (docs/training.md has the measurements).
        """
        for module in self.modules():
            if isinstance(module, Attention):
                xavier_uniform_(module.qkv, parts=3)
                xavier_uniform_(module.proj)
            elif isinstance(module, MapHead):
                nn.init.xavier_uniform_(module.probe[0])
                xavier_uniform_(module.q)
                xavier_uniform_(module.kv, parts=2)
                xavier_uniform_(module.proj)
            elif isinstance(module, Mlp):
                for layer in (module.fc1, module.fc2):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.normal_(layer.bias, std=1e-6)
        for module in self.modules():
            if isinstance(module, Block):
                module.attn.proj.weight *= residual_scale
                module.mlp.fc2.weight *= residual_scale
        lecun_normal_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def encode(self, x: Tensor, sequences: Sequences | None = None) -> Tensor:
        for block in self.blocks:
            if self.recompute_blocks and torch.is_grad_enabled():
                x = checkpoint(block, x, sequences, use_reentrant=False)
            else:
                x = block(x, sequences)
        return self.norm(x)

    def embedding_of(self, x: Tensor, sequences: Sequences | None = None) -> Tensor:
        """(B, out_dim) embeddings, not normalised, of tokens (B, N, D) or (T, D)."""
        return self.head(self.pool(self.encode(x, sequences), sequences))


class Tower(Encoder):
    """ViT over square images, photographs and rendered text alike.

    The stages can be called one by one: `embed` (pixels to tokens), `encode` (tokens to tokens), `pool`
    (tokens to one vector) and `head` (the embedding, not normalised); `forward` is all of them.
    """

    def __init__(self, config: TowerConfig) -> None:
        super().__init__(config)
        self.patch_weight = nn.Parameter(torch.empty(config.width, 3, config.patch_size, config.patch_size))
        self.patch_bias = nn.Parameter(torch.empty(config.width))
        self.pos_embed = nn.Parameter(torch.empty(1, config.num_patches, config.width))
        self.init_weights()

    @torch.no_grad()
    def init_weights(self, residual_scale: float = 1.0) -> None:
        lecun_normal_(self.patch_weight)
        nn.init.zeros_(self.patch_bias)
        nn.init.normal_(self.pos_embed, std=self.config.width**-0.5)
        super().init_weights(residual_scale)

    def embed(self, images: Tensor, patches: Patches | None = None) -> Tensor:
        """Tokens with their position embedding.

        Args:
            images: (B, S, S, C) or (B, C, S, S) with C of 1 or 3, or (B, S, S) grey, S = image_size px;
                uint8, or floating and already in [-1, 1].
            patches: those to embed; all by default.

        Returns:
            (B, N, D) tokens, row by row over the image, or (T, D) of the listed patches.
        """
        if images.ndim == 3:
            images = images.unsqueeze(1)
        side = self.config.image_size
        if images.ndim != 4 or (side, side) not in (images.shape[1:3], images.shape[2:]):
            raise ValueError(f"images must be {side} x {side} px, got shape {tuple(images.shape)}")
        mean, std = (0.5, 0.5) if images.dtype == torch.uint8 else (0.0, 1.0)
        parameters = self.patch_weight, self.patch_bias, self.pos_embed
        if patches is None:
            return patch_embed(images, *parameters, mean=mean, std=std)
        return patch_embed_select(images, patches.keep_indices, *parameters, mean=mean, std=std)

    def forward(self, images: Tensor, patches: Patches | None = None) -> Tensor:
        """(B, out_dim) embeddings, not normalised; see `embed` for the arguments."""
        sequences = None if patches is None else patches.sequences
        return self.embedding_of(self.embed(images, patches), sequences)


def xavier_uniform_(layer: nn.Linear, parts: int = 1) -> None:
    """Xavier weights and no bias; `parts` projections that are stored as one matrix are filled one by one."""
    for weight in layer.weight.chunk(parts):
        nn.init.xavier_uniform_(weight)
    nn.init.zeros_(layer.bias)


def lecun_normal_(weight: Tensor) -> None:
    """Normal of variance 1 / fan_in, truncated at two standard deviations; dimension 0 is the output."""
    fan_in = weight[0].numel()
    # A standard normal cut at +-2 has this standard deviation; dividing by it restores the variance.
    std = fan_in**-0.5 / 0.87962566103423978
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
