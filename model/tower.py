"""The shared tower: a pre-LN ViT with a MAP head, read from top to bottom.

The architecture is the one of the published CLIPPO checkpoints (arXiv 2212.08045): a patch embedding with
bias, a learned position embedding, no CLS token, pre-LN blocks with a tanh-GELU MLP, a final LayerNorm,
attention pooling by one learned probe (MAP head), and a biased linear head. Tensors are named with their
shape: B batch, N tokens, D width, H heads, F = D / H.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clippo_kernels import attention_pool, flash_attention_qkvpacked, patch_embed


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
    """

    width: int
    depth: int
    mlp_dim: int
    heads: int
    patch_size: int
    image_size: int
    out_dim: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        if self.width % self.heads:
            raise ValueError(f"heads must divide width: {self.heads} does not divide {self.width}")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size must be a multiple of patch_size, got {self.image_size} and {self.patch_size} px"
            )

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


# width, depth, mlp_dim, heads; the names are those of the ViT papers, So400m is from arXiv 2305.13035.
VARIANTS = {
    "mu": (32, 1, 128, 2),
    "ti": (192, 12, 768, 3),
    "s": (384, 12, 1536, 6),
    "m": (512, 12, 2048, 8),
    "b": (768, 12, 3072, 12),
    "l": (1024, 24, 4096, 16),
    "so400m": (1152, 27, 4304, 16),
    "h": (1280, 32, 5120, 16),
}
PATCH_SIZES = (8, 14, 16, 32)


def list_models() -> list[str]:
    """The names that `create_model` takes, e.g. "clippo-b16"."""
    return [f"clippo-{variant}{patch_size}" for variant in VARIANTS for patch_size in PATCH_SIZES]


def named_config(name: str, *, image_size: int = 224, out_dim: int = 768) -> TowerConfig:
    """Sizes of a named variant; image_size in px. The published embeddings have 768 channels at every size.

    Raises:
        ValueError: `name` is not one of `list_models()`.
    """
    match = re.fullmatch(r"clippo-([a-z]+|so400m)(\d+)", name)
    if name not in list_models() or match is None:
        raise ValueError(f"name must be one of {', '.join(list_models())}; got {name!r}")
    width, depth, mlp_dim, heads = VARIANTS[match[1]]
    return TowerConfig(
        width=width,
        depth=depth,
        mlp_dim=mlp_dim,
        heads=heads,
        patch_size=int(match[2]),
        image_size=image_size,
        out_dim=out_dim,
    )


class Attention(nn.Module):
    """Multi-head self-attention; qkv stays packed from the projection to the kernel."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        qkv_BN3HF = self.qkv(x_BND).unflatten(-1, (3, self.heads, -1))
        return self.proj(flash_attention_qkvpacked(qkv_BN3HF).flatten(-2))


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

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = x_BND + self.attn(self.norm1(x_BND))
        return x_BND + self.mlp(self.norm2(x_BND))


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

    def forward(self, x_BND: Tensor) -> Tensor:
        # Every sequence asks the same question.
        q_HF = self.q(self.probe).view(self.heads, -1)
        kv_BN2HF = self.kv(x_BND).unflatten(-1, (2, self.heads, -1))
        a_BD = self.proj(attention_pool(q_HF, kv_BN2HF).flatten(1))
        return a_BD + self.mlp(self.norm(a_BD))


class Tower(nn.Module):
    """ViT over square images, photographs and rendered text alike.

    The stages can be called one by one: `embed` (pixels to tokens), `encode` (tokens to tokens), `pool`
    (tokens to one vector) and `head` (the embedding, not normalised); `forward` is all of them.
    """

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_weight = nn.Parameter(torch.empty(config.width, 3, config.patch_size, config.patch_size))
        self.patch_bias = nn.Parameter(torch.empty(config.width))
        self.pos_embed = nn.Parameter(torch.empty(1, config.num_patches, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.pool = MapHead(config)
        self.head = nn.Linear(config.width, config.out_dim)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self, residual_scale: float = 1.0) -> None:
        """Fill the parameters from the distributions that the published models start from.

        `residual_scale` then multiplies the two matrices of a block that write to the residual stream. Below
        1 the tower starts closer to the identity, and a short training run wastes less of itself on the way
        there (docs/training.md has the measurements).
        """
        lecun_normal_(self.patch_weight)
        nn.init.zeros_(self.patch_bias)
        nn.init.normal_(self.pos_embed, std=self.config.width**-0.5)
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

    def embed(self, images: Tensor) -> Tensor:
        """Tokens with their position embedding.

        Args:
            images: (B, S, S, C) or (B, C, S, S) with C of 1 or 3, or (B, S, S) grey, S = image_size px;
                uint8, or floating and already in [-1, 1].

        Returns:
            (B, N, D) tokens, row by row over the image.
        """
        if images.ndim == 3:
            images = images.unsqueeze(1)
        side = self.config.image_size
        if images.ndim != 4 or (side, side) not in (images.shape[1:3], images.shape[2:]):
            raise ValueError(f"images must be {side} x {side} px, got shape {tuple(images.shape)}")
        mean, std = (0.5, 0.5) if images.dtype == torch.uint8 else (0.0, 1.0)
        return patch_embed(images, self.patch_weight, self.patch_bias, self.pos_embed, mean=mean, std=std)

    def encode(self, x_BND: Tensor) -> Tensor:
        for block in self.blocks:
            x_BND = block(x_BND)
        return self.norm(x_BND)

    def forward(self, images: Tensor) -> Tensor:
        """(B, out_dim) embeddings, not normalised; see `embed` for the images."""
        return self.head(self.pool(self.encode(self.embed(images))))


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
