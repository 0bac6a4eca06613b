"""Attention in plain PyTorch, by its fused scaled_dot_product_attention."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = [
    "attention",
    "attention_packed",
    "attention_pool",
    "attention_pool_varlen",
    "attention_varlen",
    "by_matrix_products",
    "known_lengths",
]

BUCKET = 16  # sequences padded together differ in length by fewer tokens than this


def by_matrix_products(attention: Callable[..., Tensor], *args: Any) -> Tensor:
    """Call an attention of this module without fused kernels, which have no jvp and one derivative alone."""
    with sdpa_kernel(SDPBackend.MATH):
        return attention(*args)


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Output (B, Nq, H, D) for q (B, Nq, H, D) and k, v (B, Nk, H, D)."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)


def attention_packed(qkv: Tensor, scale: float) -> Tensor:
    """Output (B, N, H, D) for qkv (B, N, 3, H, D)."""
    q, k, v = qkv.unbind(2)
    return attention(q, k, v, scale)


def attention_varlen(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, dense: tuple[int, int], scale: float
) -> Tensor:
    """Output (T, H, D) for qkv (T, 3, H, D)."""
    lengths = known_lengths(cu_seqlens)
    if lengths is None:
        return attention_padded(qkv, cu_seqlens, max(max_seqlen, dense[1]), scale)
    alike, length, longest = leading(lengths)
    tokens = alike * length
    parts = []
    if tokens:
        same = qkv[:tokens].unflatten(0, (alike, length))
        parts.append(attention_packed(same, scale).flatten(0, 1))
    if longest:
        rest = qkv[tokens:], cu_seqlens[alike:] - tokens
        # Up to BUCKET tokens, all sequences would be in one bucket.
        is_padding_dear = longest > BUCKET and (len(lengths) - alike) * longest > 1.5 * len(rest[0])
        attend = attention_bucketed if is_padding_dear else attention_padded
        parts.append(attend(*rest, longest, scale))
    return torch.cat(parts) if parts else qkv[:, 0] * 1


def attention_bucketed(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float) -> Tensor:
    """Compute `attention_varlen` by padding only sequences of similar lengths together.

    Tokens are sorted by the length of their sequence before, and put back in order afterwards.
    """
    length_S = cu_seqlens.diff()
    bucket_S = length_S.clamp(min=1).sub(1).div(BUCKET, rounding_mode="floor")
    order_T = bucket_S.repeat_interleave(length_S).argsort(stable=True)
    sorted_qkv, outs = qkv.index_select(0, order_T), []
    for bucket in bucket_S.unique():
        own_S = length_S[bucket_S == bucket]
        own_qkv, sorted_qkv = sorted_qkv.split([int(own_S.sum()), len(sorted_qkv) - int(own_S.sum())])
        own_cu_seqlens = F.pad(own_S.cumsum(0), (1, 0)).int()
        outs.append(attention_padded(own_qkv, own_cu_seqlens, int(own_S.max()), scale))
    return torch.cat(outs).index_select(0, order_T.argsort())


def attention_padded(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float) -> Tensor:
    """Compute `attention_varlen` by padding to (S, max_seqlen), masking the keys and packing the output."""
    padded, row_T, is_key = pad(qkv, cu_seqlens, max_seqlen)
    q, k, v = padded.permute(2, 0, 3, 1, 4)  # each (S, H, max_seqlen, D)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=is_key, scale=scale)
    return out.transpose(1, 2).flatten(0, 1).index_select(0, row_T)


def attention_pool(q: Tensor, kv: Tensor, scale: float) -> Tensor:
    """Output (S, H, D) for q (S, H, D) and kv (S, N, 2, H, D)."""
    k, v = kv.unbind(2)
    return attention(q[:, None], k, v, scale)[:, 0]


def attention_pool_varlen(q: Tensor, kv: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float) -> Tensor:
    """Output (S, H, D) for q (S, H, D) and kv (T, 2, H, D)."""
    lengths = known_lengths(cu_seqlens)
    if lengths is None:
        return attention_pool_padded(q, kv, cu_seqlens, max_seqlen, scale)
    alike, length, longest = leading(lengths)
    tokens = alike * length
    parts = []
    if alike:
        parts.append(attention_pool(q[:alike], kv[:tokens].unflatten(0, (alike, length)), scale))
    if len(lengths) > alike or not alike:
        rest = q[alike:], kv[tokens:], cu_seqlens[alike:] - tokens
        parts.append(attention_pool_padded(*rest, max(longest, 1), scale))
    return torch.cat(parts)


def attention_pool_padded(q: Tensor, kv: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float) -> Tensor:
    """Compute `attention_pool_varlen` by padding to (S, max_seqlen) and masking the keys."""
    padded, _, is_key = pad(kv, cu_seqlens, max_seqlen)
    k, v = padded.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q[:, :, None], k, v, attn_mask=is_key, scale=scale)[:, :, 0]


def known_lengths(cu_seqlens: Tensor) -> list[int] | None:
    """Lengths of the sequences; None under torch.compile, and for fake and meta tensors."""
    if torch.compiler.is_compiling() or isinstance(cu_seqlens, FakeTensor) or cu_seqlens.is_meta:
        return None
    return cu_seqlens.diff().tolist()


def leading(lengths: list[int]) -> tuple[int, int, int]:
    """Return the number of leading sequences of one length, that length, and the maximum of the others.

    If photographs come before texts of different lengths, the photographs then need no mask, and the texts
    are not padded to the length of a photograph.
    """
    length = lengths[0] if lengths else 0
    alike = sum(1 for _ in itertools.takewhile(length.__eq__, lengths)) if length else 0
    return alike, length, max(lengths[alike:], default=0)


def pad(x: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pad x (T, ...) with zeros to (S, max_seqlen, ...); also return the row of each token and the key mask.

    The rows are (T,) and the mask is (S, 1, 1, max_seqlen). There is no loop over the sequences, so that one
    trace is valid for all lengths.
    """
    T, S = x.shape[0], cu_seqlens.shape[0] - 1
    token_T = torch.arange(T, device=x.device, dtype=cu_seqlens.dtype)
    sequence_T = torch.bucketize(token_T, cu_seqlens[1:], right=True)  # right=True skips empty sequences
    row_T = sequence_T * max_seqlen + token_T - cu_seqlens[sequence_T]
    padded = x.new_zeros(S * max_seqlen, *x.shape[1:]).index_copy(0, row_T, x)
    # An empty sequence keeps one (zero) key: a softmax over no keys at all is NaN in some backends.
    length_S = cu_seqlens.diff().clamp(min=1)
    is_key = torch.arange(max_seqlen, device=x.device) < length_S[:, None]
    return padded.view(S, max_seqlen, *x.shape[1:]), row_T, is_key[:, None, None, :]
