"""Patch embedding in Triton: one GEMM that reads the pixels directly from the images.

For M patches of K = C * P * P pixels, D features and a product dtype of 2 bytes:

    forward           reads M K pixels and D K weights, writes M D tokens        2 M K D FLOP
    weight gradient   reads M K pixels and M D gradients, writes 3 D P P         2 M K D FLOP
    position gradient reads M D gradients, writes N D                            M D FLOP

For 256 photographs of 224 px, P = 16 and D = 768, that is 38.5 MB of bytes read, 77 MB of bfloat16 written
and 59 GFLOP: 35 us of memory and 60 us of tensor cores on an H100 (3.35 TB/s, 989 TFLOP/s). For grey images
it is 12.8 MB, 77 MB and 20 GFLOP: 27 us and 20 us. Photographs are therefore bound by the GEMM, and all other
work has to overlap with it; text is bound by the writes of its tokens.

Neither a normalised image nor a matrix of patches is ever in memory. A program gathers the pixels of BLOCK_M
patches by the strides of the images and converts them to the product dtype in registers: a byte x becomes the
integer x - 128, which is exact in every dtype. The rest of the normalisation is affine; see `normalization`.
`prepare` folds it into the weight once, for 2 D K bytes, and the epilogue applies a scale, a shift per
feature and the position embedding in float32, before a token is rounded once.

The weight gradient is a sum over all patches with few output tiles. Its rows are split among programs that
write float32 partial sums; `finish` adds these in a fixed order and maps them back to the weight by the
transpose of `prepare`. There are no atomics, and the result is the same bits every time.

Conventions. m indexes patches, n the positions in the grid of an image, k the pixels of a patch, and d the
features of a token. `k` follows the order of the pixels in memory: (y, x, c) if the channel is innermost
(CHANNELS_LAST), else (c, y, x). `image_stride` is (b, c, h, w) in elements. The prepared weight is (D,
PITCH), with zeros beyond K.
"""

import triton
import triton.language as tl

from .._triton import cast, dot

__all__ = ["finish", "forward", "position_gradient", "position_gradient_select", "prepare", "weight_gradient"]

# These arguments are not specialized, because Triton would compile variants of a kernel for 1, for multiples
# of 16, and for other values.
SIZES = ["M", "N", "B", "grid_width", "rows_per_split", "splits", "blocks_n"]


@triton.jit
def listed(keep_indices, rows):
    """Image and position of the patches at `rows` of a list."""
    return tl.load(keep_indices + 2 * rows), tl.load(keep_indices + 2 * rows + 1)


@triton.jit
def first_pixels(images, image_stride, image_M, position_M, grid_width, P: tl.constexpr):
    """Pointers to the top left pixel of each patch."""
    y = position_M // grid_width
    x = position_M - y * grid_width
    offset_M = image_M.to(tl.int64) * image_stride[0]
    return images + offset_M + y.to(tl.int64) * P * image_stride[2] + x.to(tl.int64) * P * image_stride[3]


@triton.jit
def coordinates(k, C: tl.constexpr, P: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """(channel, y, x) of the k-th pixel of a patch."""
    if CHANNELS_LAST:
        return k % C, k // (P * C), k // C % P
    return k // (P * P), k // P % P, k % P


@triton.jit
def pick(channel, values):
    """Select the value of each channel from a tuple of three."""
    return tl.where(channel == 0, values[0], tl.where(channel == 1, values[1], values[2]))


@triton.jit
def load_pixels(
    first_M,  # pointers to the top left pixels
    k,
    inside_M,
    image_stride,
    mean,
    inverse_std,
    dtype: tl.constexpr,
    C: tl.constexpr,
    P: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    NORMALIZE: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Load a tile of pixels (patches by k) as a GEMM operand; `inside_M` is None if all patches exist."""
    channel, y, x = coordinates(k, C, P, CHANNELS_LAST)
    y_offset = y.to(tl.int64) * image_stride[2]
    if CHANNELS_LAST:
        offset_K = y_offset + k % (P * C)  # contiguous in memory
    else:
        offset_K = channel.to(tl.int64) * image_stride[1] + y_offset + x.to(tl.int64) * image_stride[3]
    pointers = first_M[:, None] + offset_K[None, :]

    K: tl.constexpr = C * P * P
    if inside_M is not None:
        if K % BLOCK_K == 0:
            pixels = tl.load(pointers, mask=inside_M[:, None], other=0)
        else:
            pixels = tl.load(pointers, mask=inside_M[:, None] & (k < K)[None, :], other=0)
    elif K % BLOCK_K == 0:
        pixels = tl.load(pointers)
    else:
        pixels = tl.load(pointers, mask=(k < K)[None, :], other=0)

    if pixels.dtype == tl.uint8:
        return cast((pixels ^ 128).to(tl.int8, bitcast=True), dtype)  # x - 128
    if NORMALIZE:
        centred = pixels.to(tl.float32) - pick(channel, mean)[None, :]
        return cast(centred * pick(channel, inverse_std)[None, :], dtype)
    return cast(pixels, dtype)


@triton.jit
def prepare(
    weight,  # (D, 3, P, P)
    bias,  # (D,) or None
    prepared,  # (D, PITCH), in the dtype of the products
    shift,  # (D,) float32
    weight_stride,  # of (D, 3, P, P)
    factors,  # three numbers, one per channel of the weight
    shifts,  # the same
    C: tl.constexpr,  # channels of the images
    P: tl.constexpr,
    PITCH: tl.constexpr,  # elements between rows of the prepared weight
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each program prepares one feature of the tokens: its weights in the order of k, and its shift."""
    d = tl.program_id(0)
    weight += d.to(tl.int64) * weight_stride[0]
    total = tl.zeros((BLOCK,), tl.float32)
    for start in tl.range(0, PITCH, BLOCK):
        k = start + tl.arange(0, BLOCK)
        channel, y, x = coordinates(k, C, P, CHANNELS_LAST)
        pointers = weight + y.to(tl.int64) * weight_stride[2] + x.to(tl.int64) * weight_stride[3]
        inside = k < C * P * P
        if C == 1:  # a grey pixel is multiplied by the weights of three channels
            value = tl.zeros((BLOCK,), tl.float32)
            for c in tl.static_range(3):
                w = tl.load(pointers + c * weight_stride[1], mask=inside, other=0.0).to(tl.float32)
                value += factors[c] * w
                total += shifts[c] * w
        else:
            w = tl.load(pointers + channel.to(tl.int64) * weight_stride[1], mask=inside, other=0.0)
            w = w.to(tl.float32)
            value = pick(channel, factors) * w
            total += pick(channel, shifts) * w
        tl.store(prepared + d.to(tl.int64) * PITCH + k, cast(value, prepared.dtype.element_ty), k < PITCH)
    added = tl.sum(total, 0)
    if bias is not None:
        added += tl.load(bias + d).to(tl.float32)
    tl.store(shift + d, added)


@triton.jit
def store_tokens(
    acc,
    out,
    out_M,  # rows of `out`
    inside_M,  # whether each row is stored
    shift,
    pos_embed,
    position_M,
    cols,
    scale,
    D: tl.constexpr,
    FULL: tl.constexpr,
):
    """Scale, shift and store the features `cols`; FULL means that all of them exist."""
    inside = inside_M[:, None]
    if not FULL:
        inside = inside & (cols < D)[None, :]
    tokens = acc * scale + tl.load(shift + cols, mask=cols < D, other=0.0)[None, :]
    if pos_embed is not None:
        positions = position_M.to(tl.int64)[:, None] * D + cols[None, :]
        tokens += tl.load(pos_embed + positions, mask=inside, other=0.0).to(tl.float32)
    pointers = out + out_M.to(tl.int64)[:, None] * D + cols[None, :]
    tl.store(pointers, cast(tokens, out.dtype.element_ty), inside)


@triton.jit
def store_in_pieces(
    acc,  # (BLOCK_M, WIDTH)
    out,
    out_M,  # rows of `out`
    inside_M,  # whether each row is stored
    shift,
    pos_embed,
    position_M,
    start,
    scale,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    WIDTH: tl.constexpr,
    FULL: tl.constexpr,
):
    """Call `store_tokens` for WIDTH features from `start`, 64 at a time: one cache line per row.

    The products and the position embedding of a whole tile would not fit into registers.
    """
    if WIDTH > 64:
        HALF: tl.constexpr = WIDTH // 2
        left, right = tl.split(tl.permute(tl.reshape(acc, (BLOCK_M, 2, HALF)), (0, 2, 1)))
        store_in_pieces(
            left, out, out_M, inside_M, shift, pos_embed, position_M, start, scale, D, BLOCK_M, HALF, FULL
        )
        start += HALF
        store_in_pieces(
            right, out, out_M, inside_M, shift, pos_embed, position_M, start, scale, D, BLOCK_M, HALF, FULL
        )
    else:
        cols = start + tl.arange(0, WIDTH)
        store_tokens(acc, out, out_M, inside_M, shift, pos_embed, position_M, cols, scale, D, FULL)


@triton.jit(do_not_specialize=SIZES)
def forward(
    images,  # (B, C, H, W), uint8 or floating
    weight,  # (D, PITCH), prepared
    shift,  # (D,) float32, prepared
    pos_embed,  # (N, D) or None
    out,  # (M, D)
    keep_indices,  # (M, 2) int32, image and position of each patch; None without SELECT
    image_stride,  # of (B, C, H, W)
    M,
    B,
    N,
    grid_width,
    scale,  # of the products
    mean,  # three numbers, one per channel of the weight
    inverse_std,  # the same
    D: tl.constexpr,
    C: tl.constexpr,
    P: tl.constexpr,
    PITCH: tl.constexpr,  # elements between rows of the prepared weight
    CHANNELS_LAST: tl.constexpr,
    NORMALIZE: tl.constexpr,  # apply mean and inverse_std to floating pixels
    SELECT: tl.constexpr,  # only the patches in keep_indices
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Each program computes BLOCK_M patches by BLOCK_D features.

    Programs that read the same patches are neighbours, so that all but the first find the pixels in the L2
    cache.
    """
    blocks_d: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    rows = tl.program_id(0) // blocks_d * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(0) % blocks_d * BLOCK_D + tl.arange(0, BLOCK_D)
    # Out-of-range rows repeat the last row and are not stored.
    rows_read = tl.minimum(rows, M - 1)
    if SELECT:
        image_M, position_M = listed(keep_indices, rows_read)
        out_M = rows_read
    else:
        # Rows go through all images at one position, then the next, so that a tile needs few rows of
        # `pos_embed`.
        image_M, position_M = rows_read % B, rows_read // B
        out_M = image_M * N + position_M
    first_M = first_pixels(images, image_stride, image_M, position_M, grid_width, P)
    weight += (cols if D % BLOCK_D == 0 else tl.minimum(cols, D - 1))[:, None] * PITCH

    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for start in tl.range(0, C * P * P, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        pixels = load_pixels(
            first_M, k, None, image_stride, mean, inverse_std, weight.dtype.element_ty,
            C, P, CHANNELS_LAST, NORMALIZE, BLOCK_K,
        )  # fmt: skip
        acc = dot(pixels, tl.trans(tl.load(weight + k[None, :])), acc)

    store_in_pieces(
        acc, out, out_M, rows < M, shift, pos_embed, position_M, tl.program_id(0) % blocks_d * BLOCK_D, scale,
        D, BLOCK_M, BLOCK_D, D % BLOCK_D == 0,
    )  # fmt: skip


@triton.jit(do_not_specialize=SIZES)
def weight_gradient(
    dout,  # (M, D)
    images,  # (B, C, H, W), uint8 or floating
    partials,  # (splits, D, PITCH) float32
    keep_indices,  # (M, 2) int32, image and position of each patch; None without SELECT
    image_stride,  # of (B, C, H, W)
    M,
    N,
    grid_width,
    rows_per_split,  # a multiple of BLOCK_M
    mean,  # three numbers, one per channel of the weight
    inverse_std,  # the same
    dtype: tl.constexpr,  # of the products
    D: tl.constexpr,
    C: tl.constexpr,
    P: tl.constexpr,
    PITCH: tl.constexpr,  # elements between rows of partials
    CHANNELS_LAST: tl.constexpr,
    NORMALIZE: tl.constexpr,  # apply mean and inverse_std to floating pixels
    SELECT: tl.constexpr,  # only the patches in keep_indices
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Each program computes BLOCK_D features by BLOCK_K pixels, summed over the rows of a split."""
    blocks_d: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    blocks_k: tl.constexpr = PITCH // BLOCK_K
    program = tl.program_id(0)
    split = program // (blocks_d * blocks_k)
    cols = program // blocks_k % blocks_d * BLOCK_D + tl.arange(0, BLOCK_D)
    k = program % blocks_k * BLOCK_K + tl.arange(0, BLOCK_K)
    start = split * rows_per_split
    end = tl.minimum(start + rows_per_split, M)

    image_M = (start + tl.arange(0, BLOCK_M)) // N
    position_M = (start + tl.arange(0, BLOCK_M)) % N
    acc = tl.zeros((BLOCK_D, BLOCK_K), tl.float32)
    for m in tl.range(start, end, BLOCK_M):
        rows = m + tl.arange(0, BLOCK_M)
        inside_M = rows < end
        if SELECT:
            image_M, position_M = listed(keep_indices, tl.minimum(rows, end - 1))
        first_M = first_pixels(images, image_stride, image_M, position_M, grid_width, P)
        pixels = load_pixels(
            first_M, k, inside_M, image_stride, mean, inverse_std, dtype,
            C, P, CHANNELS_LAST, NORMALIZE, BLOCK_K,
        )  # fmt: skip
        inside = inside_M[:, None]
        if D % BLOCK_D != 0:
            inside = inside & (cols < D)[None, :]
        dout_MD = tl.load(dout + rows.to(tl.int64)[:, None] * D + cols[None, :], mask=inside, other=0.0)
        acc = dot(tl.trans(cast(dout_MD, dtype)), pixels, acc)
        if not SELECT:  # advance to the next rows without a division per row
            position_M += BLOCK_M % N
            image_M += BLOCK_M // N + (position_M >= N).to(tl.int32)
            position_M = tl.where(position_M >= N, position_M - N, position_M)

    pointers = partials + (split.to(tl.int64) * D + cols)[:, None] * PITCH + k[None, :]
    tl.store(pointers, acc, mask=(cols < D)[:, None])


@triton.jit(do_not_specialize=SIZES)
def finish(
    partials,  # (splits, D, PITCH) float32
    dbias,  # (D,) float32
    dweight,  # (D, 3, P, P)
    dweight_stride,  # of (D, 3, P, P)
    splits,
    scale,  # of the products
    factors,  # three numbers, one per channel of the weight
    shifts,  # the same
    D,
    C: tl.constexpr,  # channels of the images
    P: tl.constexpr,
    PITCH: tl.constexpr,  # elements between rows of partials
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each program computes BLOCK weights of one feature of the tokens, by the transpose of `prepare`."""
    blocks: tl.constexpr = (C * P * P + BLOCK - 1) // BLOCK
    d = (tl.program_id(0) // blocks).to(tl.int64)
    k = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = k < C * P * P
    total = tl.zeros((BLOCK,), tl.float32)
    pointers = partials + d * PITCH + k
    for _ in tl.range(0, splits):
        total += tl.load(pointers, mask=inside, other=0.0)
        pointers += D * PITCH
    total *= scale
    dshift = tl.load(dbias + d)
    channel, y, x = coordinates(k, C, P, CHANNELS_LAST)
    pointers = dweight + d * dweight_stride[0] + y.to(tl.int64) * dweight_stride[2]
    pointers += x.to(tl.int64) * dweight_stride[3]
    if C == 1:
        for c in tl.static_range(3):
            value = factors[c] * total + shifts[c] * dshift
            tl.store(pointers + c * dweight_stride[1], cast(value, dweight.dtype.element_ty), inside)
    else:
        value = pick(channel, factors) * total + pick(channel, shifts) * dshift
        pointers += channel.to(tl.int64) * dweight_stride[1]
        tl.store(pointers, cast(value, dweight.dtype.element_ty), inside)


@triton.jit(do_not_specialize=SIZES)
def position_gradient(
    dout,  # (B, ROW)
    partials,  # (splits, ROW) float32
    B,
    ROW,  # N D
    rows_per_split,  # a multiple of BLOCK_B
    BLOCK_B: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Each program sums BLOCK_E elements of all positions over the images of a split."""
    blocks = tl.cdiv(ROW, BLOCK_E)
    split = tl.program_id(0) // blocks
    elements = tl.program_id(0) % blocks * BLOCK_E + tl.arange(0, BLOCK_E)
    start = split * rows_per_split
    end = tl.minimum(start + rows_per_split, B)
    total = tl.zeros((BLOCK_B, BLOCK_E), tl.float32)
    for b in tl.range(start, end, BLOCK_B):
        rows = b + tl.arange(0, BLOCK_B)
        inside = (rows < end)[:, None] & (elements < ROW)[None, :]
        pointers = dout + rows.to(tl.int64)[:, None] * ROW + elements[None, :]
        total += tl.load(pointers, mask=inside, other=0.0).to(tl.float32)
    tl.store(partials + split.to(tl.int64) * ROW + elements, tl.sum(total, 0), mask=elements < ROW)


@triton.jit(do_not_specialize=SIZES)
def position_gradient_select(
    dout,  # (M, D)
    keep_indices,  # (M, 2) int32, image and position of each patch
    partials,  # (splits, N, D) float32
    M,
    N,
    blocks_n,
    rows_per_split,  # a multiple of BLOCK_M
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Each program computes BLOCK_N positions by BLOCK_D features.

    It multiplies a one-hot matrix, which is exact, with the rows of a split. Positions may be in any order,
    and the order of the additions does not depend on them.
    """
    blocks_d: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    program = tl.program_id(0)
    split = program // (blocks_d * blocks_n)
    cols = program // blocks_n % blocks_d * BLOCK_D + tl.arange(0, BLOCK_D)
    positions = program % blocks_n * BLOCK_N + tl.arange(0, BLOCK_N)
    start = split * rows_per_split
    end = tl.minimum(start + rows_per_split, M)

    acc = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for m in tl.range(start, end, BLOCK_M):
        rows = m + tl.arange(0, BLOCK_M)
        position_M = tl.load(keep_indices + 2 * rows + 1, mask=rows < end, other=-1)
        inside = (rows < end)[:, None] & (cols < D)[None, :]
        dout_MD = tl.load(dout + rows.to(tl.int64)[:, None] * D + cols[None, :], mask=inside, other=0.0)
        is_here = (positions[:, None] == position_M[None, :]).to(tl.float32)
        acc = dot(cast(is_here, dout_MD.dtype), dout_MD, acc)
    pointers = partials + (split.to(tl.int64) * N + positions)[:, None] * D + cols[None, :]
    tl.store(pointers, acc, mask=(positions < N)[:, None] & (cols < D)[None, :])
