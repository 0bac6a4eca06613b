"""Bidirectional softmax attention for separate, packed and variable-length inputs, and attention pooling.

On a GPU the ops run Triton kernels (`operators`, `launch`, `kernels`). On other devices, and for float64,
they run PyTorch's fused attention (`eager`). The ops can be differentiated once.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from .._checks import check_floating, check_once, check_same_device, check_same_kind, check_tensor
from .._ops import to_autocast_dtype
from ..dispatch import choose_backend, in_transform
from . import eager, operators

__all__ = [
    "attention_pool",
    "attention_pool_varlen",
    "flash_attention",
    "flash_attention_qkvpacked",
    "flash_attention_varlen",
]

MAX_HEAD_DIM = 128
TRITON_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, backend: str | None = None
) -> Tensor:
    """Compute `softmax(scale * q k^T) v` for each head, without a mask: (B, Nq, H, D).

    This is the attention of Vaswani et al. (arXiv 1706.03762) in the layout of FlashAttention (Dao et al.,
    arXiv 2205.14135). It runs in the dtype of its inputs, or in the autocast dtype if autocast is on. In
    addition to the inputs and the output, it stores one float32 per query and head. The result and its
    gradients are the same bits every time.

    Args:
        q: (B, Nq, H, D), floating, D <= 128. All strides are allowed; a unit last stride saves a copy.
        k, v: (B, Nk, H, D), with the dtype and device of `q`.
        scale: factor of the logits, D ** -0.5 by default.
        backend: "eager" or "triton" to force one; None leaves the choice to the environment variable and the
            device, as `clippo_kernels.dispatch` describes.

    Raises:
        TypeError: if dtypes are not floating or differ, or `scale` is not a number.
        ValueError: if ranks, shapes, head dims or devices do not match, `scale` is not finite, or there is no
            such `backend`.
        RuntimeError: if `backend` forces kernels that cannot run on these tensors.
    """
    check_tensor("q", q, "(B, Nq, H, D)")
    check_floating("q", q)
    check_head_dim("q", q)
    B, _, H, D = q.shape
    for name, tensor in (("k", k), ("v", v)):
        check_tensor(name, tensor, "(B, Nk, H, D)")
        check_same_kind(name, tensor, "q", q)
        if tensor.shape != (B, k.shape[1], H, D):
            raise ValueError(
                f"{name} must have shape ({B}, {k.shape[1]}, {H}, {D}) to go with q {tuple(q.shape)} "
                f"and k {tuple(k.shape)}, got {tuple(tensor.shape)}"
            )
    scale = check_scale(scale, D)
    attention = implementation("flash_attention", q, backend, eager.attention, operators.attention)
    q, k, v = to_autocast_dtype(q, k, v)
    q, scale = positive_scale(q, scale)
    return attention(q, k, v, scale)


def flash_attention_qkvpacked(
    qkv: Tensor, *, scale: float | None = None, backend: str | None = None
) -> Tensor:
    """Compute `flash_attention` of the slices of qkv (B, N, 3, H, D), with one packed gradient: (B, N, H, D).

    `scale`, `backend` and the errors are those of `flash_attention`.
    """
    check_tensor("qkv", qkv, "(B, N, 3, H, D)")
    check_packed("qkv", qkv, 3)
    scale = check_scale(scale, qkv.shape[-1])
    attention = implementation(
        "flash_attention_qkvpacked", qkv, backend, eager.attention_packed, operators.attention_packed
    )
    (qkv,) = to_autocast_dtype(qkv)
    qkv, scale = positive_scale_packed(qkv, scale)
    return attention(qkv, scale)


def flash_attention_varlen(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dense: tuple[int, int] = (0, 0),
    *,
    scale: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """Compute attention within each of S sequences of different lengths, packed without padding: (T, H, D).

    Sequence s is the rows `cu_seqlens[s]:cu_seqlens[s + 1]` of `qkv`; it may be empty. In eager mode the
    offsets are checked, which copies them to the host once per `cu_seqlens` tensor, however many layers share
    it.

    Args:
        qkv: (T, 3, H, D), floating, D <= 128.
        cu_seqlens: (S + 1,), int32, on the device of `qkv`: the cumulative lengths, from 0 up to T.
        max_seqlen: upper bound on the lengths of the sequences that `dense` leaves. A tight bound is fastest.
        dense: number and length of leading sequences of one length, such as the photographs of a batch whose
            captions follow. They run as dense sequences do, so that long ones cost the short ones nothing.
        scale, backend: as in `flash_attention`.

    Raises:
        TypeError: if `qkv` is not floating, `cu_seqlens` is not int32, or `scale` is not a number.
        ValueError: if shapes or devices do not match, `scale` is not finite, or there are fewer sequences or
            tokens than `dense` says; in eager mode also if the offsets do not rise from 0 to T in the steps
            that `dense` and `max_seqlen` allow.
        ValueError, RuntimeError: as in `flash_attention` for `backend`.
    """
    check_tensor("qkv", qkv, "(T, 3, H, D)")
    check_packed("qkv", qkv, 3)
    check_cu_seqlens(cu_seqlens, "qkv", qkv, max_seqlen, dense)
    scale = check_scale(scale, qkv.shape[-1])
    attention = implementation(
        "flash_attention_varlen", qkv, backend, eager.attention_varlen, operators.attention_varlen
    )
    (qkv,) = to_autocast_dtype(qkv)
    qkv, scale = positive_scale_packed(qkv, scale)
    return attention(qkv, cu_seqlens.contiguous(), max_seqlen, dense, scale)


def attention_pool(
    q: Tensor, kv: Tensor, *, scale: float | None = None, backend: str | None = None
) -> Tensor:
    """Attend to each sequence with one query, for a MAP head or class attention: (B, H, D).

    This is `flash_attention` with Nq = 1, in a kernel that reads keys and values once in the forward and once
    in the backward, and writes one packed gradient for them.

    Args:
        q: (H, D), one query for all sequences, or (B, H, D). D <= 128.
        kv: (B, N, 2, H, D), with the dtype and device of `q`.
        scale, backend: as in `flash_attention`, which raises the same errors.
    """
    check_tensor("kv", kv, "(B, N, 2, H, D)")
    check_packed("kv", kv, 2)
    q = check_pool_query(q, kv, kv.shape[0])
    scale = check_scale(scale, q.shape[-1])
    pool = implementation("attention_pool", q, backend, eager.attention_pool, operators.attention_pool)
    q, kv = to_autocast_dtype(q, kv)
    q, scale = positive_scale(q, scale)
    return pool(q, kv, scale)


def attention_pool_varlen(
    q: Tensor,
    kv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dense: tuple[int, int] = (0, 0),
    *,
    scale: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """Compute `attention_pool` of S sequences packed without padding: (S, H, D).

    An empty sequence pools to 0.

    Args:
        q: (H, D), one query for all sequences, or (S, H, D). D <= 128.
        kv: (T, 2, H, D), with the dtype and device of `q`.
        cu_seqlens, max_seqlen, dense, scale, backend: as in `flash_attention_varlen`, which raises the same
            errors.
    """
    check_tensor("kv", kv, "(T, 2, H, D)")
    check_packed("kv", kv, 2)
    check_cu_seqlens(cu_seqlens, "kv", kv, max_seqlen, dense)
    q = check_pool_query(q, kv, cu_seqlens.shape[0] - 1)
    scale = check_scale(scale, q.shape[-1])
    pool = implementation(
        "attention_pool_varlen", q, backend, eager.attention_pool_varlen, operators.attention_pool_varlen
    )
    q, kv = to_autocast_dtype(q, kv)
    q, scale = positive_scale(q, scale)
    return pool(q, kv, cu_seqlens.contiguous(), max(max_seqlen, dense[1]), scale)


def implementation(
    op: str, x: Tensor, backend: str | None, plain: Callable[..., Tensor], kernel: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    if choose_backend(op, x.device, x.dtype in TRITON_DTYPES, backend) == "triton":
        return kernel
    return partial(eager.by_matrix_products, plain) if in_transform() else plain


def positive_scale(queries: Tensor, scale: float) -> tuple[Tensor, float]:
    """Return queries and a positive scale that give the same logits.

    The kernels require a positive scale, so that the largest product is the largest logit. The sign of a
    negative scale moves to the queries; a scale of 0 becomes a scale of 1 with queries of 0.
    """
    if scale > 0:
        return queries, scale
    return queries * math.copysign(bool(scale), scale), abs(scale) or 1.0


def positive_scale_packed(qkv: Tensor, scale: float) -> tuple[Tensor, float]:
    if scale > 0:
        return qkv, scale
    q, k, v = qkv.unbind(-3)
    q, scale = positive_scale(q, scale)
    return torch.stack((q, k, v), -3), scale


def check_scale(scale: float | None, head_dim: int) -> float:
    if scale is None:
        value: float = head_dim**-0.5
        return value
    if not isinstance(scale, int | float):
        raise TypeError(f"scale must be a number, got {type(scale).__name__}")
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")
    return float(scale)


def check_head_dim(name: str, tensor: Tensor) -> None:
    if not 1 <= tensor.shape[-1] <= MAX_HEAD_DIM:
        raise ValueError(f"{name} must have a head dim of 1 to {MAX_HEAD_DIM}, got {tensor.shape[-1]}")


def check_packed(name: str, tensor: Tensor, entries: int) -> None:
    check_floating(name, tensor)
    if tensor.shape[-3] != entries:
        raise ValueError(
            f"{name} must have {entries} entries on axis {tensor.ndim - 3}, got {tuple(tensor.shape)}"
        )
    check_head_dim(name, tensor)


def check_pool_query(q: Tensor, kv: Tensor, sequences: int) -> Tensor:
    """Check `q` and return it as (sequences, H, D)."""
    H, D = kv.shape[-2:]
    if isinstance(q, Tensor) and q.ndim == 2:
        q = q.expand(sequences, -1, -1)
    check_tensor("q", q, "(B, H, D)")
    check_same_kind("q", q, "kv", kv)
    if q.shape != (sequences, H, D):
        raise ValueError(
            f"q must have shape ({H}, {D}) or ({sequences}, {H}, {D}) to go with kv {tuple(kv.shape)}, "
            f"got {tuple(q.shape)}"
        )
    return q


def check_cu_seqlens(
    cu_seqlens: Tensor, name: str, packed: Tensor, max_seqlen: int, dense: tuple[int, int]
) -> None:
    check_tensor("cu_seqlens", cu_seqlens, "(S + 1,)")
    check_same_device("cu_seqlens", cu_seqlens, name, packed)
    if cu_seqlens.dtype != torch.int32:
        raise TypeError(f"cu_seqlens must be int32, got {cu_seqlens.dtype}")
    if cu_seqlens.shape[0] == 0:
        raise ValueError("cu_seqlens must have shape (S + 1,), got (0,)")
    count, length = dense
    if not (0 <= count < cu_seqlens.shape[0] and 0 <= count * length <= packed.shape[0]):
        raise ValueError(
            f"dense must be the number and the length of the first of {cu_seqlens.shape[0] - 1} sequences of "
            f"together {packed.shape[0]} tokens, got {dense}"
        )
    check_once(cu_seqlens, (packed.shape[0], max_seqlen, count, length), check_offsets)


def check_offsets(cu_seqlens: Tensor, tokens: int, max_seqlen: int, count: int, length: int) -> None:
    offsets = cu_seqlens.tolist()
    if offsets[0] != 0:
        raise ValueError(f"cu_seqlens must start at 0, got {offsets[0]}")
    if offsets[-1] != tokens:
        raise ValueError(f"cu_seqlens must end at T = {tokens}, got {offsets[-1]}")
    lengths = [end - start for start, end in pairwise(offsets)]
    if min(lengths, default=0) < 0:
        raise ValueError(f"cu_seqlens must not decrease, got a step of {min(lengths)}")
    dense, rest = lengths[:count], lengths[count:]
    if other := set(dense) - {length}:
        raise ValueError(
            f"cu_seqlens must begin with {count} lengths of {length}, as dense says, got one of {min(other)}"
        )
    if max(rest, default=0) > max_seqlen:
        raise ValueError(f"cu_seqlens must hold lengths up to max_seqlen = {max_seqlen}, got {max(rest)}")
