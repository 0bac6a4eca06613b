"""Examples for the rows of the launch tables, and launch options to try in their place.

`clippo_kernels.aot` compiles the examples and predicts how long their `work` takes; `clippo.bench.tune` times
them with all options.
"""

from collections.abc import Mapping
from typing import Any

import torch

from .._triton import cdiv
from ..pipes import Work
from .launch import forward, position_gradient, weight_gradient

__all__ = ["CANDIDATES", "example", "work"]

TILES = {
    "BLOCK_M": [32, 64, 128, 256],
    "BLOCK_D": [64, 128, 256],
    "num_warps": [4, 8],
    "num_stages": [2, 3, 4],
}
FLAT = {"BLOCK": [128, 256, 512, 1024, 2048], "num_warps": [1, 2, 4, 8], "num_stages": [1, 2]}
# Launch options to try, keyed by a prefix of the kernel's name; the first prefix that matches is used.
CANDIDATES: dict[str, dict[str, list[int]]] = {
    "forward": TILES | {"BLOCK_K": [32, 64, 128]},
    "weight_gradient": TILES | {"BLOCK_K": [64, 128, 256]},
    "position_gradient_select": TILES | {"BLOCK_N": [32, 64, 128]},
    "position_gradient": {
        "BLOCK_B": [1, 2, 4, 8, 16],
        "BLOCK_E": [256, 512, 1024, 2048],
        "num_warps": [2, 4, 8],
        "num_stages": [1, 2],
    },
    "prepare": FLAT,
    "finish": FLAT,
}


def example(kernel: str, row: dict[str, Any], tokens: int, device: str) -> None:
    """Launch a kernel at the largest sizes of a row of its table, with patches of 16 px and 768 features."""
    N, D = 196, 768
    batch = max(1, tokens // N)
    dtype = torch.bfloat16 if row["itemsize"] == 2 else torch.float32
    pixel_bytes = row["at_most"].get("pixel_bytes", 4)
    image_dtype = {1: torch.uint8, 2: torch.bfloat16, 4: torch.float32}[pixel_bytes]
    C = 1 if row["at_most"].get("pixels", 768) < 768 else 3
    images = (256 * torch.rand(batch, 224, 224, C, device=device)).to(image_dtype).movedim(-1, 1)
    weight = torch.randn(D, 3, 16, 16, dtype=dtype, device=device)
    dbias, pos_embed = torch.randn(D, device=device), torch.randn(N, D, device=device)
    mean = std = [0.5] * 3
    keep_indices = None
    if kernel.endswith("_select"):
        n = torch.arange(batch * N, dtype=torch.int32, device=device)
        keep_indices = torch.stack((n // N, n % N), 1)
    out = forward(images, weight, dbias, pos_embed, keep_indices, mean, std, dtype, dtype)
    weight_gradient(out, images, weight, dbias, keep_indices, mean, std, dtype)
    position_gradient(out, keep_indices, N)


def work(kernel: str, launch: Mapping[str, Any]) -> Work:
    """Sizes, loops and products of a launch, from its arguments by name."""
    if kernel == "position_gradient":
        B, row = launch["B"], launch["ROW"]
        return Work(f"{B} x {row}", cdiv(min(launch["rows_per_split"], B), launch["BLOCK_B"]), 0)
    if kernel == "prepare":
        features, K = len(launch["prepared"]), launch["C"] * launch["P"] ** 2
        return Work(f"{features} x {K}", cdiv(launch["PITCH"], launch["BLOCK"]), 0)
    D = launch["D"]
    if kernel == "position_gradient_select":
        # The products are with a one-hot matrix: nothing but additions is needed.
        M, N = launch["M"], launch["N"]
        return Work(f"{M} x {N} x {D}", cdiv(min(launch["rows_per_split"], M), launch["BLOCK_M"]), 0)
    K = launch["C"] * launch["P"] ** 2
    if kernel == "finish":
        return Work(f"{launch['splits']} x {D} x {K}", launch["splits"], 0)
    M = launch["M"]
    if kernel == "forward":
        return Work(f"{M} x {K} x {D}", cdiv(K, launch["BLOCK_K"]), 2 * M * K * D)
    rows = min(launch["rows_per_split"], M)
    return Work(f"{M} x {K} x {D}", cdiv(rows, launch["BLOCK_M"]), 2 * M * K * D)
