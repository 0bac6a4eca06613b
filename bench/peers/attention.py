"""Attention as a ViT calls it: packed qkv (B, N, 3, H, D) in, (B, N, H, D) out, one packed gradient back.

A peer gets the views of the packed tensor that it takes without a copy. What its own layout then costs on
the way out, and the gathering of its three gradients into one, is part of its time, as it is of a user's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
import torch._functorch.config
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from clippo.bench.device import ON_GPU
from clippo_kernels import flash_attention_qkvpacked

__all__ = ["Attention", "attentions", "heads_first"]

Attention = Callable[[Tensor], Tensor]


def heads_first(packed: Tensor) -> list[Tensor]:
    """The (B, H, N, D) views of a packed (B, N, 3, H, D), or of (B, N, 2, H, D)."""
    return [x.transpose(1, 2) for x in packed.unbind(2)]


def sdpa(backend: SDPBackend, qkv: Tensor) -> Tensor:
    q, k, v = heads_first(qkv)
    with sdpa_kernel(backend):
        return scaled_dot_product_attention(q, k, v).transpose(1, 2).contiguous()


@cache
def compiled_flex_attention() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    torch._dynamo.config.recompile_limit = 256  # one for every shape, so that none is compiled as dynamic
    # A backward that is timed alone runs again and again on one graph, whose tensors it must not overwrite.
    torch._functorch.config.donated_buffer = False
    return torch.compile(flex_attention, dynamic=False)


def flex(qkv: Tensor) -> Tensor:
    q, k, v = heads_first(qkv)
    return compiled_flex_attention()(q, k, v).transpose(1, 2).contiguous()


def flash_attn(qkv: Tensor) -> Tensor:
    out: Tensor = pytest.importorskip("flash_attn").flash_attn_qkvpacked_func(qkv)
    return out


def attentions() -> dict[str, Attention]:
    """Ours first, then the peers that run on a GPU, or on a CPU."""
    peers: dict[str, Attention] = {
        "clippo": flash_attention_qkvpacked,
        "sdpa-flash": partial(sdpa, SDPBackend.FLASH_ATTENTION),
    }
    if ON_GPU:
        peers["sdpa-cudnn"] = partial(sdpa, SDPBackend.CUDNN_ATTENTION)
        peers["sdpa-efficient"] = partial(sdpa, SDPBackend.EFFICIENT_ATTENTION)
        peers["flash-attn"] = flash_attn
        peers["flex"] = flex
    peers["sdpa-math"] = partial(sdpa, SDPBackend.MATH)
    return peers
