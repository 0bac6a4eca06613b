"""The shared tower: a pre-LN ViT with a MAP head.

The architecture is that of the published CLIPPO checkpoints (arXiv 2212.08045):

- a patch embedding with bias and a learned position embedding, no class token;
- pre-LN blocks with a tanh-GELU MLP, and a LayerNorm after the last;
- attention pooling by one learned probe (MAP head);
- a linear head with bias.

Shapes: B batch, N tokens of a sequence, T tokens of all packed sequences, D width, E embed_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clippo.model.layers import LAYER_NORM_EPS, AttentionPool, Block, PatchEmbed, lecun_normal_
from clippo.model.packing import KeptPatches, VarlenInfo

__all__ = ["Encoder", "Tower", "TowerConfig"]

# The limits are far above any vision transformer. They reject a broken or hostile file before memory is
# allocated for it.
LARGEST = {
    "width": 16_384,
    "depth": 512,
    "mlp_dim": 131_072,
    "num_heads": 512,
    "patch_size": 512,
    "image_size": 8_192,
    "embed_dim": 131_072,
}


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """Sizes of a tower.

    Attributes:
        width: features of a token, D.
        depth: number of blocks.
        mlp_dim: hidden features of every MLP, including the MAP head's.
        num_heads: attention heads; must divide `width`.
        patch_size: side of a square patch in px, P.
        image_size: side of the square input in px; a multiple of `patch_size`.
        embed_dim: features of the embedding that images and texts share, E.

    Raises:
        ValueError: a size that is not an integer from 1 to the largest in `LARGEST`, or sizes that do not
            fit one another.
    """

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    patch_size: int
    image_size: int
    embed_dim: int

    def __post_init__(self) -> None:
        for name, largest in LARGEST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
                raise ValueError(f"{name} must be an integer from 1 to {largest}, got {value!r}")
        if self.width % self.num_heads:
            raise ValueError(f"num_heads must divide width: {self.num_heads} does not divide {self.width}")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size must be a multiple of patch_size, got {self.image_size} and {self.patch_size} px"
            )

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


class Encoder(nn.Module):
    """Transformer encoder with attention pooling: sequences of tokens to one embedding each.

    Tokens are (B, N, D), B sequences of one length, or (T, D), sequences of any lengths packed without
    padding; a `VarlenInfo` then says where each begins and ends.

    Attributes:
        grad_checkpointing: keep only the input of each block for the backward pass, and recompute the rest
            there. It costs a third more time and saves most of the memory (Chen et al., arXiv 1604.06174).
    """

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        sizes = config.width, config.num_heads, config.mlp_dim
        self.grad_checkpointing = False
        self.blocks = nn.ModuleList(Block(*sizes) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.pool = AttentionPool(*sizes)
        self.head = nn.Linear(config.width, config.embed_dim)

    @torch.no_grad()
    def init_weights(self, residual_scale: float = 1.0) -> None:
        """Fill the parameters from the distributions of the published models.

        `residual_scale` then multiplies the two matrices of each block that write to the residual stream.
        Below 1, the tower starts closer to the identity, which helps short training runs
        (docs/training.md has the measurements).
        """
        for block in self.blocks:
            assert isinstance(block, Block)
            block.reset_parameters()
            block.attn.proj.weight *= residual_scale
            block.mlp.fc2.weight *= residual_scale
        self.norm.reset_parameters()
        self.pool.reset_parameters()
        lecun_normal_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward_features(self, x: Tensor, varlen: VarlenInfo | None = None) -> Tensor:
        """Run the blocks and the last LayerNorm: tokens to tokens."""
        for block in self.blocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, varlen, use_reentrant=False)
            else:
                x = block(x, varlen)
        out: Tensor = self.norm(x)
        return out

    def forward_head(self, x: Tensor, varlen: VarlenInfo | None = None) -> Tensor:
        """Pool each sequence of tokens to its embedding (B, E), which is not normalised."""
        out: Tensor = self.head(self.pool(x, varlen))
        return out

    def forward(self, x: Tensor, varlen: VarlenInfo | None = None) -> Tensor:
        """Embed sequences of tokens: (B, E), not normalised."""
        return self.forward_head(self.forward_features(x, varlen), varlen)


class Tower(nn.Module):
    """Vision transformer over square images, photographs and rendered text alike.

    `patch_embed` turns pixels into tokens, and `encoder` turns tokens into one embedding.
    """

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(config.image_size, config.patch_size, config.width)
        self.encoder = Encoder(config)
        if not self.patch_embed.weight.is_meta:  # there, random numbers of none would import the compiler
            self.init_weights()

    @torch.no_grad()
    def init_weights(self, residual_scale: float = 1.0) -> None:
        """Fill the parameters; see `Encoder.init_weights`."""
        self.patch_embed.reset_parameters()
        self.encoder.init_weights(residual_scale)

    def forward(self, images: Tensor, kept: KeptPatches | None = None) -> Tensor:
        """Embed images: (B, E), not normalised.

        Args:
            images: pixels in any layout that `PatchEmbed` takes.
            kept: the patches to look at; all by default.
        """
        keep_indices, varlen = (None, None) if kept is None else (kept.keep_indices, kept.varlen)
        out: Tensor = self.encoder(self.patch_embed(images, keep_indices), varlen)
        return out
