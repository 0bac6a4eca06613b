"""Attention in plain PyTorch, through its fused scaled_dot_product_attention."""

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """(B, Nq, H, D) for q (B, Nq, H, D) and k, v (B, Nk, H, D)."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)


def attention_packed(qkv: Tensor, scale: float) -> Tensor:
    """(B, N, H, D) for qkv (B, N, 3, H, D)."""
    q, k, v = qkv.unbind(2)
    return attention(q, k, v, scale)


def attention_varlen(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float) -> Tensor:
    """(T, H, D) for qkv (T, 3, H, D): pads to (S, max_seqlen), attends under a key mask, packs again."""
    padded, row_T, is_key = pad(qkv, cu_seqlens, max_seqlen)
    q, k, v = padded.permute(2, 0, 3, 1, 4)  # each (S, H, max_seqlen, D)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=is_key, scale=scale)
    return out.transpose(1, 2).flatten(0, 1).index_select(0, row_T)


def attention_pool(q: Tensor, kv: Tensor, scale: float) -> Tensor:
    """(S, H, D) for q (S, H, D) and kv (S, N, 2, H, D)."""
    k, v = kv.unbind(2)
    return attention(q[:, None], k, v, scale)[:, 0]


def attention_pool_varlen(q: Tensor, kv: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float) -> Tensor:
    """(S, H, D) for q (S, H, D) and kv (T, 2, H, D)."""
    padded, _, is_key = pad(kv, cu_seqlens, max_seqlen)
    k, v = padded.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q[:, :, None], k, v, attn_mask=is_key, scale=scale)[:, :, 0]


def pad(x: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> tuple[Tensor, Tensor, Tensor]:
    """(S, max_seqlen, ...) with zeros for x (T, ...), the padded row of each of the T, and which are keys.

    There is no loop over the sequences, so that one trace holds for all lengths. The mask of the keys is
    (S, 1, 1, max_seqlen).
    """
    T, S = x.shape[0], cu_seqlens.shape[0] - 1
    token_T = torch.arange(T, device=x.device, dtype=cu_seqlens.dtype)
    sequence_T = torch.bucketize(token_T, cu_seqlens[1:], right=True)  # right: skips empty sequences
    row_T = sequence_T * max_seqlen + token_T - cu_seqlens[sequence_T]
    padded = x.new_zeros(S * max_seqlen, *x.shape[1:]).index_copy(0, row_T, x)
    # An empty sequence keeps one (zero) key: a softmax over no keys at all is NaN in some backends.
    length_S = cu_seqlens.diff().clamp(min=1)
    is_key = torch.arange(max_seqlen, device=x.device) < length_S[:, None]
    return padded.view(S, max_seqlen, *x.shape[1:]), row_T, is_key[:, None, None, :]
