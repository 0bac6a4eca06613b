"""The Triton attention as registered operators, and the autograd functions that call them.

Each forward operator also returns the log-sum-exp in units of log2. It is an intermediate result for the
backward and has no gradient. Where no kernel can run, as in an exported program on a CPU, a forward operator
runs the eager path, and the log-sum-exp is NaN: an exported program has no backward.
"""

from typing import Any

import torch
from torch import Tensor

from .._ops import refuse_second_derivative, register
from ..dispatch import can_launch
from . import eager

__all__ = ["attention", "attention_packed", "attention_pool", "attention_pool_varlen", "attention_varlen"]


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    out: Tensor = Attention.apply(q, k, v, scale)  # type: ignore[no-untyped-call]
    return out


def attention_packed(qkv: Tensor, scale: float) -> Tensor:
    out: Tensor = PackedAttention.apply(qkv, None, 0, (0, 0), scale)  # type: ignore[no-untyped-call]
    return out


def attention_varlen(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, dense: tuple[int, int], scale: float
) -> Tensor:
    out: Tensor = PackedAttention.apply(qkv, cu_seqlens, max_seqlen, dense, scale)  # type: ignore[no-untyped-call]
    return out


def attention_pool(q: Tensor, kv: Tensor, scale: float) -> Tensor:
    out: Tensor = AttentionPool.apply(q, kv, None, scale)  # type: ignore[no-untyped-call]
    return out


def attention_pool_varlen(q: Tensor, kv: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float) -> Tensor:
    out: Tensor = AttentionPool.apply(q, kv, cu_seqlens, scale)  # type: ignore[no-untyped-call]
    return out


class Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Any:
        out, lse = attention_forward(q, k, v, scale)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("flash_attention")
        return (*attention_backward(dout, *ctx.saved_tensors, ctx.scale), None)


class PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        cu_seqlens: Tensor | None,
        max_seqlen: int,
        dense: tuple[int, int],
        scale: float,
    ) -> Any:
        out, lse = attention_packed_forward(qkv, cu_seqlens, max_seqlen, *dense, scale)
        ctx.save_for_backward(qkv, out, lse, cu_seqlens)
        ctx.constants = max_seqlen, *dense, scale
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("flash_attention")
        dqkv = attention_packed_backward(dout, *ctx.saved_tensors, *ctx.constants)
        return dqkv, None, None, None, None


class AttentionPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, kv: Tensor, cu_seqlens: Tensor | None, scale: float) -> Any:
        out, lse = attention_pool_forward(q, kv, cu_seqlens, scale)
        ctx.save_for_backward(q, kv, out, lse, cu_seqlens)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("attention_pool")
        return (*attention_pool_backward(dout, *ctx.saved_tensors, ctx.scale), None, None)


# ---------------------------------------------------------------------------------------------------------
# Operators. Triton is imported by `launch`, when the first one runs.


def run_forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    if not can_launch(q.device):
        B, N, H, _ = q.shape
        return without_lse(eager.attention(q, k, v, scale), (B, H, N))

    from . import launch

    return launch.forward(q, k, v, scale)


def run_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    from . import launch

    gradients = new_like(q), new_like(k), new_like(v)
    launch.backward(dout, q, k, v, out, lse, scale, gradients)
    return gradients


def run_packed_forward(
    qkv: Tensor,
    cu_seqlens: Tensor | None,
    max_seqlen: int,
    dense_sequences: int,
    dense_length: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    if not can_launch(qkv.device):
        *batch, rows, _, H, _ = qkv.shape
        if cu_seqlens is None:
            out = eager.attention_packed(qkv, scale)
        else:
            out = eager.attention_varlen(qkv, cu_seqlens, max_seqlen, (dense_sequences, dense_length), scale)
        return without_lse(out, (*batch, H, rows))

    from . import launch

    q, k, v = qkv.unbind(-3)
    return launch.forward(q, k, v, scale, cu_seqlens, max_seqlen, (dense_sequences, dense_length))


def run_packed_backward(
    dout: Tensor,
    qkv: Tensor,
    out: Tensor,
    lse: Tensor,
    cu_seqlens: Tensor | None,
    max_seqlen: int,
    dense_sequences: int,
    dense_length: int,
    scale: float,
) -> Tensor:
    from . import launch

    q, k, v = qkv.unbind(-3)
    dqkv = new_like(qkv)
    dq, dk, dv = dqkv.unbind(-3)
    dense = (dense_sequences, dense_length)
    launch.backward(dout, q, k, v, out, lse, scale, (dq, dk, dv), cu_seqlens, max_seqlen, dense)
    return dqkv


def run_pool_forward(q: Tensor, kv: Tensor, cu_seqlens: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    if not can_launch(q.device):
        if cu_seqlens is None:
            out = eager.attention_pool(q, kv, scale)
        else:
            out = eager.attention_pool_varlen(q, kv, cu_seqlens, kv.shape[0], scale)
        return without_lse(out, q.shape[:-1])

    from . import launch

    k, v = kv.unbind(-3)
    return launch.pool_forward(q, k, v, scale, cu_seqlens)


def run_pool_backward(
    dout: Tensor, q: Tensor, kv: Tensor, out: Tensor, lse: Tensor, cu_seqlens: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    from . import launch

    k, v = kv.unbind(-3)
    dq, dkv = new_like(q), new_like(kv)
    dk, dv = dkv.unbind(-3)
    launch.pool_backward(dout, q, k, v, out, lse, scale, (dq, dk, dv), cu_seqlens)
    return dq, dkv


def without_lse(out: Tensor, lse_shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    return out.contiguous(), out.new_full(lse_shape, torch.nan, dtype=torch.float32)


def new_like(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)  # contiguous for all strides of x


def fake_forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    B, N, H, _ = q.shape
    return new_like(q), q.new_empty((B, H, N), dtype=torch.float32)


def fake_packed_forward(qkv: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    *batch, rows, _, H, D = qkv.shape
    return qkv.new_empty((*batch, rows, H, D)), qkv.new_empty((*batch, H, rows), dtype=torch.float32)


def fake_pool_forward(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return new_like(q), q.new_empty(q.shape[:-1], dtype=torch.float32)


def fake_backward(dout: Tensor, *args: Any) -> tuple[Tensor, ...]:
    return tuple(new_like(x) for x in args[:3])


def fake_packed_backward(dout: Tensor, qkv: Tensor, *_: Any) -> Tensor:
    return new_like(qkv)


def fake_pool_backward(dout: Tensor, q: Tensor, kv: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return new_like(q), new_like(kv)


attention_forward = register(
    "attention_forward",
    "(Tensor q, Tensor k, Tensor v, float scale) -> (Tensor out, Tensor lse)",
    run_forward,
    fake_forward,
)
attention_backward = register(
    "attention_backward",
    "(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, float scale)"
    " -> (Tensor dq, Tensor dk, Tensor dv)",
    run_backward,
    fake_backward,
)
attention_packed_forward = register(
    "attention_packed_forward",
    "(Tensor qkv, Tensor? cu_seqlens, SymInt max_seqlen, SymInt dense_sequences, SymInt dense_length,"
    " float scale) -> (Tensor out, Tensor lse)",
    run_packed_forward,
    fake_packed_forward,
)
attention_packed_backward = register(
    "attention_packed_backward",
    "(Tensor dout, Tensor qkv, Tensor out, Tensor lse, Tensor? cu_seqlens, SymInt max_seqlen,"
    " SymInt dense_sequences, SymInt dense_length, float scale) -> Tensor dqkv",
    run_packed_backward,
    fake_packed_backward,
)
attention_pool_forward = register(
    "attention_pool_forward",
    "(Tensor q, Tensor kv, Tensor? cu_seqlens, float scale) -> (Tensor out, Tensor lse)",
    run_pool_forward,
    fake_pool_forward,
)
attention_pool_backward = register(
    "attention_pool_backward",
    "(Tensor dout, Tensor q, Tensor kv, Tensor out, Tensor lse, Tensor? cu_seqlens, float scale)"
    " -> (Tensor dq, Tensor dkv)",
    run_pool_backward,
    fake_pool_backward,
)
