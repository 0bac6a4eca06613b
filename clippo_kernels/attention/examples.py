"""Examples for the rows of the launch tables, and launch options to try in their place.

`clippo_kernels.aot` compiles the examples and predicts how long their `work` takes; `clippo.bench.tune` times
them with all options.
"""

from collections.abc import Mapping
from typing import Any

import torch

from .._triton import cdiv
from ..pipes import Work
from .launch import backward, forward, pool_backward, pool_forward

__all__ = ["CANDIDATES", "example", "work"]

BLOCKS, STAGES = [16, 32, 64, 128], [1, 2, 3]
# Launch options to try, keyed by a prefix of the kernel's name; the first prefix that matches is used.
CANDIDATES: dict[str, dict[str, list[int]]] = {
    "short": {"BLOCK_M": BLOCKS, "num_warps": [1, 2, 4, 8], "num_stages": STAGES},
    "long": {"BLOCK_M": BLOCKS, "BLOCK_N": BLOCKS, "num_warps": [4, 8], "num_stages": STAGES},
    "pool": {"BLOCK_N": BLOCKS, "num_warps": [1, 2, 4, 8], "num_stages": [1, 2]},
}


def example(kernel: str, row: dict[str, Any], tokens: int, device: str) -> None:
    """Launch a kernel at the largest sizes of a row of its table, on about `tokens` tokens."""
    D, N = row["at_most"]["head_dim"], row["at_most"].get("keys", 1024)
    batch = max(1, tokens // N)
    dtype = torch.bfloat16 if row["itemsize"] == 2 else torch.float32
    rows: tuple[int, ...] = (batch, N)
    cu_seqlens = None
    if kernel.endswith("_varlen"):
        rows = (batch * N,)
        cu_seqlens = torch.arange(0, batch * N + 1, N, dtype=torch.int32, device=device)
    qkv = torch.randn(*rows, 3, 12, D, dtype=dtype, device=device)
    (q, k, v), (dq, dk, dv) = qkv.unbind(-3), torch.empty_like(qkv).unbind(-3)
    if "pool" in kernel:
        q, dq = q[:, 0], dq[:, 0]
        out, lse = pool_forward(q, k, v, D**-0.5)
        pool_backward(out, q, k, v, out, lse, D**-0.5, (dq, dk, dv))
    else:
        out, lse = forward(q, k, v, D**-0.5, cu_seqlens, N)
        backward(out, q, k, v, out, lse, D**-0.5, (dq, dk, dv), cu_seqlens, N)


# Matrix products that a kernel needs, each of all queries with all keys.
PRODUCTS = {
    "short_forward": 2,
    "short_backward": 5,
    "long_forward": 2,
    "long_backward_dkdv": 4,
    "long_backward_dq": 3,
}


def work(kernel: str, launch: Mapping[str, Any]) -> Work:
    """Sizes, loops and products of a launch, from its arguments by name; pooling needs no matrix products."""
    N = launch.get("Nk", launch.get("N"))
    sequences, H, D = launch["k"].numel() // (N * launch["H"] * launch["D"]), launch["H"], launch["D"]
    problem = f"{sequences} x {N} x {H} x {D}"
    flop = 2 * PRODUCTS.get(kernel, 0) * launch["q"].numel() * N
    if kernel == "short_forward":
        return Work(problem, cdiv(min(launch["rows_per_program"], launch["Nq"]), launch["BLOCK_M"]), flop)
    over_queries = kernel in ("short_backward", "long_backward_dkdv")
    return Work(problem, cdiv(N, launch["BLOCK_M" if over_queries else "BLOCK_N"]), flop)
