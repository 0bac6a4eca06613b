"""Softmax attention in Triton: kernels for short and long sequences, dense or packed, and for pooling.

These are lower bounds for one head with N queries and keys, head dim D and 2-byte elements:

    forward    reads q k v, writes out          8 N D bytes     4 N^2 D FLOP     N^2 exponentials
    backward   reads q k v out dout,           16 N D bytes    10 N^2 D FLOP     N^2 exponentials
               writes dq dk dv

On an H100 (3.35 TB/s, 989 TFLOP/s dense bfloat16, 3.9 T exp/s) the forward is bound by memory up to about N =
590 if products and exponentials overlap, and the backward up to about N = 470. At the sequence lengths of
vision towers, attention is fast if every byte is moved once. This leads to two designs.

*Short* (up to 256 keys): a program holds all keys of a head. Softmax takes one pass, without running maxima
or rescaling. The backward is one kernel with five products, which also computes `sum(out * dout)` and writes
dq, dk and dv once, with any strides. This reaches the lower bound in bytes. The number of keys is rounded up
at compile time to a multiple of 16, so that N = 196 costs 208 exponentials per row and not 256.

*Long*: online softmax (Milakov and Gimelshein, arXiv 1805.02867) over blocks of keys, as in FlashAttention-2
(Dao, arXiv 2307.08691). The backward has one kernel for dq and one for dk and dv: seven products instead of
five, but neither atomics nor a float32 dq. The kernel for dq runs first and writes `delta = sum(out * dout)`,
4 bytes per query and head, so that the other does not read `out` again for every block of keys. In the
forward, the block of keys that is not full comes first, so that the loop over the full blocks has no mask.

*Pool*: with one query per sequence, no product is large enough for tensor cores: 4 N D bytes for 4 N D FLOP.
The kernels read keys and values once, in the backward too, and write their packed gradient.

Conventions. The suffix of a tile names its axes: `q_MD` is BLOCK_M queries by D features. D is split into
pieces, the binary digits of D rounded up to a multiple of 16: 80 = 64 + 16 costs a fifth less than 128 would.
A tile over D is a tuple of pieces. `x_stride` is the (sequence, row, head) strides of x in elements; the last
stride is 1. The log-sum-exp is stored in units of log2, so that a probability is `exp2(score * scale_log2e -
lse)`, which takes one multiply-add and one exp2. Scales are positive. All sums are accumulated in float32.
Heads are the fastest axis of the grid, because neighbouring programs then read slices of a packed row that
share cache lines and DRAM pages.
"""

import triton
import triton.language as tl

from .._triton import cast, dot

__all__ = [
    "long_backward_dkdv",
    "long_backward_dq",
    "long_forward",
    "pool_backward",
    "pool_forward",
    "short_backward",
    "short_forward",
]

# These arguments are not specialized, because Triton would compile variants of a kernel for 1, for multiples
# of 16, and for other values. The offsets that follow those of dense sequences start at any multiple of 4
# bytes.
UNSPECIALIZED = ["Nq", "Nk", "N", "H", "blocks", "rows_per_program", "cu_seqlens"]

# ---------------------------------------------------------------------------------------------------------
# Tiles


@triton.constexpr_function
def pieces(D):
    """Sizes of the pieces of a head dim, e.g. [64, 16] for 72 and for 80."""
    rounded = -(-D // 16) * 16
    return [1 << bit for bit in range(rounded.bit_length() - 1, 3, -1) if rounded >> bit & 1]


@triton.constexpr_function
def num_pieces(D):
    return len(pieces(D))


@triton.constexpr_function
def piece_start(D, i):
    return sum(pieces(D)[:i])


@triton.constexpr_function
def piece_size(D, i):
    return pieces(D)[i]


@triton.jit
def channels(D: tl.constexpr, i: tl.constexpr):
    return piece_start(D, i) + tl.arange(0, piece_size(D, i))


@triton.jit
def load_rows(base, row_stride, rows, length, D: tl.constexpr, ALIGNED: tl.constexpr):
    """Load a tile of `rows` of a head, with zeros beyond `length` and beyond D."""
    tile = ()
    for i in tl.static_range(num_pieces(D)):
        inside = (rows < length)[:, None] & (channels(D, i) < D)[None, :]
        pointers = element_pointers(base, row_stride, rows, D, i, ALIGNED)
        tile = tile + (tl.load(pointers, mask=inside, other=0.0),)
    return tile


@triton.jit
def store_rows(base, row_stride, rows, length, tile, D: tl.constexpr, ALIGNED: tl.constexpr):
    for i in tl.static_range(num_pieces(D)):
        inside = (rows < length)[:, None] & (channels(D, i) < D)[None, :]
        pointers = element_pointers(base, row_stride, rows, D, i, ALIGNED)
        tl.store(pointers, cast(tile[i], base.dtype.element_ty), mask=inside)


@triton.jit
def element_pointers(base, row_stride, rows, D: tl.constexpr, i: tl.constexpr, ALIGNED: tl.constexpr):
    if ALIGNED and D % 16 != 0:
        # Triton specializes arguments by divisibility by 16 only. A row of 15 heads of 72 features is a
        # multiple of 8 elements, which is enough for 16-byte loads. `stride // e * e` lets Triton prove that
        # e divides the stride.
        elements: tl.constexpr = 128 // base.dtype.element_ty.primitive_bitwidth
        row_stride = row_stride // elements * elements
    return base + rows.to(tl.int64)[:, None] * row_stride + channels(D, i)[None, :]


@triton.jit
def head_of(x, stride, sequence, first_row, head, ALIGNED: tl.constexpr):
    """Pointer to row `first_row` of a head."""
    base = x + sequence.to(tl.int64) * stride[0] + first_row * stride[1] + head.to(tl.int64) * stride[2]
    if ALIGNED:
        base = tl.multiple_of(base, 16)  # bytes
    return base


@triton.jit
def load_head(x, stride, sequence, first_row, head, rows, length, D: tl.constexpr, ALIGNED: tl.constexpr):
    base = head_of(x, stride, sequence, first_row, head, ALIGNED)
    return load_rows(base, stride[1], rows, length, D, ALIGNED)


@triton.jit
def store_head(
    x,
    stride,
    sequence,
    first_row,
    head,
    rows,
    length,
    tile,
    D: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    base = head_of(x, stride, sequence, first_row, head, ALIGNED)
    store_rows(base, stride[1], rows, length, tile, D, ALIGNED)


@triton.jit
def lse_of(lse, stride, sequence, first_row, head):
    return lse + sequence.to(tl.int64) * stride[0] + head.to(tl.int64) * stride[1] + first_row


@triton.jit
def zeros(ROWS: tl.constexpr, D: tl.constexpr):
    tile = ()
    for i in tl.static_range(num_pieces(D)):
        tile = tile + (tl.zeros((ROWS, piece_size(D, i)), tl.float32),)
    return tile


@triton.jit
def scale_rows(tile, factor, D: tl.constexpr):
    scaled = ()
    for i in tl.static_range(num_pieces(D)):
        scaled = scaled + (tile[i] * factor[:, None],)
    return scaled


@triton.jit
def scale_tile(tile, factor, D: tl.constexpr):
    scaled = ()
    for i in tl.static_range(num_pieces(D)):
        scaled = scaled + (tile[i] * factor,)
    return scaled


@triton.jit
def transpose(tile_ND, D: tl.constexpr):
    transposed = ()
    for i in tl.static_range(num_pieces(D)):
        transposed = transposed + (tl.trans(tile_ND[i]),)
    return transposed


@triton.jit
def dot_columns(a_MD, b_DN, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr):
    """Compute `a_MD @ b_DN` in float32: (M, N)."""
    products = tl.zeros((M, N), tl.float32)
    for i in tl.static_range(num_pieces(D)):
        products = dot(a_MD[i], b_DN[i], products)
    return products


@triton.jit
def dot_rows(a_MD, b_ND, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr):
    """Compute `a_MD @ b_ND.T` in float32: (M, N)."""
    return dot_columns(a_MD, transpose(b_ND, D), M, N, D)


@triton.jit
def add_dot(acc_MD, a_MN, b_ND, D: tl.constexpr):
    """Compute `acc_MD + a_MN @ b_ND`, with `a_MN` rounded to the dtype of `b_ND`."""
    a_MN = cast(a_MN, b_ND[0].dtype)
    result = ()
    for i in tl.static_range(num_pieces(D)):
        result = result + (dot(a_MN, b_ND[i], acc_MD[i]),)
    return result


@triton.jit
def dot_transposed(a_NM, b_ND, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr):
    """Compute `a_NM.T @ b_ND` in float32: (M, D).

    With M below 64, the least rows of Hopper's wgmma, the transpose `b_ND.T @ a_NM` is computed instead,
    whose rows are features: mma.sync would have 62 % of the throughput, and each warp would load all of b to
    its registers. With small tiles that costs less than the registers that the transpose takes.
    """
    result = ()
    for i in tl.static_range(num_pieces(D)):
        if M < 64 and piece_size(D, i) >= 64 and (N > 128 or D > 64):
            zeros_DM = tl.zeros((piece_size(D, i), M), tl.float32)
            result = result + (tl.trans(dot(tl.trans(b_ND[i]), a_NM, zeros_DM)),)
        else:
            zeros_MD = tl.zeros((M, piece_size(D, i)), tl.float32)
            result = result + (dot(tl.trans(a_NM), b_ND[i], zeros_MD),)
    return result


@triton.jit
def sum_of_products(a_MD, b_MD, M: tl.constexpr, D: tl.constexpr):
    """Dot product of each row of a tile with the same row of another: (M,)."""
    total = tl.zeros((M,), tl.float32)
    for i in tl.static_range(num_pieces(D)):
        total += tl.sum(a_MD[i].to(tl.float32) * b_MD[i].to(tl.float32), 1)
    return total


@triton.jit
def load_queries(
    q_base,  # pointers to the first row of a head: see head_of and lse_of
    dout_base,
    lse_base,
    q_stride,  # of (sequence, row, head)
    dout_stride,  # of (sequence, row, head)
    rows,
    Nq,
    D: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Load a block of queries for the backward: (q, dout, lse).

    Out-of-range queries repeat the last query, and their lse of inf makes their probabilities 0. Queries of 0
    would also work, except that 0 * inf is NaN if a key is infinite.
    """
    q_MD = load_rows(q_base, q_stride[1], tl.minimum(rows, Nq - 1), Nq, D, ALIGNED)
    dout_MD = load_rows(dout_base, dout_stride[1], rows, Nq, D, ALIGNED)
    lse_M = tl.load(lse_base + rows, mask=rows < Nq, other=float("inf"))
    return q_MD, dout_MD, lse_M


@triton.jit
def locate(cu_seqlens, H, blocks, Nq, Nk, VARLEN: tl.constexpr):
    """Return the task of this program: (head, block, sequence, first row of the sequence, its Nq, its Nk).

    Whatever the offsets are, the rows of a sequence are among the T rows of all. The host checks offsets, but
    not after every change of a tensor on a GPU.
    """
    program = tl.program_id(0)
    head = program % H
    block = (program // H) % blocks
    sequence = program // H // blocks
    first_row = sequence.to(tl.int64) * 0
    if VARLEN:
        T = Nq
        first = tl.minimum(tl.maximum(tl.load(cu_seqlens + sequence), 0), T)
        end = tl.minimum(tl.maximum(tl.load(cu_seqlens + sequence + 1), first), T)
        first_row = first.to(tl.int64)
        Nq = end - first
        Nk = Nq
    return head, block, sequence, first_row, Nq, Nk


@triton.jit
def short_keys(Nk, KEYS: tl.constexpr, BLOCK_N: tl.constexpr, VARLEN: tl.constexpr):
    """Return the column indices of a program that holds all keys, and the mask of the columns that are keys.

    KEYS is Nk rounded up to a multiple of 16. Only the mask of the last 16 of these columns depends on Nk at
    run time, and the columns beyond KEYS are pruned at compile time.
    """
    cols = tl.arange(0, BLOCK_N)
    is_key = cols < Nk
    if not VARLEN:
        is_key = (cols < KEYS) & ((cols < KEYS - 16) | is_key)
    return cols, is_key


# ---------------------------------------------------------------------------------------------------------
# Short sequences: all keys in one program


@triton.jit(do_not_specialize=UNSPECIALIZED)
def short_forward(
    q,  # (B, Nq, H, D), or (T, H, D) if VARLEN
    k,  # (B, Nk, H, D), or (T, H, D) if VARLEN
    v,  # like k
    out,  # like q
    lse,  # (B, H, Nq), or (H, T) if VARLEN; float32, in units of log2
    cu_seqlens,  # (S + 1,) int32, or None without VARLEN
    q_stride,  # of (sequence, row, head)
    k_stride,  # of (sequence, row, head)
    v_stride,  # of (sequence, row, head)
    out_stride,  # of (sequence, row, head)
    lse_stride,  # of (sequence, head)
    Nq,  # T if VARLEN
    Nk,  # the longest length if VARLEN
    H,
    blocks,  # of rows_per_program queries
    rows_per_program,
    scale_log2e,
    D: tl.constexpr,
    KEYS: tl.constexpr,  # Nk rounded up to a multiple of 16; BLOCK_N if VARLEN
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,  # Nk rounded up to a power of two, at least 16
    ALIGNED: tl.constexpr,  # every row of a head starts at a multiple of 16 bytes
    VARLEN: tl.constexpr,
):
    """Each program loads the keys and values of a head once and loops over `rows_per_program` queries."""
    head, block, sequence, first_row, Nq, Nk = locate(cu_seqlens, H, blocks, Nq, Nk, VARLEN)
    cols, is_key = short_keys(Nk, KEYS, BLOCK_N, VARLEN)
    # In the loop, Triton 3.9 would write the transpose to shared memory for every block of queries.
    k_DN = transpose(load_head(k, k_stride, sequence, first_row, head, cols, Nk, D, ALIGNED), D)
    v_ND = load_head(v, v_stride, sequence, first_row, head, cols, Nk, D, ALIGNED)
    q_base = head_of(q, q_stride, sequence, first_row, head, ALIGNED)
    out_base = head_of(out, out_stride, sequence, first_row, head, ALIGNED)
    lse_base = lse_of(lse, lse_stride, sequence, first_row, head)

    start = block * rows_per_program
    for m in tl.range(start, tl.minimum(start + rows_per_program, Nq), BLOCK_M):
        rows = m + tl.arange(0, BLOCK_M)
        q_MD = load_rows(q_base, q_stride[1], rows, Nq, D, ALIGNED)
        s_MN = tl.where(is_key[None, :], dot_columns(q_MD, k_DN, BLOCK_M, BLOCK_N, D), -float("inf"))
        max_M = tl.max(s_MN, 1) * scale_log2e
        p_MN = tl.exp2(s_MN * scale_log2e - max_M[:, None])
        sum_M = tl.sum(p_MN, 1)
        out_MD = scale_rows(add_dot(zeros(BLOCK_M, D), p_MN, v_ND, D), 1.0 / sum_M, D)
        store_rows(out_base, out_stride[1], rows, Nq, out_MD, D, ALIGNED)
        tl.store(lse_base + rows, max_M + tl.log2(sum_M), mask=rows < Nq)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def short_backward(
    q,  # (B, Nq, H, D), or (T, H, D) if VARLEN
    k,  # (B, Nk, H, D), or (T, H, D) if VARLEN
    v,  # like k
    out,  # like q
    dout,  # like q
    lse,  # (B, H, Nq), or (H, T) if VARLEN; float32, in units of log2
    dq,  # like q
    dk,  # like k
    dv,  # like k
    cu_seqlens,  # (S + 1,) int32, or None without VARLEN
    q_stride,  # of (sequence, row, head)
    k_stride,  # of (sequence, row, head)
    v_stride,  # of (sequence, row, head)
    out_stride,  # of (sequence, row, head)
    dout_stride,  # of (sequence, row, head)
    lse_stride,  # of (sequence, head)
    dq_stride,  # of (sequence, row, head)
    dk_stride,  # of (sequence, row, head)
    dv_stride,  # of (sequence, row, head)
    Nq,  # T if VARLEN
    Nk,  # the longest length if VARLEN
    H,
    scale,
    scale_log2e,
    D: tl.constexpr,
    KEYS: tl.constexpr,  # Nk rounded up to a multiple of 16; BLOCK_N if VARLEN
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,  # Nk rounded up to a power of two, at least 16
    ALIGNED: tl.constexpr,  # every row of a head starts at a multiple of 16 bytes
    VARLEN: tl.constexpr,
):
    """Each program handles one head and keeps dk and dv in registers while it loops over the queries.

    Scores are transposed, keys by queries, so that the two products with scores as the left operand read it
    from registers.
    """
    head, _, sequence, first_row, Nq, Nk = locate(cu_seqlens, H, 1, Nq, Nk, VARLEN)
    cols, is_key = short_keys(Nk, KEYS, BLOCK_N, VARLEN)
    k_ND = load_head(k, k_stride, sequence, first_row, head, cols, Nk, D, ALIGNED)
    v_ND = load_head(v, v_stride, sequence, first_row, head, cols, Nk, D, ALIGNED)
    q_base = head_of(q, q_stride, sequence, first_row, head, ALIGNED)
    out_base = head_of(out, out_stride, sequence, first_row, head, ALIGNED)
    dout_base = head_of(dout, dout_stride, sequence, first_row, head, ALIGNED)
    dq_base = head_of(dq, dq_stride, sequence, first_row, head, ALIGNED)
    lse_base = lse_of(lse, lse_stride, sequence, first_row, head)

    dk_ND, dv_ND = zeros(BLOCK_N, D), zeros(BLOCK_N, D)
    for m in tl.range(0, Nq, BLOCK_M):
        rows = m + tl.arange(0, BLOCK_M)
        q_MD, dout_MD, lse_M = load_queries(
            q_base, dout_base, lse_base, q_stride, dout_stride, rows, Nq, D, ALIGNED
        )
        out_MD = load_rows(out_base, out_stride[1], rows, Nq, D, ALIGNED)
        delta_M = sum_of_products(out_MD, dout_MD, BLOCK_M, D)
        p_NM = tl.exp2(dot_rows(k_ND, q_MD, BLOCK_N, BLOCK_M, D) * scale_log2e - lse_M[None, :])
        # Padded keys have scores of 0. If the lse is far below 0, exp2 overflows, and dq would be inf * 0 =
        # NaN.
        p_NM = tl.where(is_key[:, None], p_NM, 0.0)
        dv_ND = add_dot(dv_ND, p_NM, dout_MD, D)
        dp_NM = dot_rows(v_ND, dout_MD, BLOCK_N, BLOCK_M, D)
        ds_NM = cast(p_NM * (dp_NM - delta_M[None, :]), q.dtype.element_ty)
        dk_ND = add_dot(dk_ND, ds_NM, q_MD, D)
        dq_MD = dot_transposed(ds_NM, k_ND, BLOCK_M, BLOCK_N, D)
        store_rows(dq_base, dq_stride[1], rows, Nq, scale_tile(dq_MD, scale, D), D, ALIGNED)
    dk_ND = scale_tile(dk_ND, scale, D)
    store_head(dk, dk_stride, sequence, first_row, head, cols, Nk, dk_ND, D, ALIGNED)
    store_head(dv, dv_stride, sequence, first_row, head, cols, Nk, dv_ND, D, ALIGNED)


# ---------------------------------------------------------------------------------------------------------
# Long sequences: keys in blocks


@triton.jit
def attend(
    state,  # largest score in units of log2, sum of the exponentials, sum of the values: (M,), (M,), (M, D)
    q_MD,
    k_base,  # pointers to the first row of a head: see head_of
    v_base,
    k_stride,  # of (sequence, row, head)
    v_stride,  # of (sequence, row, head)
    n,  # first key of the block
    Nk,
    scale_log2e,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    D: tl.constexpr,
    ALIGNED: tl.constexpr,
    MASKED: tl.constexpr,  # keys from Nk on are left out
):
    """Add a block of keys to the online softmax of a block of queries."""
    max_M, sum_M, out_MD = state
    cols = n + tl.arange(0, BLOCK_N)
    k_ND = load_rows(k_base, k_stride[1], cols, Nk, D, ALIGNED)
    s_MN = dot_rows(q_MD, k_ND, BLOCK_M, BLOCK_N, D)
    if MASKED:
        s_MN = tl.where((cols < Nk)[None, :], s_MN, -float("inf"))
    new_max_M = tl.maximum(max_M, tl.max(s_MN, 1) * scale_log2e)
    # If all scores so far are -inf, shift by 0 to avoid NaN: a later block may have finite scores.
    shift_M = tl.where(new_max_M == -float("inf"), 0.0, new_max_M)
    p_MN = tl.exp2(s_MN * scale_log2e - shift_M[:, None])
    decay_M = tl.exp2(max_M - shift_M)
    sum_M = sum_M * decay_M + tl.sum(p_MN, 1)
    v_ND = load_rows(v_base, v_stride[1], cols, Nk, D, ALIGNED)
    out_MD = add_dot(scale_rows(out_MD, decay_M, D), p_MN, v_ND, D)
    return new_max_M, sum_M, out_MD


@triton.jit(do_not_specialize=UNSPECIALIZED)
def long_forward(
    q,  # (B, Nq, H, D), or (T, H, D) if VARLEN
    k,  # (B, Nk, H, D), or (T, H, D) if VARLEN
    v,  # like k
    out,  # like q
    lse,  # (B, H, Nq), or (H, T) if VARLEN; float32, in units of log2
    cu_seqlens,  # (S + 1,) int32, or None without VARLEN
    q_stride,  # of (sequence, row, head)
    k_stride,  # of (sequence, row, head)
    v_stride,  # of (sequence, row, head)
    out_stride,  # of (sequence, row, head)
    lse_stride,  # of (sequence, head)
    Nq,  # T if VARLEN
    Nk,  # the longest length if VARLEN
    H,
    blocks,  # of BLOCK_M queries
    scale_log2e,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ALIGNED: tl.constexpr,  # every row of a head starts at a multiple of 16 bytes
    VARLEN: tl.constexpr,
    FULL_BLOCKS: tl.constexpr,
):
    """Each program handles BLOCK_M queries. FULL_BLOCKS means that BLOCK_N divides Nk."""
    head, block, sequence, first_row, Nq, Nk = locate(cu_seqlens, H, blocks, Nq, Nk, VARLEN)
    if block * BLOCK_M >= Nq:
        return
    rows = block * BLOCK_M + tl.arange(0, BLOCK_M)
    q_MD = load_head(q, q_stride, sequence, first_row, head, rows, Nq, D, ALIGNED)
    k_base = head_of(k, k_stride, sequence, first_row, head, ALIGNED)
    v_base = head_of(v, v_stride, sequence, first_row, head, ALIGNED)

    max_M = tl.full((BLOCK_M,), -float("inf"), tl.float32)
    state = (max_M, tl.zeros((BLOCK_M,), tl.float32), zeros(BLOCK_M, D))
    full = Nk // BLOCK_N * BLOCK_N
    if not FULL_BLOCKS and full < Nk:
        state = attend(
            state, q_MD, k_base, v_base, k_stride, v_stride, full, Nk, scale_log2e,
            BLOCK_M, BLOCK_N, D, ALIGNED, MASKED=True,
        )  # fmt: skip
    for n in tl.range(0, full, BLOCK_N):
        state = attend(
            state, q_MD, k_base, v_base, k_stride, v_stride, n, full, scale_log2e,
            BLOCK_M, BLOCK_N, D, ALIGNED, MASKED=False,
        )  # fmt: skip

    max_M, sum_M, out_MD = state
    out_MD = scale_rows(out_MD, 1.0 / sum_M, D)
    store_head(out, out_stride, sequence, first_row, head, rows, Nq, out_MD, D, ALIGNED)
    lse_base = lse_of(lse, lse_stride, sequence, first_row, head)
    tl.store(lse_base + rows, max_M + tl.log2(sum_M), mask=rows < Nq)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def long_backward_dkdv(
    q,  # (B, Nq, H, D), or (T, H, D) if VARLEN
    k,  # (B, Nk, H, D), or (T, H, D) if VARLEN
    v,  # like k
    dout,  # like q
    lse,  # (B, H, Nq), or (H, T) if VARLEN; float32, in units of log2
    delta,  # like lse: sum(out * dout)
    dk,  # like k
    dv,  # like k
    cu_seqlens,  # (S + 1,) int32, or None without VARLEN
    q_stride,  # of (sequence, row, head)
    k_stride,  # of (sequence, row, head)
    v_stride,  # of (sequence, row, head)
    dout_stride,  # of (sequence, row, head)
    lse_stride,  # of (sequence, head), also of delta
    dk_stride,  # of (sequence, row, head)
    dv_stride,  # of (sequence, row, head)
    Nq,  # T if VARLEN
    Nk,  # the longest length if VARLEN
    H,
    blocks,  # of BLOCK_N keys
    scale,
    scale_log2e,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ALIGNED: tl.constexpr,  # every row of a head starts at a multiple of 16 bytes
    VARLEN: tl.constexpr,
):
    """Each program handles BLOCK_N keys and loops over all queries.

    Padded keys are not masked: they affect only their own rows of dk and dv, which are not stored.
    """
    head, block, sequence, first_row, Nq, Nk = locate(cu_seqlens, H, blocks, Nq, Nk, VARLEN)
    if block * BLOCK_N >= Nk:
        return
    cols = block * BLOCK_N + tl.arange(0, BLOCK_N)
    k_ND = load_head(k, k_stride, sequence, first_row, head, cols, Nk, D, ALIGNED)
    v_ND = load_head(v, v_stride, sequence, first_row, head, cols, Nk, D, ALIGNED)
    q_base = head_of(q, q_stride, sequence, first_row, head, ALIGNED)
    dout_base = head_of(dout, dout_stride, sequence, first_row, head, ALIGNED)
    lse_base = lse_of(lse, lse_stride, sequence, first_row, head)
    delta_base = lse_of(delta, lse_stride, sequence, first_row, head)

    dk_ND, dv_ND = zeros(BLOCK_N, D), zeros(BLOCK_N, D)
    for m in tl.range(0, Nq, BLOCK_M):
        rows = m + tl.arange(0, BLOCK_M)
        q_MD, dout_MD, lse_M = load_queries(
            q_base, dout_base, lse_base, q_stride, dout_stride, rows, Nq, D, ALIGNED
        )
        delta_M = tl.load(delta_base + rows, mask=rows < Nq, other=0.0)
        p_NM = tl.exp2(dot_rows(k_ND, q_MD, BLOCK_N, BLOCK_M, D) * scale_log2e - lse_M[None, :])
        dv_ND = add_dot(dv_ND, p_NM, dout_MD, D)
        dp_NM = dot_rows(v_ND, dout_MD, BLOCK_N, BLOCK_M, D)
        dk_ND = add_dot(dk_ND, p_NM * (dp_NM - delta_M[None, :]), q_MD, D)
    dk_ND = scale_tile(dk_ND, scale, D)
    store_head(dk, dk_stride, sequence, first_row, head, cols, Nk, dk_ND, D, ALIGNED)
    store_head(dv, dv_stride, sequence, first_row, head, cols, Nk, dv_ND, D, ALIGNED)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def long_backward_dq(
    q,  # (B, Nq, H, D), or (T, H, D) if VARLEN
    k,  # (B, Nk, H, D), or (T, H, D) if VARLEN
    v,  # like k
    out,  # like q
    dout,  # like q
    lse,  # (B, H, Nq), or (H, T) if VARLEN; float32, in units of log2
    delta,  # like lse; written: sum(out * dout)
    dq,  # like q
    cu_seqlens,  # (S + 1,) int32, or None without VARLEN
    q_stride,  # of (sequence, row, head)
    k_stride,  # of (sequence, row, head)
    v_stride,  # of (sequence, row, head)
    out_stride,  # of (sequence, row, head)
    dout_stride,  # of (sequence, row, head)
    lse_stride,  # of (sequence, head), also of delta
    dq_stride,  # of (sequence, row, head)
    Nq,  # T if VARLEN
    Nk,  # the longest length if VARLEN
    H,
    blocks,  # of BLOCK_M queries
    scale,
    scale_log2e,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ALIGNED: tl.constexpr,  # every row of a head starts at a multiple of 16 bytes
    VARLEN: tl.constexpr,
    FULL_BLOCKS: tl.constexpr,
):
    """Each program handles BLOCK_M queries and loops over all keys.

    FULL_BLOCKS means that BLOCK_N divides Nk.
    """
    head, block, sequence, first_row, Nq, Nk = locate(cu_seqlens, H, blocks, Nq, Nk, VARLEN)
    if block * BLOCK_M >= Nq:
        return
    rows = block * BLOCK_M + tl.arange(0, BLOCK_M)
    q_MD = load_head(q, q_stride, sequence, first_row, head, rows, Nq, D, ALIGNED)
    dout_MD = load_head(dout, dout_stride, sequence, first_row, head, rows, Nq, D, ALIGNED)
    out_MD = load_head(out, out_stride, sequence, first_row, head, rows, Nq, D, ALIGNED)
    delta_M = sum_of_products(out_MD, dout_MD, BLOCK_M, D)
    lse_base = lse_of(lse, lse_stride, sequence, first_row, head)
    delta_base = lse_of(delta, lse_stride, sequence, first_row, head)
    tl.store(delta_base + rows, delta_M, mask=rows < Nq)
    lse_M = tl.load(lse_base + rows, mask=rows < Nq, other=float("inf"))
    k_base = head_of(k, k_stride, sequence, first_row, head, ALIGNED)
    v_base = head_of(v, v_stride, sequence, first_row, head, ALIGNED)

    dq_MD = zeros(BLOCK_M, D)
    for n in tl.range(0, Nk, BLOCK_N):
        cols = n + tl.arange(0, BLOCK_N)
        k_ND = load_rows(k_base, k_stride[1], cols, Nk, D, ALIGNED)
        v_ND = load_rows(v_base, v_stride[1], cols, Nk, D, ALIGNED)
        p_MN = tl.exp2(dot_rows(q_MD, k_ND, BLOCK_M, BLOCK_N, D) * scale_log2e - lse_M[:, None])
        if not FULL_BLOCKS:  # padded keys: see short_backward
            p_MN = tl.where((cols < Nk)[None, :], p_MN, 0.0)
        dp_MN = dot_rows(dout_MD, v_ND, BLOCK_M, BLOCK_N, D)
        dq_MD = add_dot(dq_MD, p_MN * (dp_MN - delta_M[:, None]), k_ND, D)
    dq_MD = scale_tile(dq_MD, scale, D)
    store_head(dq, dq_stride, sequence, first_row, head, rows, Nq, dq_MD, D, ALIGNED)


# ---------------------------------------------------------------------------------------------------------
# Pooling: one query a sequence


@triton.jit
def load_vector(base, D: tl.constexpr):
    vector = ()
    for i in tl.static_range(num_pieces(D)):
        vector = vector + (tl.load(base + channels(D, i), mask=channels(D, i) < D, other=0.0).to(tl.float32),)
    return vector


@triton.jit
def store_vector(base, vector, D: tl.constexpr):
    for i in tl.static_range(num_pieces(D)):
        tl.store(base + channels(D, i), cast(vector[i], base.dtype.element_ty), mask=channels(D, i) < D)


@triton.jit
def sum_with_vector(a_ND, b_D, N: tl.constexpr, D: tl.constexpr):
    """Dot product of each row with one vector: (N,)."""
    total = tl.zeros((N,), tl.float32)
    for i in tl.static_range(num_pieces(D)):
        total += tl.sum(a_ND[i].to(tl.float32) * b_D[i][None, :], 1)
    return total


@triton.jit
def outer(a_N, b_D, D: tl.constexpr):
    tile = ()
    for i in tl.static_range(num_pieces(D)):
        tile = tile + (a_N[:, None] * b_D[i][None, :],)
    return tile


@triton.jit
def add_scaled_rows(acc_ND, factor_N, b_ND, D: tl.constexpr):
    result = ()
    for i in tl.static_range(num_pieces(D)):
        result = result + (acc_ND[i] + factor_N[:, None] * b_ND[i].to(tl.float32),)
    return result


@triton.jit
def sum_rows(tile_ND, D: tl.constexpr):
    total = ()
    for i in tl.static_range(num_pieces(D)):
        total = total + (tl.sum(tile_ND[i], 0),)
    return total


@triton.jit(do_not_specialize=UNSPECIALIZED)
def pool_forward(
    q,  # (S, H, D)
    k,  # (S, N, H, D), or (T, H, D) if VARLEN
    v,  # like k
    out,  # (S, H, D)
    lse,  # (S, H) float32, in units of log2
    cu_seqlens,  # (S + 1,) int32, or None without VARLEN
    q_stride,  # of (sequence, row, head), one row a sequence
    k_stride,  # of (sequence, row, head)
    v_stride,  # of (sequence, row, head)
    out_stride,  # of (sequence, row, head), one row a sequence
    N,  # T if VARLEN
    H,
    scale_log2e,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ALIGNED: tl.constexpr,  # every row of a head starts at a multiple of 16 bytes
    VARLEN: tl.constexpr,
):
    """Each program handles one head of one sequence.

    Each of the BLOCK_N rows of the tile runs its own online softmax over every BLOCK_N-th key, and the rows
    are merged once at the end. The loop therefore needs no reduction across rows.
    """
    head, _, sequence, first_row, _, N = locate(cu_seqlens, H, 1, N, N, VARLEN)
    k_base = head_of(k, k_stride, sequence, first_row, head, ALIGNED)
    v_base = head_of(v, v_stride, sequence, first_row, head, ALIGNED)
    q_D = load_vector(head_of(q, q_stride, sequence, 0, head, ALIGNED), D)

    max_N = tl.full((BLOCK_N,), -float("inf"), tl.float32)
    sum_N = tl.zeros((BLOCK_N,), tl.float32)
    out_ND = zeros(BLOCK_N, D)
    for n in tl.range(0, N, BLOCK_N):
        rows = n + tl.arange(0, BLOCK_N)
        k_ND = load_rows(k_base, k_stride[1], rows, N, D, ALIGNED)
        v_ND = load_rows(v_base, v_stride[1], rows, N, D, ALIGNED)
        s_N = tl.where(rows < N, sum_with_vector(k_ND, q_D, BLOCK_N, D) * scale_log2e, -float("inf"))
        new_max_N = tl.maximum(max_N, s_N)
        shift_N = tl.where(new_max_N == -float("inf"), 0.0, new_max_N)
        p_N = tl.exp2(s_N - shift_N)
        decay_N = tl.exp2(max_N - shift_N)
        sum_N = sum_N * decay_N + p_N
        out_ND = add_scaled_rows(scale_rows(out_ND, decay_N, D), p_N, v_ND, D)
        max_N = new_max_N

    top = tl.max(max_N, 0)
    weight_N = tl.exp2(max_N - tl.where(top == -float("inf"), 0.0, top))
    total = tl.sum(sum_N * weight_N, 0)
    total = tl.where(N == 0, 1.0, total)  # an empty sequence pools to 0
    out_D = sum_rows(scale_rows(out_ND, weight_N / total, D), D)
    store_vector(head_of(out, out_stride, sequence, 0, head, ALIGNED), out_D, D)
    tl.store(lse + sequence.to(tl.int64) * H + head, top + tl.log2(total))


@triton.jit(do_not_specialize=UNSPECIALIZED)
def pool_backward(
    q,  # (S, H, D)
    k,  # (S, N, H, D), or (T, H, D) if VARLEN
    v,  # like k
    out,  # (S, H, D)
    dout,  # (S, H, D)
    lse,  # (S, H) float32, in units of log2
    dq,  # (S, H, D)
    dk,  # like k
    dv,  # like k
    cu_seqlens,  # (S + 1,) int32, or None without VARLEN
    q_stride,  # of (sequence, row, head), one row a sequence
    k_stride,  # of (sequence, row, head)
    v_stride,  # of (sequence, row, head)
    out_stride,  # of (sequence, row, head), one row a sequence
    dout_stride,  # of (sequence, row, head), one row a sequence
    dq_stride,  # of (sequence, row, head), one row a sequence
    dk_stride,  # of (sequence, row, head)
    dv_stride,  # of (sequence, row, head)
    N,  # T if VARLEN
    H,
    scale,
    scale_log2e,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ALIGNED: tl.constexpr,  # every row of a head starts at a multiple of 16 bytes
    VARLEN: tl.constexpr,
):
    head, _, sequence, first_row, _, N = locate(cu_seqlens, H, 1, N, N, VARLEN)
    k_base = head_of(k, k_stride, sequence, first_row, head, ALIGNED)
    v_base = head_of(v, v_stride, sequence, first_row, head, ALIGNED)
    dk_base = head_of(dk, dk_stride, sequence, first_row, head, ALIGNED)
    dv_base = head_of(dv, dv_stride, sequence, first_row, head, ALIGNED)
    q_D = load_vector(head_of(q, q_stride, sequence, 0, head, ALIGNED), D)
    out_D = load_vector(head_of(out, out_stride, sequence, 0, head, ALIGNED), D)
    dout_D = load_vector(head_of(dout, dout_stride, sequence, 0, head, ALIGNED), D)
    delta = 0.0
    for i in tl.static_range(num_pieces(D)):
        delta += tl.sum(out_D[i] * dout_D[i], 0)
    lse_value = tl.load(lse + sequence.to(tl.int64) * H + head)

    dq_ND = zeros(BLOCK_N, D)
    for n in tl.range(0, N, BLOCK_N):
        rows = n + tl.arange(0, BLOCK_N)
        k_ND = load_rows(k_base, k_stride[1], rows, N, D, ALIGNED)
        v_ND = load_rows(v_base, v_stride[1], rows, N, D, ALIGNED)
        p_N = tl.exp2(sum_with_vector(k_ND, q_D, BLOCK_N, D) * scale_log2e - lse_value)
        p_N = tl.where(rows < N, p_N, 0.0)
        ds_N = p_N * (sum_with_vector(v_ND, dout_D, BLOCK_N, D) - delta) * scale
        store_rows(dk_base, dk_stride[1], rows, N, outer(ds_N, q_D, D), D, ALIGNED)
        store_rows(dv_base, dv_stride[1], rows, N, outer(p_N, dout_D, D), D, ALIGNED)
        dq_ND = add_scaled_rows(dq_ND, ds_N, k_ND, D)
    store_vector(head_of(dq, dq_stride, sequence, 0, head, ALIGNED), sum_rows(dq_ND, D), D)
