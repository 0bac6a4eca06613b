"""FLOPs of the operators, for `torch.utils.flop_counter.FlopCounterMode`.

As in PyTorch, a formula counts two FLOPs for each multiply-add of a matrix product and nothing else, and it
counts the least that the operator can do, whichever kernel runs: an attention takes two products and its
backward, which computes the logits again, five, as PyTorch counts for its own flash attention. A loss takes
one product and its backward three.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .attention.eager import known_lengths
from .contrastive.distributed import named_group, world_size

__all__ = ["register_flop_formulas"]


def attention_product(q: Tensor, k: Tensor) -> int:
    """FLOPs of `q k^T` for q (B, Nq, H, D) and k (B, Nk, H, D)."""
    return 2 * q.numel() * k.shape[1]


def packed_product(
    qkv: Tensor, cu_seqlens: Tensor | None, max_seqlen: int, dense_sequences: int, dense_length: int
) -> int:
    """FLOPs of `q k^T` for qkv (B, N, 3, H, D), or (T, 3, H, D) with the offsets of S sequences.

    Where the offsets have no values, as under torch.compile, all but the dense sequences count as the
    longest, as in PyTorch's formulas.
    """
    *rows, _, H, D = qkv.shape
    if cu_seqlens is None:
        B, N = rows
        return 2 * B * N * N * H * D
    lengths = known_lengths(cu_seqlens)
    if lengths is None:
        others = cu_seqlens.shape[0] - 1 - dense_sequences
        return 2 * (dense_sequences * dense_length**2 + others * max_seqlen**2) * H * D
    return 2 * sum(length * length for length in lengths) * H * D


def pool_product(kv: Tensor) -> int:
    """FLOPs of `q k^T` for one query a sequence: a multiply-add for each element of the keys."""
    return 2 * kv.select(-3, 0).numel()


def patch_product(tokens: Tensor, images: Tensor, weight: Tensor) -> int:
    """FLOPs of the product of M patches with the weight, for tokens (..., D) and images (B, C, H, W)."""
    C, P = images.shape[1], weight.shape[-1]
    return 2 * tokens.numel() * C * P * P


def logits_product(image: Tensor, text: Tensor, ring_of: str) -> int:
    """FLOPs of R images (R, D) times all texts, of which a ring exchange has the part of one rank here."""
    ranks = world_size(named_group(ring_of)) if ring_of else 1
    return 2 * image.numel() * text.shape[0] * ranks


# By operator, for the arguments of its schema. The position gradient of a patch embedding is a sum without
# products.
FORMULAS: dict[str, Callable[..., int]] = {
    "attention_forward": lambda q, k, *_, **__: 2 * attention_product(q, k),
    "attention_backward": lambda dout, q, k, *_, **__: 5 * attention_product(q, k),
    "attention_packed_forward": lambda qkv, cu_seqlens, *sizes, **_: (
        2 * packed_product(qkv, cu_seqlens, *sizes[:3])
    ),
    "attention_packed_backward": lambda dout, qkv, out, lse, cu_seqlens, *sizes, **_: (
        5 * packed_product(qkv, cu_seqlens, *sizes[:3])
    ),
    "attention_pool_forward": lambda q, kv, *_, **__: 2 * pool_product(kv),
    "attention_pool_backward": lambda dout, q, kv, *_, **__: 5 * pool_product(kv),
    "patch_embed_forward": lambda images, weight, *_, out_val, **__: patch_product(out_val, images, weight),
    "patch_embed_weight_gradient": lambda dout, images, weight, *_, **__: patch_product(dout, images, weight),
    "contrastive_forward": lambda image, text, *rest, **_: logits_product(image, text, rest[-1]),
    "sigmoid_forward": lambda image, text, *rest, **_: logits_product(image, text, rest[-1]),
    "contrastive_backward": lambda image, text, *rest, **_: 3 * logits_product(image, text, rest[-3]),
}


def register_flop_formulas() -> None:
    """Give PyTorch's counter the formulas, for all later uses of `FlopCounterMode` in this process."""
    # The counter imports Triton, which this package needs only where a kernel runs.
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    for name, formula in FORMULAS.items():
        operator = getattr(torch.ops.clippo_kernels, name)
        if operator not in flop_registry:
            register_flop_formula(operator, get_raw=True)(formula)
