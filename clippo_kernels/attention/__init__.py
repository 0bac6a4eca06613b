"""Bidirectional softmax attention for separate, packed and variable-length inputs."""

from itertools import pairwise

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .._checks import check_floating, check_same_device, check_same_kind, check_tensor
from ..dispatch import select
from . import reference

MAX_HEAD_DIM = 128

DENSE_IMPLEMENTATIONS = {"reference": reference.attention}
VARLEN_IMPLEMENTATIONS = {"reference": reference.attention_varlen}


def flash_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
    """`softmax(scale * q k^T) v` for each head, without a mask: (B, Nq, H, D).

    The attention of Vaswani et al. (arXiv 1706.03762) with the layout of FlashAttention (Dao et al.,
    arXiv 2205.14135). Runs in the dtype of its inputs, or in the autocast dtype where autocast is on.

    Args:
        q: (B, Nq, H, D), floating, D <= 128. Any strides; a unit last stride is the fast case.
        k, v: (B, Nk, H, D), dtype and device of `q`.
        scale: factor of the logits, D ** -0.5 by default.

    Raises:
        TypeError: dtypes that are not floating or differ.
        ValueError: ranks, shapes, head dims or devices that do not fit.
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
    attention = select("flash_attention", q.device, DENSE_IMPLEMENTATIONS)
    return attention(q, k, v, default_scale(scale, D))


def flash_attention_qkvpacked(qkv: Tensor, *, scale: float | None = None) -> Tensor:
    """`flash_attention` of the slices of qkv (B, N, 3, H, D), with one packed gradient: (B, N, H, D).

    Raises:
        TypeError: a dtype that is not floating.
        ValueError: another shape, or D > 128.
    """
    check_tensor("qkv", qkv, "(B, N, 3, H, D)")
    check_packed(qkv)
    attention = select("flash_attention_qkvpacked", qkv.device, DENSE_IMPLEMENTATIONS)
    q, k, v = qkv.unbind(2)
    return attention(q, k, v, default_scale(scale, qkv.shape[-1]))


def flash_attention_varlen(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, *, scale: float | None = None
) -> Tensor:
    """Attention within each of S sequences of different lengths, packed without padding: (T, H, D).

    Sequence s is the rows `cu_seqlens[s]:cu_seqlens[s + 1]` of `qkv`; it may be empty. Eager mode checks
    the offsets, for which it copies them to the host.

    Args:
        qkv: (T, 3, H, D), floating, D <= 128.
        cu_seqlens: (S + 1,), int32, on the device of `qkv`: the cumulative lengths, from 0 up to T.
        max_seqlen: at least the longest length.
        scale: factor of the logits, D ** -0.5 by default.

    Raises:
        TypeError: a dtype of `qkv` that is not floating, a `cu_seqlens` that is not int32.
        ValueError: shapes or devices that do not fit; in eager mode also offsets that do not rise from 0 to
            T in steps of at most `max_seqlen`.
    """
    check_tensor("qkv", qkv, "(T, 3, H, D)")
    check_packed(qkv)
    check_tensor("cu_seqlens", cu_seqlens, "(S + 1,)")
    check_same_device("cu_seqlens", cu_seqlens, "qkv", qkv)
    if cu_seqlens.dtype != torch.int32:
        raise TypeError(f"cu_seqlens must be int32, got {cu_seqlens.dtype}")
    if cu_seqlens.shape[0] == 0:
        raise ValueError("cu_seqlens must have shape (S + 1,), got (0,)")
    # A traced or fake tensor has no values to look at.
    if not torch.compiler.is_compiling() and not isinstance(cu_seqlens, FakeTensor):
        check_offsets(cu_seqlens.tolist(), qkv.shape[0], max_seqlen)
    attention = select("flash_attention_varlen", qkv.device, VARLEN_IMPLEMENTATIONS)
    return attention(qkv, cu_seqlens, max_seqlen, default_scale(scale, qkv.shape[-1]))


def default_scale(scale: float | None, head_dim: int) -> float:
    return head_dim**-0.5 if scale is None else scale


def check_head_dim(name: str, tensor: Tensor) -> None:
    if not 1 <= tensor.shape[-1] <= MAX_HEAD_DIM:
        raise ValueError(f"{name} must have a head dim of 1 to {MAX_HEAD_DIM}, got {tensor.shape[-1]}")


def check_packed(qkv: Tensor) -> None:
    check_floating("qkv", qkv)
    if qkv.shape[-3] != 3:
        raise ValueError(f"qkv must have 3 entries on axis {qkv.ndim - 3}, got {tuple(qkv.shape)}")
    check_head_dim("qkv", qkv)


def check_offsets(offsets: list[int], tokens: int, max_seqlen: int) -> None:
    if offsets[0] != 0:
        raise ValueError(f"cu_seqlens must start at 0, got {offsets[0]}")
    if offsets[-1] != tokens:
        raise ValueError(f"cu_seqlens must end at T = {tokens}, got {offsets[-1]}")
    lengths = [end - start for start, end in pairwise(offsets)]
    if min(lengths, default=0) < 0:
        raise ValueError(f"cu_seqlens must not decrease, got a step of {min(lengths)}")
    if max(lengths, default=0) > max_seqlen:
        raise ValueError(f"cu_seqlens must hold lengths up to max_seqlen = {max_seqlen}, got {max(lengths)}")
