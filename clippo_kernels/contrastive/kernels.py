"""Contrastive losses in Triton: tiles of the logits are computed, reduced and dropped.

For R images and B texts of D features in 2 bytes, a GEMM pass (all images by all texts) takes 2 R B D FLOP:

    forward               1 pass    reads (R + B) D embeddings, writes R + B numbers
    backward, by chunks   3 passes  the same, and writes (R + B) D gradients: one pass here, two in cuBLAS
    backward, in kernel   4 passes  the same: the logits are computed once for each of the two gradients

The minimum is 1 + 3 passes. At R = B = 32768, D = 768 a pass is 1.65 TFLOP, or 1.7 ms of an H100 by its data
sheet (989 TFLOP/s) and 2.7 ms at 600 TFLOP/s. The memory traffic, 0.2 GB, takes 0.06 ms. One exponential of
each logit takes 0.28 ms (3.9 T/s): `forward` needs one or two, `dlogits` and `gradient` two. The run time is
therefore decided by the number of GEMM passes and by how well they keep the tensor cores busy.

`forward` computes each tile once and reduces it along both axes, to the maximum logit and the sum of
exponentials of each of its rows and each of its columns. Off the diagonal, where the logits of a tile span
less than 62, one exponential of each logit serves both axes. `combine` merges the partial results of many
tiles in a fixed order, and `total` adds up the loss. There are no atomics. Each launch covers a bounded
number of rows, so that the partial results take bounded memory.

The backward needs the gradient w.r.t. the logits in two products, and the log-sum-exps in two parts
(`split`). For large D, a chunk of the gradient is stored in the dtype of the embeddings (`dlogits`) and
multiplied by cuBLAS; `finish` turns the sums over all chunks into gradients. For small D, moving a tile of it
costs more than recomputing it: `gradient` keeps it in registers, once for images and once for texts. What is
not a GEMM pass reads and writes every number once: at most 12 bytes for each of the (R + B) D gradients, in
`finish`.

Inside the kernels, logits are in units of log2: an exponential is then one multiply-add and one `exp2`. The
multiply-add is an explicit `tl.fma`, the same for rows and for columns. The logit of a confident pair, whose
softmax is nearly 1, is nearly the log-sum-exp, and its gradient depends on digits that are lost in a rounded
product or in a log-sum-exp stored as one float32. A `row` is an image and a `column` is a text, except in
`gradient`, where x and y can be either.
"""

import triton
import triton.language as tl

from .._triton import cast, dot

__all__ = ["combine", "dlogits", "finish", "forward", "gradient", "sigmoid_forward", "split", "total"]

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)

# Rows and columns of a tile share their exponentials where its logits span less, in units of log2. The least
# of them is then 2^-90 of the largest, and what is 2^-36 of that is still a normal float32.
NARROW = tl.constexpr(90.0)

# These arguments are not specialized, because Triton would compile variants of a kernel for 1, for multiples
# of 16, and for other values.
SIZES = ["R", "B", "blocks_r", "blocks_b", "offset", "row_count", "column_count", "divisor"]


@triton.jit
def tile_of(blocks_r, blocks_b, GROUP: tl.constexpr):
    """Return the row and column of this program's tile.

    The tiles of GROUP rows of tiles are visited column by column, so that programs which run at the same time
    share embeddings in the L2 cache.
    """
    in_group = GROUP * blocks_b
    first = tl.program_id(0) // in_group * GROUP
    rows = tl.minimum(blocks_r - first, GROUP)
    return first + tl.program_id(0) % in_group % rows, tl.program_id(0) % in_group // rows


@triton.jit
def products(
    image,
    text,
    rows,
    columns,
    image_stride,  # elements between rows
    text_stride,  # elements between rows
    D: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Compute a tile of `image @ text.T`; all row and column indices must be in range."""
    image += rows.to(tl.int64)[:, None] * image_stride
    text += columns.to(tl.int64)[:, None] * text_stride
    acc = tl.zeros((BLOCK_R, BLOCK_B), tl.float32)
    for start in tl.range(0, D, BLOCK_D):
        d = (start + tl.arange(0, BLOCK_D))[None, :]
        if D % BLOCK_D == 0:
            image_RD, text_BD = tl.load(image + d), tl.load(text + d)
        else:
            image_RD = tl.load(image + d, mask=d < D, other=0.0)
            text_BD = tl.load(text + d, mask=d < D, other=0.0)
        acc = dot(image_RD, tl.trans(text_BD), acc)
    return acc


@triton.jit
def positive_pairs(rows, columns, row_ids, column_ids, offset):
    """Mask of the positive pairs of a tile."""
    if row_ids is not None:
        return tl.load(row_ids + rows)[:, None] == tl.load(column_ids + columns)[None, :]
    else:
        return (rows + offset)[:, None] == columns[None, :]


@triton.jit
def may_have_positives(
    first_row, first_column, row_ids, offset, BLOCK_R: tl.constexpr, BLOCK_B: tl.constexpr
):
    """Whether a tile may have positive pairs; without ids, only tiles on the diagonal do."""
    if row_ids is not None:
        return True
    else:
        first = first_row + offset
        return (first < first_column + BLOCK_B) & (first_column < first + BLOCK_R)


@triton.jit
def is_plain(first_row, first_column, R, B, row_ids, offset, BLOCK_R: tl.constexpr, BLOCK_B: tl.constexpr):
    """Whether a tile has all of its rows and columns, and no positive pairs: most tiles do without labels."""
    if row_ids is not None:
        return False
    else:
        is_full = (first_row + BLOCK_R <= R) & (first_column + BLOCK_B <= B)
        diagonal = may_have_positives(first_row, first_column, row_ids, offset, BLOCK_R, BLOCK_B)
        return is_full & (diagonal == 0)


@triton.jit
def load_target(targets, index):
    if targets is None:
        return tl.full(index.shape, 1.0, tl.float32)
    else:
        return tl.load(targets + index)


@triton.jit
def halves(tile, ROWS: tl.constexpr, HALF: tl.constexpr):
    """Left and right half of the columns, which are in different registers of the same threads."""
    return tl.split(tl.permute(tl.reshape(tile, (ROWS, 2, HALF)), (0, 2, 1)))


@triton.jit
def reduce_in_pieces(
    acc,  # (BLOCK_R, WIDTH) products, float32
    scale,  # non-negative, in units of log2
    row_highest,  # (BLOCK_R,)
    column_highest,  # pointer to the B columns of this block of rows
    column_total,  # the same
    rows,  # (BLOCK_R,), may be out of range
    first_row,
    first_column,
    R,
    B,
    image_ids,
    text_ids,
    image_target,
    text_target,
    offset,
    BLOCK_R: tl.constexpr,
    WIDTH: tl.constexpr,
    PIECE: tl.constexpr,
):
    """Store the maximum and sum of exponentials of each column; return three sums over each row.

    They are the sums of exponentials, of positive logits times targets, and of the rounding errors of the
    latter. The tile is reduced PIECE columns at a time, because the registers do not fit a tile of
    exponentials in addition to the tile of products.
    """
    if WIDTH > PIECE:
        HALF: tl.constexpr = WIDTH // 2
        left, right = halves(acc, BLOCK_R, HALF)
        left_total, left_positive, left_rest = reduce_in_pieces(
            left, scale, row_highest, column_highest, column_total, rows, first_row, first_column, R, B,
            image_ids, text_ids, image_target, text_target, offset, BLOCK_R, HALF, PIECE,
        )  # fmt: skip
        right_total, right_positive, right_rest = reduce_in_pieces(
            right, scale, row_highest, column_highest, column_total, rows, first_row, first_column + HALF,
            R, B, image_ids, text_ids, image_target, text_target, offset, BLOCK_R, HALF, PIECE,
        )  # fmt: skip
        return left_total + right_total, left_positive + right_positive, left_rest + right_rest
    else:
        columns = first_column + tl.arange(0, WIDTH)
        columns_read = tl.minimum(columns, B - 1)
        # Out-of-range rows and columns repeat the last one: this is harmless for a maximum, and sums mask
        # them.
        highest = tl.max(acc, 0) * scale
        p = tl.exp2(tl.fma(acc, scale, -highest[None, :]))
        total = tl.sum(tl.where((rows < R)[:, None], p, 0.0), 0)
        tl.store(column_highest + columns, highest, mask=columns < B)
        tl.store(column_total + columns, total, mask=columns < B)

        positive = tl.zeros((BLOCK_R,), tl.float32)
        rest = tl.zeros((BLOCK_R,), tl.float32)
        if may_have_positives(first_row, first_column, image_ids, offset, BLOCK_R, WIDTH):
            rows_read = tl.minimum(rows, R - 1)
            is_positive = positive_pairs(rows_read, columns_read, image_ids, text_ids, offset)
            is_positive = is_positive & (columns < B)[None, :]
            targets = (
                load_target(image_target, rows_read)[:, None]
                + load_target(text_target, columns_read)[None, :]
            )
            logits = acc * scale
            positive = tl.sum(tl.where(is_positive, logits * targets, 0.0), 1)
            rest = tl.sum(tl.where(is_positive, tl.fma(acc, scale, -logits) * targets, 0.0), 1)
        p = tl.exp2(tl.fma(acc, scale, -row_highest[:, None]))
        return tl.sum(tl.where((columns < B)[None, :], p, 0.0), 1), positive, rest


@triton.jit(do_not_specialize=SIZES)
def forward(
    image,  # (R, D)
    text,  # (B, D)
    scale,  # () float32
    image_ids,  # (R,) int32 or None
    text_ids,  # (B,) int32 or None
    image_target,  # (R,) float32 or None
    text_target,  # (B,) float32 or None
    row_partials,  # (4, blocks_b, R) float32: maximum, sum of exponentials, positives, rounding errors
    column_highest,  # (blocks_r, B) float32
    column_total,  # (blocks_r, B) float32
    image_stride,  # elements between rows
    text_stride,  # elements between rows
    R,
    B,
    blocks_r,
    blocks_b,
    offset,  # without ids, row r and column r + offset are a positive pair
    D: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
    GROUP: tl.constexpr,  # rows of tiles in a group: see tile_of
    PIECE: tl.constexpr,  # columns reduced at a time
):
    """Each program reduces one tile: maxima and sums of exponentials of both axes, and positives of rows.

    Where the logits of a tile are close together, "maximum" is that of the tile for all rows and columns.
    """
    block_r, block_b = tile_of(blocks_r, blocks_b, GROUP)
    rows, columns = block_r * BLOCK_R + tl.arange(0, BLOCK_R), block_b * BLOCK_B + tl.arange(0, BLOCK_B)
    acc = products(
        image, text, tl.minimum(rows, R - 1), tl.minimum(columns, B - 1), image_stride, text_stride,
        D, BLOCK_R, BLOCK_B, BLOCK_D,
    )  # fmt: skip
    # The scale is made non-negative, so that the largest product is the largest logit.
    scale_log2 = tl.load(scale) * LOG2_E
    acc = acc * tl.where(scale_log2 < 0, -1.0, 1.0)
    scale_log2 = tl.abs(scale_log2)
    highest = tl.max(acc, 1) * scale_log2
    column_start = block_r.to(tl.int64) * B
    first_row, first_column = block_r * BLOCK_R, block_b * BLOCK_B
    # Tiles with positives keep an exponential for each axis: the softmax of a confident pair, which is nearly
    # 1, has more digits if its exponential is divided by the largest of its own row and of its own column.
    tile_highest = tl.max(highest, 0)
    is_narrow = tile_highest - tl.min(tl.min(acc, 1), 0) * scale_log2 < NARROW
    if is_narrow & is_plain(first_row, first_column, R, B, image_ids, offset, BLOCK_R, BLOCK_B):
        # The exponentials take the registers of the products, so the tile is reduced as a whole.
        p = tl.exp2(tl.fma(acc, scale_log2, -tile_highest))
        total_of_columns = tl.sum(p, 0)
        column_pointers = column_start + columns
        tl.store(column_highest + column_pointers, tl.zeros_like(total_of_columns) + tile_highest)
        tl.store(column_total + column_pointers, total_of_columns)
        highest = tl.zeros_like(highest) + tile_highest
        total = tl.sum(p, 1)
        positive = tl.zeros_like(highest)
        rest = tl.zeros_like(highest)
    else:
        total, positive, rest = reduce_in_pieces(
            acc, scale_log2, highest, column_highest + column_start, column_total + column_start,
            rows, first_row, first_column, R, B,
            image_ids, text_ids, image_target, text_target, offset, BLOCK_R, BLOCK_B, PIECE,
        )  # fmt: skip
    plane = blocks_b.to(tl.int64) * R
    pointers = row_partials + block_b.to(tl.int64) * R + rows
    tl.store(pointers, highest, mask=rows < R)
    tl.store(pointers + plane, total, mask=rows < R)
    tl.store(pointers + 2 * plane, positive, mask=rows < R)
    tl.store(pointers + 3 * plane, rest, mask=rows < R)


@triton.jit
def merged(
    partial_highest,  # (count, width) float32
    partial_total,  # (count, width) float32
    columns,  # (BLOCK,)
    count,
    width,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Merge `count` maxima and sums of exponentials of each of `columns`, ROWS at a time in a fixed order."""
    m = tl.full((ROWS, BLOCK), float("-inf"), tl.float32)
    sums = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in tl.range(0, count, ROWS):
        rows = start + tl.arange(0, ROWS)
        inside = (rows < count)[:, None] & (columns < width)[None, :]
        pointers = rows.to(tl.int64)[:, None] * width + columns[None, :]
        part_m = tl.load(partial_highest + pointers, mask=inside, other=float("-inf"))
        part = tl.load(partial_total + pointers, mask=inside, other=0.0)
        higher = tl.maximum(m, part_m)
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        sums = sums * tl.exp2(m - shift) + part * tl.exp2(part_m - shift)
        m = higher
    highest = tl.max(m, 0)
    shift = tl.where(highest == float("-inf"), 0.0, highest)
    return highest, tl.sum(sums * tl.exp2(m - shift[None, :]), 0)


@triton.jit
def log_sum_exp(highest, total):
    """Log-sum-exp in float64 of a maximum and a sum of exponentials in units of log2."""
    return (highest.to(tl.float64) + tl.log2(total.to(tl.float64))) * tl.full((), LN_2, tl.float64)


@triton.jit(do_not_specialize=SIZES)
def combine(
    row_partials,  # (4, row_count, R) float32, as `forward` stores them
    column_highest,  # (column_count, B) float32
    column_total,  # (column_count, B) float32
    highest,  # (B,) float32, may be one of the partial ones
    total,  # (B,) float32, may be one of the partial ones
    row_lse,  # (R,) float64
    positive,  # (R,) float64
    column_lse,  # (B,) float64
    row_count,
    column_count,
    R,
    B,
    BLOCK: tl.constexpr,  # rows, or columns, of a program
    ROWS: tl.constexpr,  # partial results merged at a time
):
    """Merge the partial results of `forward`: the first programs those of rows, the others of columns."""
    row_programs = tl.cdiv(R, BLOCK)
    if tl.program_id(0) < row_programs:
        rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        plane = row_count.to(tl.int64) * R
        m, sums = merged(row_partials, row_partials + plane, rows, row_count, R, BLOCK, ROWS)
        tl.store(row_lse + rows, log_sum_exp(m, sums), mask=rows < R)
        positives = tl.zeros((ROWS, BLOCK), tl.float64)
        for start in tl.range(0, row_count, ROWS):
            parts = start + tl.arange(0, ROWS)
            inside = (parts < row_count)[:, None] & (rows < R)[None, :]
            pointers = row_partials + 2 * plane + parts.to(tl.int64)[:, None] * R + rows[None, :]
            positives += tl.load(pointers, mask=inside, other=0.0).to(tl.float64)
            positives += tl.load(pointers + plane, mask=inside, other=0.0).to(tl.float64)
        in_log_e = tl.sum(positives, 0) * tl.full((), LN_2, tl.float64)
        tl.store(positive + rows, in_log_e, mask=rows < R)
    else:
        columns = (tl.program_id(0) - row_programs) * BLOCK + tl.arange(0, BLOCK)
        m, sums = merged(column_highest, column_total, columns, column_count, B, BLOCK, ROWS)
        tl.store(highest + columns, m, mask=columns < B)
        tl.store(total + columns, sums, mask=columns < B)
        tl.store(column_lse + columns, log_sum_exp(m, sums), mask=columns < B)


@triton.jit
def weighted_sum(x, weight, count, BLOCK: tl.constexpr):
    """Sum of x (count,) in float64, each times its weight unless `weight` is None."""
    sums = tl.zeros((BLOCK,), tl.float64)
    for start in tl.range(0, count, BLOCK):
        index = start + tl.arange(0, BLOCK)
        value = tl.load(x + index, mask=index < count, other=0.0).to(tl.float64)
        if weight is not None:
            value *= tl.load(weight + index, mask=index < count, other=0.0)
        sums += value
    return tl.sum(sums, 0)


@triton.jit(do_not_specialize=SIZES)
def total(
    x,  # (R,)
    x_weight,  # (R,) or None
    y,  # (B,) or None
    y_weight,  # (B,) or None
    subtracted,  # (R,) or None
    factor,  # () or None
    out,  # ()
    R,
    B,
    divisor,
    BLOCK: tl.constexpr,
):
    """Weighted sums of x and y, minus `subtracted`, times `factor`, over `divisor`, in float64.

    This is one program: its time grows with R + B, while that of the tiles around it grows with R * B.
    """
    result = weighted_sum(x, x_weight, R, BLOCK)
    if y is not None:
        result += weighted_sum(y, y_weight, B, BLOCK)
    if subtracted is not None:
        result -= weighted_sum(subtracted, None, R, BLOCK)
    if factor is not None:
        result *= tl.load(factor).to(tl.float64)
    tl.store(out, (result / divisor.to(tl.float64)).to(out.dtype.element_ty))


@triton.jit
def split_block(lse, shift, block, count, BLOCK: tl.constexpr):
    """`split` for a block of `count` log-sum-exps."""
    index = block * BLOCK + tl.arange(0, BLOCK)
    exact = tl.load(lse + index, mask=index < count, other=0.0) * tl.full((), LOG2_E, tl.float64)
    rounded = exact.to(tl.float32)
    rest = (exact - rounded.to(tl.float64)).to(tl.float32)
    tl.store(shift + 2 * index, rounded, mask=index < count)
    # Infinity has no rounding error, but its difference to itself is NaN.
    tl.store(shift + 2 * index + 1, tl.where(rest == rest, rest, 0.0), mask=index < count)


@triton.jit(do_not_specialize=SIZES)
def split(
    row_lse,  # (R,) float64
    column_lse,  # (B,) float64
    row_shift,  # (R, 2) float32
    column_shift,  # (B, 2) float32
    R,
    B,
    BLOCK: tl.constexpr,  # rows, or columns, of a program
):
    """Split log-sum-exps, put into units of log2, into a float32 and its rounding error."""
    row_programs = tl.cdiv(R, BLOCK)
    if tl.program_id(0) < row_programs:
        split_block(row_lse, row_shift, tl.program_id(0), R, BLOCK)
    else:
        split_block(column_lse, column_shift, tl.program_id(0) - row_programs, B, BLOCK)


@triton.jit
def sigmoid_tile(x):
    """Compute log(1 + exp(x)) and its derivative 1 / (1 + exp(-x)), accurately also if they are small."""
    t = tl.exp2(tl.abs(x) * -LOG2_E)
    # log(1 + t) / t for t in [0, 1], with a relative error of at most 3.8e-8: the polynomial that is equal to
    # it at the zeros of the Chebyshev polynomial of degree 9, spread so that they span [0, 1) from 0. It is
    # exact at 0, where nearly all pairs are.
    p = tl.fma(t, 0.00525780959, -0.0296371261)
    p = tl.fma(t, p, 0.0785077987)
    p = tl.fma(t, p, -0.136949753)
    p = tl.fma(t, p, 0.19126275)
    p = tl.fma(t, p, -0.2485032)
    p = tl.fma(t, p, 0.333205069)
    p = tl.fma(t, p, -0.499996148)
    p = tl.fma(t, p, 1.0)
    # The derivative is the exponential of min(x, 0) - log(1 + t): no division, no comparison.
    log_sigmoid = tl.fma(-t, p, tl.minimum(x, 0.0))
    return tl.fma(t, p, tl.maximum(x, 0.0)), tl.exp2(log_sigmoid * LOG2_E)


@triton.jit
def signed_sigmoid_tile(x, is_positive):
    """`sigmoid_tile` of -x for positive pairs and of x for the others, with the derivative w.r.t. x."""
    loss, d = sigmoid_tile(tl.where(is_positive, -x, x))
    return loss, tl.where(is_positive, -d, d)


@triton.jit
def sum_in_pieces(
    acc,  # (BLOCK_R, WIDTH) products, float32
    scale,  # pointer
    bias,  # pointer
    rows,  # (BLOCK_R,), all in range
    first_row,
    first_column,
    B,
    image_ids,
    text_ids,
    offset,
    BLOCK_R: tl.constexpr,
    WIDTH: tl.constexpr,
    PIECE: tl.constexpr,
):
    """Sums over each row of the loss and of its derivative w.r.t. the logit, PIECE columns at a time."""
    if WIDTH > PIECE:
        HALF: tl.constexpr = WIDTH // 2
        left, right = halves(acc, BLOCK_R, HALF)
        left_loss, left_d = sum_in_pieces(
            left, scale, bias, rows, first_row, first_column, B, image_ids, text_ids, offset,
            BLOCK_R, HALF, PIECE,
        )  # fmt: skip
        right_loss, right_d = sum_in_pieces(
            right, scale, bias, rows, first_row, first_column + HALF, B, image_ids, text_ids, offset,
            BLOCK_R, HALF, PIECE,
        )  # fmt: skip
        return left_loss + right_loss, left_d + right_d
    else:
        columns = first_column + tl.arange(0, WIDTH)
        logits = acc * tl.load(scale) + tl.load(bias)
        if may_have_positives(first_row, first_column, image_ids, offset, BLOCK_R, WIDTH):
            is_positive = positive_pairs(rows, tl.minimum(columns, B - 1), image_ids, text_ids, offset)
            loss, d = signed_sigmoid_tile(logits, is_positive)
        else:
            loss, d = sigmoid_tile(logits)
        inside = (columns < B)[None, :]
        return tl.sum(tl.where(inside, loss, 0.0), 1), tl.sum(tl.where(inside, d, 0.0), 1)


@triton.jit(do_not_specialize=SIZES)
def sigmoid_forward(
    image,  # (R, D)
    text,  # (B, D)
    scale,  # () float32
    bias,  # () float32
    image_ids,  # (R,) int32 or None
    text_ids,  # (B,) int32 or None
    row_loss,  # (blocks_b, R) float32
    row_dlogits,  # (blocks_b, R) float32
    image_stride,  # elements between rows
    text_stride,  # elements between rows
    R,
    B,
    blocks_r,
    blocks_b,
    offset,  # without ids, row r and column r + offset are a positive pair
    D: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
    GROUP: tl.constexpr,  # rows of tiles in a group: see tile_of
    PIECE: tl.constexpr,  # columns reduced at a time
):
    """Each program sums one tile over its rows: the loss and its derivative w.r.t. the logit."""
    block_r, block_b = tile_of(blocks_r, blocks_b, GROUP)
    rows, columns = block_r * BLOCK_R + tl.arange(0, BLOCK_R), block_b * BLOCK_B + tl.arange(0, BLOCK_B)
    rows_read, columns_read = tl.minimum(rows, R - 1), tl.minimum(columns, B - 1)
    acc = products(
        image, text, rows_read, columns_read, image_stride, text_stride, D, BLOCK_R, BLOCK_B, BLOCK_D
    )
    loss, d = sum_in_pieces(
        acc, scale, bias, rows_read, block_r * BLOCK_R, block_b * BLOCK_B, B, image_ids, text_ids, offset,
        BLOCK_R, BLOCK_B, PIECE,
    )  # fmt: skip
    tl.store(row_loss + block_b.to(tl.int64) * R + rows, loss, mask=rows < R)
    tl.store(row_dlogits + block_b.to(tl.int64) * R + rows, d, mask=rows < R)


@triton.jit
def dlogits_tile(
    acc,  # products of `rows` and `columns`, float32
    scale,  # pointer
    bias,  # pointer, or None for a softmax loss
    rows,  # all in range
    columns,  # all in range
    row_ids,
    column_ids,
    row_target,
    column_target,
    row_shift,
    column_shift,
    offset,
    POSITIVES: tl.constexpr,
):
    """Gradient w.r.t. the logits of a tile of products. Without POSITIVES it must have no positive pairs."""
    if bias is not None:
        logits = acc * tl.load(scale) + tl.load(bias)
        if POSITIVES:
            is_positive = positive_pairs(rows, columns, row_ids, column_ids, offset)
            _, d = signed_sigmoid_tile(logits, is_positive)
        else:
            _, d = sigmoid_tile(logits)
    else:
        by_row, by_column = softmaxes(acc, scale, rows, columns, row_shift, column_shift)
        if POSITIVES:
            # Each target is subtracted from its own softmax: for softmaxes near 1, a sum near 2 would round
            # the difference away.
            is_positive = positive_pairs(rows, columns, row_ids, column_ids, offset)
            by_row -= tl.where(is_positive, load_target(row_target, rows)[:, None], 0.0)
            by_column -= tl.where(is_positive, load_target(column_target, columns)[None, :], 0.0)
        d = by_row + by_column
    return d


@triton.jit
def softmaxes(acc, scale, rows, columns, row_shift, column_shift):
    """Softmaxes by row and by column. A shift is a log-sum-exp as a float32 and its rounding error."""
    scale_log2 = tl.load(scale) * LOG2_E
    shift, rest = load_shift(row_shift, rows)
    by_row = tl.exp2(tl.fma(acc, scale_log2, -shift[:, None]) - rest[:, None])
    shift, rest = load_shift(column_shift, columns)
    return by_row, tl.exp2(tl.fma(acc, scale_log2, -shift[None, :]) - rest[None, :])


@triton.jit
def load_shift(shift, index):
    """Load both float32 of each shift at once: two loads with a stride would not be joined."""
    pair = tl.load(shift.to(tl.pointer_type(tl.int64)) + index)
    low, high = pair.to(tl.int32), (pair >> 32).to(tl.int32)
    return low.to(tl.float32, bitcast=True), high.to(tl.float32, bitcast=True)


@triton.jit
def store_dlogits_in_pieces(
    acc,  # (BLOCK_R, WIDTH) products, float32
    scale,  # pointer
    bias,  # pointer or None
    rows,  # (BLOCK_R,), may be out of range
    first_row,
    first_column,
    R,
    B,
    image_ids,
    text_ids,
    image_target,
    text_target,
    row_shift,
    column_shift,
    offset,
    out,  # (R, pitch)
    pitch,
    GAIN: tl.constexpr,
    BLOCK_R: tl.constexpr,
    WIDTH: tl.constexpr,
    PIECE: tl.constexpr,
):
    """Compute and store `dlogits_tile`, PIECE columns at a time as in the forward."""
    if WIDTH > PIECE:
        HALF: tl.constexpr = WIDTH // 2
        left, right = halves(acc, BLOCK_R, HALF)
        store_dlogits_in_pieces(
            left, scale, bias, rows, first_row, first_column, R, B,
            image_ids, text_ids, image_target, text_target, row_shift, column_shift,
            offset, out, pitch,
            GAIN, BLOCK_R, HALF, PIECE,
        )  # fmt: skip
        store_dlogits_in_pieces(
            right, scale, bias, rows, first_row, first_column + HALF, R, B,
            image_ids, text_ids, image_target, text_target, row_shift, column_shift,
            offset, out, pitch,
            GAIN, BLOCK_R, HALF, PIECE,
        )  # fmt: skip
    else:
        columns = first_column + tl.arange(0, WIDTH)
        if is_plain(first_row, first_column, R, B, image_ids, offset, BLOCK_R, WIDTH):
            d = dlogits_tile(
                acc, scale, bias, rows, columns, image_ids, text_ids, image_target, text_target,
                row_shift, column_shift, offset, False,
            )  # fmt: skip
        else:
            d = dlogits_tile(
                acc, scale, bias, tl.minimum(rows, R - 1), tl.minimum(columns, B - 1),
                image_ids, text_ids, image_target, text_target, row_shift, column_shift, offset, True,
            )  # fmt: skip
        pointers = out + rows.to(tl.int64)[:, None] * pitch + columns[None, :]
        # Columns up to the pitch, a multiple of 16, are stored: the compiler knows that 16 of them are all
        # inside or all outside, and stores 16 bytes at a time instead of 2.
        inside = (rows < R)[:, None] & (columns < pitch)[None, :]
        tl.store(pointers, cast(d * GAIN, out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def dlogits(
    image,  # (R, D)
    text,  # (B, D)
    scale,  # () float32
    bias,  # () float32 or None
    image_ids,  # (R,) int32 or None
    text_ids,  # (B,) int32 or None
    image_target,  # (R,) float32 or None
    text_target,  # (B,) float32 or None
    row_shift,  # (R, 2) float32, or None with a bias: see softmaxes
    column_shift,  # (B, 2) float32, or None with a bias
    out,  # (R, pitch), of the dtype of the embeddings; the columns from B on hold no results
    image_stride,  # elements between rows
    text_stride,  # elements between rows
    R,
    B,
    pitch,  # a multiple of 16
    blocks_r,
    blocks_b,
    offset,  # without ids, row r and column r + offset are a positive pair
    GAIN: tl.constexpr,  # a power of two: see launch.gain
    D: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
    GROUP: tl.constexpr,  # rows of tiles in a group: see tile_of
    PIECE: tl.constexpr,  # columns computed at a time
):
    """Each program stores one tile of the gradient w.r.t. the logits, times GAIN."""
    block_r, block_b = tile_of(blocks_r, blocks_b, GROUP)
    rows, columns = block_r * BLOCK_R + tl.arange(0, BLOCK_R), block_b * BLOCK_B + tl.arange(0, BLOCK_B)
    acc = products(
        image, text, tl.minimum(rows, R - 1), tl.minimum(columns, B - 1), image_stride, text_stride,
        D, BLOCK_R, BLOCK_B, BLOCK_D,
    )  # fmt: skip
    store_dlogits_in_pieces(
        acc, scale, bias, rows, block_r * BLOCK_R, block_b * BLOCK_B, R, B,
        image_ids, text_ids, image_target, text_target, row_shift, column_shift,
        offset, out, pitch, GAIN, BLOCK_R, BLOCK_B, PIECE,
    )  # fmt: skip


@triton.jit(do_not_specialize=SIZES)
def gradient(
    x,  # (R, D)
    y,  # (B, D)
    scale,  # () float32
    bias,  # () float32 or None
    factor,  # () float32
    x_ids,  # (R,) int32 or None
    y_ids,  # (B,) int32 or None
    x_target,  # (R,) float32 or None
    y_target,  # (B,) float32 or None
    x_shift,  # (R, 2) float32, or None with a bias: see softmaxes
    y_shift,  # (B, 2) float32, or None with a bias
    dx,  # (R, D)
    row_dot,  # (R,) float32
    x_stride,  # elements between rows
    y_stride,  # elements between rows
    R,
    B,
    offset,  # without ids, row r and column r + offset are a positive pair
    GAIN: tl.constexpr,  # a power of two: see launch.gain
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    """Each program computes the gradient w.r.t. BLOCK_R rows of x (R, D), over all rows of y (B, D).

    It also stores the dot product of each row with its gradient before `factor` and `scale`. WIDTH is D
    rounded up to a power of two, at least 16.
    """
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    rows_read = tl.minimum(rows, R - 1)
    d = tl.arange(0, WIDTH)
    inside_D = (d < D)[None, :]
    x_RD = tl.load(x + rows_read.to(tl.int64)[:, None] * x_stride + d[None, :], mask=inside_D, other=0.0)

    acc = tl.zeros((BLOCK_R, WIDTH), tl.float32)
    for first_column in tl.range(0, B, BLOCK_B):
        columns = first_column + tl.arange(0, BLOCK_B)
        columns_read = tl.minimum(columns, B - 1)
        y_BD = tl.load(
            y + columns_read.to(tl.int64)[:, None] * y_stride + d[None, :], mask=inside_D, other=0.0
        )
        products_RB = dot(x_RD, tl.trans(y_BD), tl.zeros((BLOCK_R, BLOCK_B), tl.float32))
        # There is no branch for tiles without positives, because it would keep the loop from being pipelined.
        d_RB = dlogits_tile(
            products_RB, scale, bias, rows_read, columns_read, x_ids, y_ids, x_target, y_target,
            x_shift, y_shift, offset, True,
        )  # fmt: skip
        d_RB = tl.where((columns < B)[None, :], d_RB, 0.0)
        acc = dot(cast(d_RB * GAIN, y_BD.dtype), y_BD, acc)

    acc = acc * (1.0 / GAIN)
    tl.store(row_dot + rows, tl.sum(acc * x_RD.to(tl.float32), 1), mask=rows < R)
    pointers = dx + rows.to(tl.int64)[:, None] * D + d[None, :]
    value = acc * (tl.load(scale) * tl.load(factor))
    tl.store(pointers, cast(value, dx.dtype.element_ty), mask=(rows < R)[:, None] & inside_D)


@triton.jit
def finish_rows(
    total,  # (count, D) float32
    x,  # (count, D), or None for no row_dot
    dx,  # (count, D), may be `total`
    row_dot,  # (count,) float32 or None
    x_stride,  # elements between rows
    factor,
    gain,
    block,
    count,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Multiply ROWS rows of sums by `factor` into a gradient, and store the product of each row with x."""
    rows = block * ROWS + tl.arange(0, ROWS)
    dots = tl.zeros((ROWS, BLOCK_D), tl.float32)
    for start in tl.range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        inside = (rows < count)[:, None] & (d < D)[None, :]
        pointers = rows.to(tl.int64)[:, None] * D + d[None, :]
        sums = tl.load(total + pointers, mask=inside, other=0.0)
        if x is not None:
            x_pointers = x + rows.to(tl.int64)[:, None] * x_stride + d[None, :]
            dots += sums * tl.load(x_pointers, mask=inside, other=0.0).to(tl.float32)
        tl.store(dx + pointers, cast(sums * factor, dx.dtype.element_ty), mask=inside)
    if x is not None:
        tl.store(row_dot + rows, tl.sum(dots, 1) * (1.0 / gain), mask=rows < count)


@triton.jit(do_not_specialize=SIZES)
def finish(
    image_total,  # (R, D) float32
    text_total,  # (B, D) float32
    image,  # (R, D)
    scale,  # () float32
    factor,  # () float32
    dimage,  # (R, D)
    dtext,  # (B, D), may be text_total
    row_dot,  # (R,) float32
    image_stride,  # elements between rows
    R,
    B,
    GAIN: tl.constexpr,  # a power of two: see launch.gain
    D: tl.constexpr,
    ROWS: tl.constexpr,  # rows of a program
    BLOCK_D: tl.constexpr,
):
    """Gradients from sums over chunks: the first programs those of images, the others those of texts."""
    final = tl.load(scale) * tl.load(factor) * (1.0 / GAIN)
    row_programs = tl.cdiv(R, ROWS)
    block = tl.program_id(0)
    if block < row_programs:
        finish_rows(
            image_total, image, dimage, row_dot, image_stride, final, GAIN, block, R, D, ROWS, BLOCK_D
        )
    else:
        finish_rows(text_total, None, dtext, None, 0, final, GAIN, block - row_programs, B, D, ROWS, BLOCK_D)
