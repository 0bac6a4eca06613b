"""Launches of the attention kernels: allocation of the outputs, choice of a kernel, and strides.

Packed sequences (with `cu_seqlens`) are (T, H, D) tensors and come with the longest length; dense sequences
are (B, N, H, D).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import tuning
from .._triton import Plan, cdiv, launch, num_sms, with_unit_last_stride
from . import kernels

__all__ = ["backward", "forward", "pool_backward", "pool_forward"]

LOG2_E = 1.4426950408889634

Gradients = tuple[Tensor, Tensor, Tensor]


class Problem(NamedTuple):
    """The key of a launch plan: shapes, strides and dtype of an attention, without its tensors' addresses.

    The layers of a tower have the same problem, so that its plans are cached and found by one look-up.
    """

    device: torch.device
    dtype: torch.dtype
    q_shape: tuple[int, ...]
    k_shape: tuple[int, ...]
    q_strides: tuple[tuple[int, ...], ...]  # of q, out, and their gradients
    k_strides: tuple[tuple[int, ...], ...]  # of k, v, and their gradients
    lse_stride: tuple[int, ...]
    starts_aligned: bool  # every tensor starts at a multiple of 16 bytes
    sequences: int
    varlen: bool
    max_seqlen: int  # for packed sequences, whose lengths the kernels read

    @property
    def Nq(self) -> int:
        return self.max_seqlen if self.varlen else self.q_shape[1]

    @property
    def Nk(self) -> int:
        return self.max_seqlen if self.varlen else self.k_shape[1]

    @property
    def D(self) -> int:
        return self.q_shape[-1]

    @property
    def heads(self) -> int:
        """Heads of all sequences."""
        return self.sequences * self.q_shape[-2]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Nq, or T for packed sequences, Nk and H, as the kernels take them."""
        rows, H, _ = self.q_shape[-3:]
        return rows, self.Nk, H

    def strides(self) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]], tuple[int, int]]:
        """The (sequence, row, head) strides of the tensors like q and like k, and those of lse."""
        of_q = [kernel_stride(self.q_shape, stride) for stride in self.q_strides]
        of_k = [kernel_stride(self.k_shape, stride) for stride in self.k_strides]
        of_lse = self.lse_stride[:2] if len(self.lse_stride) == 3 else (0, self.lse_stride[0])
        return of_q, of_k, of_lse

    def constants(self) -> dict[str, Any]:
        of_q, of_k, _ = self.strides()
        aligned = self.starts_aligned and keep_alignment([*of_q, *of_k], self.dtype)
        return {"D": self.D, "ALIGNED": aligned, "VARLEN": self.varlen}


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
    for own, own_lse, own_cu_seqlens in parts((q, k, v, out), lse, cu_seqlens, dense):
        write_output(*own, lse=own_lse, scale=scale, cu_seqlens=own_cu_seqlens, max_seqlen=max_seqlen)
    return out, lse


def write_output(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    *,
    lse: Tensor,
    scale: float,
    cu_seqlens: Tensor | None,
    max_seqlen: int,
) -> None:
    """Write `out` and `lse` of dense or packed sequences."""
    problem = problem_of((q, out), (k, v), lse, cu_seqlens, max_seqlen)
    if out.numel() == 0 or problem.Nk == 0:
        out.zero_()
        lse.fill_(-torch.inf)
    else:
        forward_plan(problem, scale).launch(q, k, v, out, lse, cu_seqlens)


@tuning.planned
def forward_plan(problem: Problem, scale: float) -> Plan:
    """Plan the launch with q, k, v, out, lse and cu_seqlens."""
    (of_q, of_out), (of_k, of_v), of_lse = problem.strides()
    numbers: tuple[Any, ...] = (of_q, of_k, of_v, of_out, of_lse, *problem.sizes)
    constants = problem.constants()
    if options := short_options("short_forward", problem):
        # If there are enough heads to fill the device, one program handles all queries of a head, so that its
        # keys are read only once.
        rows = problem.Nq if 2 * num_sms(problem.device) <= problem.heads else options["BLOCK_M"]
        blocks = cdiv(problem.Nq, rows)
        kernel, numbers = kernels.short_forward, (*numbers, blocks, rows, scale * LOG2_E)
    else:
        options = long_options("long_forward", problem)
        blocks = cdiv(problem.Nq, options["BLOCK_M"])
        kernel, numbers = kernels.long_forward, (*numbers, blocks, scale * LOG2_E)
        constants["FULL_BLOCKS"] = has_full_blocks(problem, options)
    return plan(problem, kernel, blocks, numbers, constants | options)


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
    for own, own_lse, own_cu_seqlens in parts((dout, q, k, v, out, *gradients), lse, cu_seqlens, dense):
        write_gradients(*own, lse=own_lse, scale=scale, cu_seqlens=own_cu_seqlens, max_seqlen=max_seqlen)


def write_gradients(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    *,
    lse: Tensor,
    scale: float,
    cu_seqlens: Tensor | None,
    max_seqlen: int,
) -> None:
    """Write dq, dk and dv of dense or packed sequences."""
    problem = problem_of((q, out, dout, dq), (k, v, dk, dv), lse, cu_seqlens, max_seqlen)
    if out.numel() == 0 or problem.Nk == 0:
        for gradient in (dq, dk, dv):
            gradient.zero_()
    elif plan := short_backward_plan(problem, scale):
        plan.launch(q, k, v, out, dout, lse, dq, dk, dv, cu_seqlens)
    else:
        for_dq, for_dkdv = long_backward_plans(problem, scale)
        # Written with dq and read with dk and dv, by the strides of lse, which may be part of a larger one.
        delta = torch.empty_strided(lse.shape, lse.stride(), dtype=lse.dtype, device=lse.device)
        for_dq.launch(q, k, v, out, dout, lse, delta, dq, cu_seqlens)
        for_dkdv.launch(q, k, v, dout, lse, delta, dk, dv, cu_seqlens)


@tuning.planned
def short_backward_plan(problem: Problem, scale: float) -> Plan | None:
    """Plan the launch with q, k, v, out, dout, lse, dq, dk, dv and cu_seqlens; None for too many keys."""
    options = short_options("short_backward", problem)
    if options is None:
        return None
    (of_q, of_out, of_dout, of_dq), (of_k, of_v, of_dk, of_dv), of_lse = problem.strides()
    numbers = (
        of_q, of_k, of_v, of_out, of_dout, of_lse, of_dq, of_dk, of_dv,
        *problem.sizes, scale, scale * LOG2_E,
    )  # fmt: skip
    return plan(problem, kernels.short_backward, 1, numbers, problem.constants() | options)


@tuning.planned
def long_backward_plans(problem: Problem, scale: float) -> tuple[Plan, Plan]:
    """Plan the launches with q, k, v, out, dout, lse, delta, dq, and with q, k, v, dout, lse, delta, dk, dv.

    Both have cu_seqlens as the last tensor.
    """
    (of_q, of_out, of_dout, of_dq), (of_k, of_v, of_dk, of_dv), of_lse = problem.strides()
    constants, scales = problem.constants(), (scale, scale * LOG2_E)
    options = long_options("long_backward_dq", problem)
    blocks = cdiv(problem.Nq, options["BLOCK_M"])
    numbers: tuple[Any, ...] = (
        of_q, of_k, of_v, of_out, of_dout, of_lse, of_dq, *problem.sizes, blocks, *scales,
    )  # fmt: skip
    own = {"FULL_BLOCKS": has_full_blocks(problem, options)}
    for_dq = plan(problem, kernels.long_backward_dq, blocks, numbers, constants | own | options)

    options = long_options("long_backward_dkdv", problem)
    blocks = cdiv(problem.Nk, options["BLOCK_N"])
    numbers = (of_q, of_k, of_v, of_dout, of_lse, of_dk, of_dv, *problem.sizes, blocks, *scales)
    return for_dq, plan(problem, kernels.long_backward_dkdv, blocks, numbers, constants | options)


def plan(
    problem: Problem, kernel: Any, blocks: int, numbers: tuple[Any, ...], options: dict[str, Any]
) -> Plan:
    """Plan `blocks` programs for every head."""
    return Plan(kernel, problem.heads * blocks, numbers, options, problem.starts_aligned)


def pool_forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, cu_seqlens: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Output (S, H, D) and log-sum-exp (S, H) for q (S, H, D) and k, v (S, N, H, D) or (T, H, D)."""
    q, k, v = map(with_unit_last_stride, (q, k, v))
    S, H, D = q.shape
    out, lse = q.new_empty(q.shape), q.new_empty((S, H), dtype=torch.float32)
    if out.numel() == 0:
        return out, lse
    layout = [*one_row(q), *kernel_strides(k, v), *one_row(out)]
    launch(
        kernels.pool_forward, S * H, q, k, v, out, lse, cu_seqlens, *layout,
        k.shape[-3], H, scale * LOG2_E,
        D=D, ALIGNED=start_aligned((q, k, v, out)) and keep_alignment(layout, q.dtype),
        VARLEN=cu_seqlens is not None, **long_options("pool_forward", q),
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
    if out.numel() == 0:  # the gradients are empty too
        return
    layout = [*one_row(q), *kernel_strides(k, v), *one_row(out, dout, dq), *kernel_strides(dk, dv)]
    launch(
        kernels.pool_backward, S * H, q, k, v, out, dout, lse, dq, dk, dv, cu_seqlens, *layout,
        k.shape[-3], H, scale, scale * LOG2_E,
        D=D, ALIGNED=start_aligned((q, k, v, out, dout, dq, dk, dv)) and keep_alignment(layout, q.dtype),
        VARLEN=cu_seqlens is not None, **long_options("pool_backward", q),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------
# Choice of a kernel


def short_options(kernel: str, problem: Problem) -> dict[str, int] | None:
    """Launch options of a kernel that holds all keys in one program, or None if there are too many keys.

    For packed sequences the longest length decides, and every sequence is computed with that many keys; the
    loop over its queries ends at its own length.
    """
    name = f"attention.{kernel}_varlen" if problem.varlen else f"attention.{kernel}"
    Nk = problem.Nk
    options = tuning.find(name, problem.device, problem.dtype, head_dim=problem.D, keys=Nk)
    if options is None:
        return None
    block = max(16, 1 << (Nk - 1).bit_length())
    # KEYS is rounded up to a multiple of 16, so that lengths up to 256 compile 16 variants of a kernel and
    # not 256.
    return options | {"KEYS": block if problem.varlen else cdiv(Nk, 16) * 16, "BLOCK_N": block}


def long_options(kernel: str, x: Problem | Tensor) -> dict[str, int]:
    """Launch options of a kernel for any number of keys, for a problem or for the queries of a pool."""
    head_dim = x.D if isinstance(x, Problem) else x.shape[-1]
    options = tuning.find(f"attention.{kernel}", x.device, x.dtype, head_dim=head_dim)
    assert options is not None, "the last row of a table takes all sizes"
    return options


def has_full_blocks(problem: Problem, options: dict[str, int]) -> bool:
    return not problem.varlen and problem.Nk % options["BLOCK_N"] == 0


# ---------------------------------------------------------------------------------------------------------
# Shapes and strides


def problem_of(
    like_q: tuple[Tensor, ...],
    like_k: tuple[Tensor, ...],
    lse: Tensor,
    cu_seqlens: Tensor | None,
    max_seqlen: int,
) -> Problem:
    """Describe q and the tensors shaped like it, k and the tensors shaped like it, and the sequences."""
    q, k = like_q[0], like_k[0]
    return Problem(
        q.device,
        q.dtype,
        q.shape,
        k.shape,
        tuple(map(Tensor.stride, like_q)),
        tuple(map(Tensor.stride, like_k)),
        lse.stride(),
        start_aligned((*like_q, *like_k, lse)),
        q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1,
        cu_seqlens is not None,
        max_seqlen,
    )


def kernel_stride(shape: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...]:
    """The (sequence, row, head) strides of a (B, N, H, D) tensor, or of a packed (T, H, D) tensor."""
    # The stride of an axis of length 1 is arbitrary; it is set to 0, so that it does not affect the
    # alignment.
    known = (s if n > 1 else 0 for s, n in zip(stride[:-1], shape[:-1], strict=True))
    return (0,) * (4 - len(shape)) + tuple(known)


def kernel_strides(*tensors: Tensor) -> list[tuple[int, ...]]:
    return [kernel_stride(x.shape, x.stride()) for x in tensors]


def one_row(*tensors: Tensor) -> list[tuple[int, ...]]:
    """The `kernel_strides` of (S, H, D) tensors, which have one row per sequence."""
    return kernel_strides(*(x[:, None] for x in tensors))


def parts(
    tensors: tuple[Tensor, ...], lse: Tensor, cu_seqlens: Tensor | None, dense: tuple[int, int]
) -> Iterator[tuple[tuple[Tensor, ...], Tensor, Tensor | None]]:
    """Divide sequences by their kernels: the leading dense ones of packed sequences, and the others.

    Each part is its views of the tensors, its log-sum-exp, and its offsets, None where it is dense.
    """
    B, N = dense

    def leading(x: Tensor) -> Tensor:
        """The dense sequences (B, N, ...) of packed ones (T, ...)."""
        view: Tensor = x[: B * N].unflatten(0, (B, N))
        return view

    if B * N:
        yield tuple(map(leading, tensors)), leading(lse.mT).mT, None
    rows = lse.shape[-1]
    if rows > B * N or not rows:
        yield tensors, lse, None if cu_seqlens is None else cu_seqlens[B:]


def start_aligned(tensors: tuple[Tensor, ...]) -> bool:
    """Whether every tensor starts at a multiple of 16 bytes."""
    addresses = 0
    for x in tensors:
        addresses |= x.data_ptr()
    return addresses % 16 == 0


def keep_alignment(strides: list[tuple[int, ...]], dtype: torch.dtype) -> bool:
    """Whether every row of every head starts at a multiple of 16 bytes if the first does."""
    elements = 16 // dtype.itemsize
    return all(s % elements == 0 for stride in strides for s in stride)
