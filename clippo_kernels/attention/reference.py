"""The definitions of the attention ops, written out. They are slow, and the oracle of the tests.

Dimensions: B batch, S sequences, T tokens of all sequences, N queries, M keys, H heads, D channels of a head.
"""

import torch
from torch import Tensor

__all__ = [
    "attention_pool",
    "attention_pool_varlen",
    "flash_attention",
    "flash_attention_qkvpacked",
    "flash_attention_varlen",
]


def flash_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
    """Softmax of the scaled logits, times the values: (B, N, H, D)."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    p_BHNM = torch.einsum("bnhd,bmhd->bhnm", q * scale, k).softmax(-1)
    return torch.einsum("bhnm,bmhd->bnhd", p_BHNM, v)


def flash_attention_qkvpacked(qkv: Tensor, *, scale: float | None = None) -> Tensor:
    """`flash_attention` of qkv (B, N, 3, H, D)."""
    q, k, v = qkv.unbind(2)
    return flash_attention(q, k, v, scale=scale)


def flash_attention_varlen(qkv: Tensor, cu_seqlens: Tensor, *, scale: float | None = None) -> Tensor:
    """`flash_attention_qkvpacked` of each sequence of qkv (T, 3, H, D) alone: (T, H, D)."""
    sequences = qkv.split(cu_seqlens.diff().tolist())
    out = [flash_attention_qkvpacked(x[None], scale=scale)[0] for x in sequences if len(x)]
    return torch.cat(out) if out else qkv[:, 0]


def attention_pool(q: Tensor, kv: Tensor, *, scale: float | None = None) -> Tensor:
    """`flash_attention` with one query, (H, D) or (B, H, D), for each sequence of kv (B, N, 2, H, D)."""
    k, v = kv.unbind(2)
    return flash_attention(q.expand(len(kv), *q.shape[-2:])[:, None], k, v, scale=scale)[:, 0]


def attention_pool_varlen(q: Tensor, kv: Tensor, cu_seqlens: Tensor, *, scale: float | None = None) -> Tensor:
    """`attention_pool` of each sequence of kv (T, 2, H, D) alone: (S, H, D), 0 for an empty sequence."""
    q = q.expand(len(cu_seqlens) - 1, *q.shape[-2:])
    sequences = kv.split(cu_seqlens.diff().tolist())
    return torch.cat(
        [attention_pool(x, y[None], scale=scale) for x, y in zip(q[:, None], sequences, strict=True)]
    )
