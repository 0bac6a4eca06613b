"""Attention at the lengths of vision towers, against PyTorch's own and flash-attn.

    pytest bench/suites/bench_attention.py          on this machine; a CPU times the eager path
    python -m clippo.bench.gpu --only attention     on a GPU, with tests before and a table after

On a GPU: bfloat16, about 50,000 tokens a call, time on the device. On a CPU: float32, 1,024 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from clippo.bench.device import DEVICE, ON_GPU, sized
from clippo.bench.harness import Work, measure, timed_on_device
from clippo.bench.peers.attention import Attention, attentions, heads_first
from clippo_kernels import (
    attention_pool,
    flash_attention,
    flash_attention_qkvpacked,
    flash_attention_varlen,
)

DTYPE = torch.bfloat16 if ON_GPU else torch.float32
TOKENS = sized(gpu=256 * 196, cpu=1024, rehearsal=1)
# Without and with a class token: 112 px, 224 px, 256 px and 384 px in patches of 16 px; and one beyond.
MAIN_LENGTHS = (50, 197, 256, 577)
LENGTHS = (*MAIN_LENGTHS, *sized(gpu=(196, 1024), cpu=(196, 1024), rehearsal=(196,)))
# Heads and channels of ViT widths.
ALL_HEADS = {"B": (12, 64), "L": (16, 64), "H": (16, 80), "L-128": (8, 128)}
HEADS = sized(gpu=ALL_HEADS, cpu=ALL_HEADS, rehearsal={"B": (1, 16)})
PASSES = ("both", "forward", "backward")
ATTENTIONS = attentions()
COMPILED = {"flex"}  # see conftest.py
CAPTIONS = sized(gpu=4096, cpu=64, rehearsal=8)


def is_main(test: str, parameters: Mapping[str, Any]) -> bool:
    """Whether bench.gpu measures a benchmark among the first: B, at four lengths, and all packed batches."""
    return test == "test_varlen" or (
        test == "test_packed" and parameters["heads"] == "B" and parameters["N"] in MAIN_LENGTHS
    )


def prepare(attention: Attention, inputs: Tensor, which: str) -> Callable[[], object]:
    """A call that runs the forward, the backward of a forward that has run, or both."""
    inputs.requires_grad_(which != "forward")
    out = attention(inputs)
    dout = torch.randn_like(out)

    # The projection that made the packed tensor needs its gradient packed.
    def both() -> object:
        return torch.autograd.grad(attention(inputs), inputs, dout)[0].contiguous()

    def backward() -> object:
        return torch.autograd.grad(out, inputs, dout, retain_graph=True)[0].contiguous()

    return {"forward": lambda: attention(inputs), "backward": backward, "both": both}[which]


def attention_work(tokens: int, pairs: int, H: int, D: int, which: str) -> Work:
    """Of `tokens` queries, keys and values that make `pairs` of a query and a key."""
    tensor, product = tokens * H * D * DTYPE.itemsize, 2 * pairs * H * D
    forward, backward = (4, 2), (8, 5)  # tensors moved, matrix products
    tensors, products = {
        "forward": forward,
        "backward": backward,
        "both": (forward[0] + backward[0], forward[1] + backward[1]),
    }[which]
    return Work(tensors * tensor, products * product)


@timed_on_device
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("N", LENGTHS)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("name", ATTENTIONS)
def test_packed(benchmark: Any, which: str, N: int, heads: str, name: str) -> None:
    H, D = HEADS[heads]
    B = max(1, TOKENS // N)
    benchmark.group = f"attention, {which}, N {N}, {H} heads of {D}"
    benchmark.extra_info.update(name=name, batch=B)

    def make() -> Callable[[], object]:
        qkv = torch.randn(B, N, 3, H, D, device=DEVICE, dtype=DTYPE)
        return prepare(ATTENTIONS[name], qkv, which)

    measure(benchmark, make, attention_work(B * N, B * N * N, H, D, which), DTYPE)


# Inked patches of captions, alone or after as many photographs, as in the tower.
PHOTOGRAPH = 196
MIXTURES = {
    "captions": np.random.default_rng(0).integers(5, 21, CAPTIONS),
    "captions and photographs": np.concatenate(
        [np.full(CAPTIONS // 8, PHOTOGRAPH), np.random.default_rng(0).integers(5, 21, CAPTIONS // 8)]
    ),
}


Batch = tuple[tuple[int, ...], Attention]  # the leading axes of the packed tensor, and what attends to it


def offsets(lengths: np.ndarray) -> Tensor:
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=DEVICE)


def varlen(lengths: np.ndarray) -> Batch:
    cu_seqlens, is_photograph = offsets(lengths), lengths == PHOTOGRAPH
    longest, dense = int(lengths[~is_photograph].max()), (int(is_photograph.sum()), PHOTOGRAPH)
    return (int(lengths.sum()),), lambda qkv: flash_attention_varlen(qkv, cu_seqlens, longest, dense)


def flash_attn_varlen(lengths: np.ndarray) -> Batch:
    attend = pytest.importorskip("flash_attn").flash_attn_varlen_qkvpacked_func
    cu_seqlens, longest = offsets(lengths), int(lengths.max())
    return (int(lengths.sum()),), lambda qkv: attend(qkv, cu_seqlens, longest)


def padded(lengths: np.ndarray) -> Batch:
    """Pad to the longest, attend under a mask of the keys, and pack again."""
    S, longest = len(lengths), int(lengths.max())
    rows = np.concatenate([s * longest + np.arange(n) for s, n in enumerate(lengths)])
    row_T = torch.from_numpy(rows).to(DEVICE)
    is_key = torch.arange(longest, device=DEVICE) < torch.from_numpy(lengths).to(DEVICE)[:, None]
    mask = is_key[:, None, None, :].expand(-1, -1, longest, -1)

    def attention(qkv: Tensor) -> Tensor:
        full = qkv.new_zeros(S * longest, *qkv.shape[1:]).index_copy(0, row_T, qkv)
        q, k, v = heads_first(full.view(S, longest, *qkv.shape[1:]))
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return out.transpose(1, 2).flatten(0, 1).index_select(0, row_T)

    return (len(rows),), attention


def all_patches(lengths: np.ndarray) -> Batch:
    """A tower without packing: every canvas is 196 patches, inked or not."""
    return (len(lengths), 196), flash_attention_qkvpacked


VARLEN = {"clippo": varlen, "sdpa-padded": padded, "clippo-all-patches": all_patches}
if ON_GPU:
    VARLEN["flash-attn"] = flash_attn_varlen


@timed_on_device
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("name", VARLEN)
def test_varlen(benchmark: Any, which: str, mixture: str, name: str) -> None:
    H, D = HEADS["B"]
    lengths = MIXTURES[mixture]
    benchmark.group = f"varlen, {which}, {mixture}, {H} heads of {D}"
    benchmark.extra_info.update(name=name, sequences=len(lengths))

    def make() -> Callable[[], object]:
        batch, attention = VARLEN[name](lengths)
        return prepare(attention, torch.randn(*batch, 3, H, D, device=DEVICE, dtype=DTYPE), which)

    measure(benchmark, make, attention_work(lengths.sum(), (lengths**2).sum(), H, D, which), DTYPE)


def pool_through_attention(q: Tensor, kv: Tensor) -> Tensor:
    """The same through the general kernel: one query for each sequence."""
    k, v = kv.unbind(2)
    return flash_attention(q.expand(len(kv), 1, -1, -1), k, v)[:, 0]


def pool_through_sdpa(q: Tensor, kv: Tensor) -> Tensor:
    k, v = heads_first(kv)
    return scaled_dot_product_attention(q.expand(len(kv), -1, -1)[:, :, None], k, v)[:, :, 0]


POOLS = {
    "clippo": attention_pool,
    "clippo-flash-attention": pool_through_attention,
    "sdpa": pool_through_sdpa,
}


@timed_on_device
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("N", [196, 576])
@pytest.mark.parametrize("name", POOLS)
def test_pool(benchmark: Any, which: str, N: int, name: str) -> None:
    H, D = HEADS["B"]
    B = max(1, TOKENS // N)
    benchmark.group = f"pool, {which}, N {N}, {H} heads of {D}"
    benchmark.extra_info.update(name=name, batch=B)

    def make() -> Callable[[], object]:
        q = torch.randn(H, D, device=DEVICE, dtype=DTYPE)
        kv = torch.randn(B, N, 2, H, D, device=DEVICE, dtype=DTYPE)
        return prepare(lambda kv: POOLS[name](q, kv), kv, which)

    moved, flops = {"forward": (2, 4), "backward": (4, 10), "both": (6, 14)}[which]
    tensor = B * N * H * D
    measure(benchmark, make, Work(moved * tensor * DTYPE.itemsize, flops * tensor), DTYPE)
