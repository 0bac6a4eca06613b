"""Calibration of the model in `pipes` on a kernel whose throughput on an H100 is published.

The kernel has the tile and the structure of the forward of Triton's fused-attention tutorial: descriptors,
online softmax, no mask, 128 queries by 64 or 128 keys. Its published figures are those of an H100 SXM5,
float16, 16,384 tokens and 2,048 channels in all heads. Heads of 64 channels fix the factor for latency, and
heads of 128 channels are a check. The figures were made by older compilers, and the tutorial's autotuner
chose the tile, so here the tile with the best prediction is taken.

No other public Triton kernel was found with a figure for an H100, its tile and its source, so that the factor
rests on one kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import triton
import triton.language as tl

from . import pipes, sass

__all__ = ["Comparison", "comparisons", "fitted_factor", "table"]

PAPER = "FlashAttention-3 (arXiv 2407.08608), as transcribed from its figure"
BENCHMARK = "pytorch/benchmark pull request 2391, July 2024"
# TFLOP/s of the tutorial's forward: (source, head dim, throughput by length).
PUBLISHED = [
    (PAPER, 64, {512: 340, 1024: 382, 2048: 396, 16384: 403}),
    (PAPER, 128, {512: 323, 1024: 372, 2048: 389, 16384: 395}),
    (BENCHMARK, 128, {512: 329, 1024: 390, 2048: 434, 16384: 477}),
]
TOKENS, CHANNELS = 16384, 2048
# (queries, keys, warps, stages) that the tutorial's autotuner tries on this architecture.
TILES = [(128, 64, 4, 3), (128, 128, 8, 3)]


@dataclass(frozen=True)
class Comparison:
    """A published figure beside the model's, in TFLOP/s."""

    source: str
    head_dim: int
    length: int
    published: float
    predicted: float

    @property
    def error(self) -> float:
        """Of the prediction, relative to what was published."""
        return self.predicted / self.published - 1


@triton.jit
def attention(
    q,  # descriptors of (sequences * heads * N, D)
    k,
    v,
    out,
    lse,  # (sequences * heads * N,) float32
    scale_log2e,
    N,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Each program handles BLOCK_M queries of one head."""
    first = tl.program_id(1) * N
    row = first + tl.program_id(0) * BLOCK_M
    q_MD = q.load([row, 0])
    max_M = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    sum_M = tl.zeros((BLOCK_M,), tl.float32)
    out_MD = tl.zeros((BLOCK_M, D), tl.float32)
    for n in tl.range(0, N, BLOCK_N):
        s_MN = tl.dot(q_MD, tl.trans(k.load([first + n, 0])))
        new_max_M = tl.maximum(max_M, tl.max(s_MN, 1) * scale_log2e)
        p_MN = tl.exp2(s_MN * scale_log2e - new_max_M[:, None])
        decay_M = tl.exp2(max_M - new_max_M)
        sum_M = sum_M * decay_M + tl.sum(p_MN, 1)
        out_MD = tl.dot(p_MN.to(tl.float16), v.load([first + n, 0]), out_MD * decay_M[:, None])
        max_M = new_max_M
    out.store([row, 0], (out_MD / sum_M[:, None]).to(tl.float16))
    tl.store(lse + row + tl.arange(0, BLOCK_M), max_M + tl.log2(sum_M))


def compiled(head_dim: int, queries: int, keys: int, warps: int, stages: int) -> sass.Path:
    """The usual path through the kernel for one tile."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    rows, columns = (f"tensordesc<fp16[{size}, {head_dim}]>" for size in (queries, keys))
    signature = {"q": rows, "k": columns, "v": columns, "out": rows, "lse": "*fp32", "scale_log2e": "fp32"}
    constants = {"D": head_dim, "BLOCK_M": queries, "BLOCK_N": keys}
    source = ASTSource(
        attention,
        signature | {"N": "i32"} | dict.fromkeys(constants, "constexpr"),
        constants,
        {(4,): [["tt.divisibility", 16]], (6,): [["tt.divisibility", 16]]},
    )
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
    kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    return sass.usual_path(sass.parse(sass.disassemble(kernel.asm["cubin"])))


def comparisons() -> Iterator[Comparison]:
    """Compile the kernel, and predict each published figure with the tile that does best."""
    paths = {D: [(tile, compiled(D, *tile)) for tile in TILES] for D in {D for _, D, _ in PUBLISHED}}
    for source, head_dim, figures in PUBLISHED:
        for length, published in figures.items():
            flop = 4 * TOKENS * length * CHANNELS
            seconds = min(predicted_seconds(path, tile, head_dim, length) for tile, path in paths[head_dim])
            yield Comparison(source, head_dim, length, published, flop / seconds / 1e12)


def predicted_seconds(path: sass.Path, tile: tuple[int, ...], head_dim: int, length: int) -> float:
    """Seconds of a call of the kernel."""
    queries, keys, warps, _ = tile
    programs = TOKENS // queries * CHANNELS // head_dim
    clocks = pipes.total(path, warps, length / keys)
    return -(-programs // pipes.H100.sms) * pipes.estimate(clocks) / pipes.H100.clock


def table(found: list[Comparison]) -> str:
    """The published and the predicted figures as a table in Markdown, with the factor that they give."""
    rows = "".join(
        f"| {c.source} | {c.head_dim} | {c.length:,} | {c.published} | {c.predicted:.0f} | {c.error:+.0%} |\n"
        for c in found
    )
    return (
        "| source | head dim | length | published, TFLOP/s | predicted, TFLOP/s | error |\n"
        "|---|--:|--:|--:|--:|--:|\n"
        f"{rows}\nHeads of 64 channels give a factor for latency of {fitted_factor(found):.3f}; "
        f"{pipes.LATENCY_FACTOR:.3f} is in use.\n"
    )


def fitted_factor(found: list[Comparison]) -> float:
    """The factor for latency that is right on average for heads of 64 channels."""
    ratios = [c.predicted / c.published for c in found if c.head_dim == 64]
    return pipes.LATENCY_FACTOR * sum(ratios) / len(ratios)
