"""Launches of the attention kernels: allocation of the outputs, choice of a kernel, and strides.

Packed sequences (with `cu_seqlens`) are (T, H, D) tensors and come with the longest length; dense sequences
are (B, N, H, D).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .. import tuning
from .._triton import cdiv, launch, num_sms, with_unit_last_stride
from . import kernels

__all__ = ["backward", "forward", "pool_backward", "pool_forward"]

LOG2_E = 1.4426950408889634

Gradients = tuple[Tensor, Tensor, Tensor]


class Sizes(NamedTuple):
    """Sizes of an attention problem.

    For packed sequences, Nq and Nk are the longest length; the kernels read the length of each sequence.
    """

    sequences: int
    Nq: int
    Nk: int
    H: int
    D: int


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int = 0,
    dense: tuple[int, int] = (0, 0),
) -> tuple[Tensor, Tensor]:
    """Return the output, shaped like q, and the base-2 log-sum-exp of the logits, log2(sum(exp(logits))).

    The log-sum-exp is float32: (B, H, Nq), or (H, T) for packed sequences. `dense` is the number and the
    length of leading packed sequences of one length, which run as dense sequences do.
    """
    q, k, v = map(with_unit_last_stride, (q, k, v))
    out = q.new_empty(q.shape)
    *batch, rows, H, _ = q.shape
    lse = q.new_empty((*batch, H, rows), dtype=torch.float32)
    for own, own_lse, own_cu_seqlens in parts(lse, cu_seqlens, dense):
        write_output(own(q), own(k), own(v), own(out), own_lse, scale, own_cu_seqlens, max_seqlen)
    return out, lse


def write_output(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    cu_seqlens: Tensor | None,
    max_seqlen: int,
) -> None:
    """Write `out` and `lse` of dense or packed sequences."""
    B, Nq, Nk, H, D = sizes_of(q, k, cu_seqlens, max_seqlen)
    varlen = cu_seqlens is not None
    if out.numel() == 0 or Nk == 0:
        out.zero_()
        lse.fill_(-torch.inf)
        return

    tensors = (q, k, v, out)
    layout = strides(tensors, varlen)
    operands = (*tensors, lse, *layout, lse_stride(lse), cu_seqlens, Nq, Nk, H)
    constants = {"D": D, "ALIGNED": aligned(tensors, layout), "VARLEN": varlen}
    scale_log2 = scale * LOG2_E
    if options := short_options("short_forward", q, D, Nk, varlen):
        # If there are enough heads to fill the device, one program handles all queries of a head, so that its
        # keys are read only once.
        rows = Nq if 2 * num_sms(q.device) <= B * H else options["BLOCK_M"]
        blocks = cdiv(Nq, rows)
        programs = B * H * blocks
        launch(kernels.short_forward, programs, *operands, blocks, rows, scale_log2, **constants, **options)
    else:
        options = long_options("long_forward", q, D)
        blocks = cdiv(Nq, options["BLOCK_M"])
        programs = B * H * blocks
        constants["FULL_BLOCKS"] = full_blocks(Nk, options, varlen)
        launch(kernels.long_forward, programs, *operands, blocks, scale_log2, **constants, **options)


def backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    gradients: Gradients,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int = 0,
    dense: tuple[int, int] = (0, 0),
) -> None:
    """Write dq, dk and dv into `gradients`, which may have any strides with a unit last stride.

    `dense` is that of `forward`.
    """
    q, k, v, dout = map(with_unit_last_stride, (q, k, v, dout))
    for own, own_lse, own_cu_seqlens in parts(lse, cu_seqlens, dense):
        dq, dk, dv = map(own, gradients)
        write_gradients(
            own(dout), own(q), own(k), own(v), own(out), own_lse, scale, (dq, dk, dv),
            own_cu_seqlens, max_seqlen,
        )  # fmt: skip


def write_gradients(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    gradients: Gradients,
    cu_seqlens: Tensor | None,
    max_seqlen: int,
) -> None:
    """Write dq, dk and dv of dense or packed sequences."""
    B, Nq, Nk, H, D = sizes_of(q, k, cu_seqlens, max_seqlen)
    if out.numel() == 0 or Nk == 0:
        for gradient in gradients:
            gradient.zero_()
        return

    varlen = cu_seqlens is not None
    inputs = (q, k, v, out, dout)
    read, written = strides(inputs, varlen), strides(gradients, varlen)
    scales = (scale, scale * LOG2_E)
    is_aligned = aligned((*inputs, *gradients), read + written)
    constants = {"D": D, "ALIGNED": is_aligned, "VARLEN": varlen}

    sizes = (cu_seqlens, Nq, Nk, H)
    if options := short_options("short_backward", q, D, Nk, varlen):
        operands = (*inputs, lse, *gradients, *read, lse_stride(lse), *written, *sizes)
        launch(kernels.short_backward, B * H, *operands, *scales, **constants, **options)
        return

    dq, *dkdv = gradients
    of_dq, *of_dkdv = written
    # It is written with dq and read with dk and dv, by the strides of lse, which may be part of a larger one.
    delta = torch.empty_strided(lse.shape, lse.stride(), dtype=lse.dtype, device=lse.device)
    options = long_options("long_backward_dq", q, D)
    blocks = cdiv(Nq, options["BLOCK_M"])
    operands = (*inputs, lse, delta, dq, *read, lse_stride(lse), of_dq, *sizes, blocks)
    own = options | {"FULL_BLOCKS": full_blocks(Nk, options, varlen)}
    launch(kernels.long_backward_dq, B * H * blocks, *operands, *scales, **constants, **own)

    options = long_options("long_backward_dkdv", q, D)
    blocks = cdiv(Nk, options["BLOCK_N"])
    (q, k, v, _, dout), (of_q, of_k, of_v, _, of_dout) = inputs, read
    layout = (of_q, of_k, of_v, of_dout, lse_stride(lse), *of_dkdv)
    operands = (q, k, v, dout, lse, delta, *dkdv, *layout, *sizes, blocks)
    launch(kernels.long_backward_dkdv, B * H * blocks, *operands, *scales, **constants, **options)


def pool_forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, cu_seqlens: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Output (S, H, D) and log-sum-exp (S, H) for q (S, H, D) and k, v (S, N, H, D) or (T, H, D)."""
    q, k, v = map(with_unit_last_stride, (q, k, v))
    S, H, D = q.shape
    varlen = cu_seqlens is not None
    out, lse = q.new_empty(q.shape), q.new_empty((S, H), dtype=torch.float32)
    if out.numel() == 0:
        return out, lse
    layout = [*one_row(q), *strides((k, v), varlen), *one_row(out)]
    launch(
        kernels.pool_forward, S * H, q, k, v, out, lse, *layout,
        cu_seqlens, 0 if varlen else k.shape[1], H, scale * LOG2_E,
        D=D, ALIGNED=aligned((q, k, v, out), layout), VARLEN=varlen, **long_options("pool_forward", q, D),
    )  # fmt: skip
    return out, lse


def pool_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    gradients: Gradients,
    cu_seqlens: Tensor | None = None,
) -> None:
    """Write dq, dk and dv into `gradients`."""
    dq, dk, dv = gradients
    q, k, v, dout = map(with_unit_last_stride, (q, k, v, dout))
    S, H, D = q.shape
    varlen = cu_seqlens is not None
    if out.numel() == 0:  # the gradients are empty too
        return
    layout = [*one_row(q), *strides((k, v), varlen), *one_row(out, dout, dq), *strides((dk, dv), varlen)]
    launch(
        kernels.pool_backward, S * H, q, k, v, out, dout, lse, dq, dk, dv, *layout,
        cu_seqlens, 0 if varlen else k.shape[1], H, scale, scale * LOG2_E,
        D=D, ALIGNED=aligned((q, k, v, out, dout, dq, dk, dv), layout), VARLEN=varlen,
        **long_options("pool_backward", q, D),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------
# Choice of a kernel


def short_options(kernel: str, q: Tensor, D: int, Nk: int, varlen: bool) -> dict[str, int] | None:
    """Launch options of a kernel that holds all keys in one program, or None if there are too many keys.

    For packed sequences the longest length decides, and every sequence is computed with that many keys; the
    loop over its queries ends at its own length.
    """
    name = f"attention.{kernel}_varlen" if varlen else f"attention.{kernel}"
    options = tuning.find(name, q.device, q.dtype, head_dim=D, keys=Nk)
    if options is None:
        return None
    block = max(16, 1 << (Nk - 1).bit_length())
    # KEYS is rounded up to a multiple of 16, so that lengths up to 256 compile 16 variants of a kernel and
    # not 256.
    return options | {"KEYS": block if varlen else cdiv(Nk, 16) * 16, "BLOCK_N": block}


def long_options(kernel: str, q: Tensor, D: int) -> dict[str, int]:
    options = tuning.find(f"attention.{kernel}", q.device, q.dtype, head_dim=D)
    assert options is not None, "the last row of a table takes all sizes"
    return options


def full_blocks(Nk: int, options: dict[str, int], varlen: bool) -> bool:
    return not varlen and Nk % options["BLOCK_N"] == 0


# ---------------------------------------------------------------------------------------------------------
# Shapes and strides


def sizes_of(q: Tensor, k: Tensor, cu_seqlens: Tensor | None, max_seqlen: int) -> Sizes:
    H, D = q.shape[-2:]
    if cu_seqlens is None:
        return Sizes(q.shape[0], q.shape[1], k.shape[1], H, D)
    return Sizes(cu_seqlens.shape[0] - 1, max_seqlen, max_seqlen, H, D)


def strides(tensors: tuple[Tensor, ...], varlen: bool) -> list[tuple[int, ...]]:
    """The (sequence, row, head) strides of (B, N, H, D) tensors, or of packed (T, H, D) tensors."""
    # The stride of an axis of length 1 is arbitrary; it is set to 0, so that it does not affect the
    # alignment.
    return [
        (0,) * varlen + tuple(s if n > 1 else 0 for s, n in zip(x.stride()[:-1], x.shape[:-1], strict=True))
        for x in tensors
    ]


def one_row(*tensors: Tensor) -> list[tuple[int, ...]]:
    """The `strides` of (S, H, D) tensors, which have one row per sequence."""
    return strides(tuple(x[:, None] for x in tensors), varlen=False)


def parts(
    lse: Tensor, cu_seqlens: Tensor | None, dense: tuple[int, int]
) -> Iterator[tuple[Callable[[Tensor], Tensor], Tensor, Tensor | None]]:
    """Divide sequences by their kernels: the leading dense ones of packed sequences, and the others.

    Each part is a function that returns its view of a tensor, its log-sum-exp, and its offsets, None where it
    is dense.
    """
    B, N = dense

    def leading(x: Tensor) -> Tensor:
        """The dense sequences (B, N, ...) of packed ones (T, ...)."""
        view: Tensor = x[: B * N].unflatten(0, (B, N))
        return view

    if B * N:
        yield leading, leading(lse.mT).mT, None
    rows = lse.shape[-1]
    if rows > B * N or not rows:
        yield lambda x: x, lse, None if cu_seqlens is None else cu_seqlens[B:]


def lse_stride(lse: Tensor) -> tuple[int, int]:
    """The (sequence, head) strides of a log-sum-exp (B, H, N) or (H, T)."""
    return (0, lse.stride(0)) if lse.ndim == 2 else (lse.stride(0), lse.stride(1))


def aligned(tensors: tuple[Tensor, ...], layout: list[tuple[int, ...]]) -> bool:
    """Whether every row of every head starts at a multiple of 16 bytes."""
    elements = 16 // tensors[0].itemsize
    return all(x.data_ptr() % 16 == 0 for x in tensors) and all(
        s % elements == 0 for stride in layout for s in stride
    )
