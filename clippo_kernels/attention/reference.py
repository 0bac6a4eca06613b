"""Attention in plain PyTorch, through its fused scaled_dot_product_attention."""

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """(B, Nq, H, D) for q (B, Nq, H, D) and k, v (B, Nk, H, D)."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)


def attention_varlen(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float) -> Tensor:
    """(T, H, D) for qkv (T, 3, H, D): pads to (S, max_seqlen), attends under a key mask, packs again.

    There is no loop over the sequences, so that one trace holds for all lengths.
    """
    T, _, H, D = qkv.shape
    S = cu_seqlens.shape[0] - 1
    token_T = torch.arange(T, device=qkv.device, dtype=cu_seqlens.dtype)
    sequence_T = torch.bucketize(token_T, cu_seqlens[1:], right=True)  # right: skips empty sequences
    row_T = sequence_T * max_seqlen + token_T - cu_seqlens[sequence_T]

    padded = qkv.new_zeros(S * max_seqlen, 3, H, D).index_copy(0, row_T, qkv)
    q, k, v = padded.view(S, max_seqlen, 3, H, D).permute(2, 0, 3, 1, 4)  # each (S, H, max_seqlen, D)
    # An empty sequence keeps one (zero) key: a softmax over no keys at all is NaN in some backends.
    length_S = cu_seqlens.diff().clamp(min=1)
    is_key = torch.arange(max_seqlen, device=qkv.device) < length_S[:, None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=is_key[:, None, None, :], scale=scale)
    return out.transpose(1, 2).reshape(S * max_seqlen, H, D).index_select(0, row_T)
