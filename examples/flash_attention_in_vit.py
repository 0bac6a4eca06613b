"""Flash attention in a ViT of another library, which keeps its weights.

    python examples/flash_attention_in_vit.py

prints

    the attention of 4 blocks is replaced
    outputs differ by at most 0e+00
    gradients differ by at most 0e+00
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clippo_kernels.compat import Attention


class PlainAttention(nn.Module):
    """Attention as timm writes it, with timm's names of the weights."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B, N, 3, H, F)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, N, F) each
        out: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Pre-LN block, as in timm's VisionTransformer."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = PlainAttention(dim, num_heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def replace_attention(blocks: Iterable[Any]) -> None:
    """Replace the attention of each block of timm's, `vit.blocks`, by one with the same weights."""
    for block in blocks:
        old = block.attn
        new = Attention(old.qkv.in_features, old.num_heads, qkv_bias=old.qkv.bias is not None)
        new.load_state_dict(old.state_dict())
        block.attn = new.to(old.qkv.weight)  # the same device and dtype


def main() -> None:
    torch.manual_seed(0)
    vit = nn.Sequential(*(Block(192, num_heads=3) for _ in range(4)))
    fast = copy.deepcopy(vit)
    replace_attention(fast)
    print(f"the attention of {len(fast)} blocks is replaced")
    x = torch.randn(2, 197, 192)
    outputs = [blocks(x) for blocks in (vit, fast)]
    print(f"outputs differ by at most {(outputs[0] - outputs[1]).abs().max():.0e}")
    gradients = [
        torch.autograd.grad(out.square().mean(), [*blocks.parameters()])
        for out, blocks in zip(outputs, (vit, fast), strict=True)
    ]
    difference = max((a - b).abs().max() for a, b in zip(*gradients, strict=True))
    print(f"gradients differ by at most {difference:.0e}")


if __name__ == "__main__":
    main()
