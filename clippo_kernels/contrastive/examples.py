"""Examples for the rows of the launch tables, and launch options to try in their place.

`clippo_kernels.aot` compiles the examples and predicts how long their `work` takes; `clippo.bench.tune` times
them with all options.
"""

from collections.abc import Mapping
from typing import Any

import torch

from .._triton import cdiv
from ..pipes import Work
from .launch import backward, contrastive_forward, sigmoid_forward, total
from .positives import Positives, by_label, with_soft_targets
from .problem import Problem

__all__ = ["CANDIDATES", "example", "work"]

# Launch options to try, keyed by a prefix of the kernel's name; the first prefix that matches is used.
CANDIDATES: dict[str, dict[str, list[int]]] = {
    "gradient": {
        "BLOCK_R": [32, 64, 128],
        "BLOCK_B": [32, 64, 128],
        "num_warps": [4, 8],
        "num_stages": [1, 2, 3],
    },
    "combine": {
        "BLOCK": [64, 128, 256],
        "ROWS": [1, 4, 8, 16],
        "num_warps": [2, 4, 8],
        "num_stages": [1, 2],
    },
    "finish": {"ROWS": [2, 4, 8, 16], "BLOCK_D": [128, 256], "num_warps": [2, 4, 8], "num_stages": [1, 2]},
    "split": {"BLOCK": [64, 128, 256, 512, 1024], "num_warps": [1, 2, 4, 8], "num_stages": [1, 2]},
    "total": {"BLOCK": [512, 1024, 2048, 4096], "num_warps": [4, 8, 16], "num_stages": [1, 2, 3]},
    "": {
        "BLOCK_R": [64, 128],
        "BLOCK_B": [64, 128, 256],
        "BLOCK_D": [32, 64],
        "GROUP": [8, 16],
        "PIECE": [16, 32],
        "num_warps": [4, 8],
        "num_stages": [2, 3, 4],
    },
}


def example(kernel: str, row: dict[str, Any], tokens: int, device: str) -> None:
    """Launch a kernel at the largest sizes of a row of its table.

    The example is a batch of `tokens` pairs, first without and then with labels, for both losses.
    """
    D = row["at_most"].get("channels", 768)
    dtype = torch.bfloat16 if row["itemsize"] == 2 else torch.float32
    image, text = (torch.randn(tokens, D, dtype=dtype, device=device) / D**0.5 for _ in range(2))
    scale, bias, factor = (torch.full((), value, device=device) for value in (10.0, -10.0, 1e-3))
    labels = torch.arange(tokens, device=device) // 2
    labelled, weights = with_soft_targets(by_label(labels, labels), torch.float32)
    cases = [labelled] if kernel.endswith("_labelled") else [Positives(), labelled]
    if kernel in ("forward", "sigmoid_forward"):
        del cases[1]
    for positives in cases:
        row_lse, column_lse, positive = contrastive_forward(image, text, scale, positives)
        image_weight, text_weight, unit = weights if positives is labelled else (None, None, None)
        total(row_lse, torch.float32, image_weight, column_lse, text_weight, positive, unit, 2 * tokens)
        backward(Problem(image, text, scale, None, factor, row_lse, column_lse, positives), dtype, dtype)
        sigmoid_forward(image, text, scale, bias, positives)
        backward(Problem(image, text, scale, bias, factor, None, None, positives), dtype, dtype)


def work(kernel: str, launch: Mapping[str, Any]) -> Work:
    """Sizes, loops and products of a launch, from its arguments by name."""
    R, B = launch["R"], launch["B"]
    if kernel == "combine":
        problem = f"{launch['row_count']} x {R} + {launch['column_count']} x {B}"
        return Work(problem, cdiv(launch["row_count"], launch["ROWS"]), 0)
    if kernel in ("split", "total"):
        return Work(f"{R} + {B}", cdiv(R, launch["BLOCK"]), 0)
    D = launch["D"]
    if kernel == "finish":
        return Work(f"{R} x {D} + {B} x {D}", cdiv(D, launch["BLOCK_D"]), 0)
    flop = 2 * R * B * D
    if kernel == "gradient":
        return Work(f"{R} x {B} x {D}", cdiv(B, launch["BLOCK_B"]), 2 * flop)
    return Work(f"{R} x {B} x {D}", cdiv(D, launch["BLOCK_D"]), flop)
