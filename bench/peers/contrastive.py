"""The symmetric InfoNCE of a batch of pairs, as others compute it.

Each takes (image, text, logit_scale), (B, D) twice and a scalar tensor, and returns the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from clippo.bench.device import ON_GPU
from clippo_kernels import contrastive_loss

__all__ = ["UNRECORDED", "losses", "matrix_bytes"]

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

CHUNK_ROWS = 1024
# Their hosts wait for the device in the middle, which a CUDA graph cannot hold.
UNRECORDED = {"liger"}


def clippo(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    return contrastive_loss(image, text, scale)


def pairs(image: Tensor) -> Tensor:
    return torch.arange(len(image), device=image.device)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets)


def explicit(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """One matrix of logits, and two cross-entropies of it."""
    logits = (image @ text.T).float() * scale
    return (cross_entropy(logits, pairs(image)) + cross_entropy(logits.T, pairs(image))) / 2


def open_clip(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """The formula of open_clip's ClipLoss: a product for each direction, scaled before it."""
    scale = scale.to(image.dtype)
    to_text, to_image = scale * image @ text.T, scale * text @ image.T
    return (cross_entropy(to_text, pairs(image)) + cross_entropy(to_image, pairs(image))) / 2


def checkpointed(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Chunks of rows of each direction, which the backward computes again."""

    def chunk(x: Tensor, y: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy((x @ y.T).float() * scale, targets, reduction="sum")

    parts = [
        checkpoint(chunk, rows, y, targets, use_reentrant=False)
        for x, y in ((image, text), (text, image))
        for rows, targets in zip(x.split(CHUNK_ROWS), pairs(x).split(CHUNK_ROWS), strict=True)
    ]
    return torch.stack(parts).sum() / (2 * len(image))


def liger(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Liger's fused linear cross-entropy in each direction, the other side as its classifier."""
    loss = pytest.importorskip("liger_kernel.transformers").LigerFusedLinearCrossEntropyLoss()
    scale = scale.to(image.dtype)
    out: Tensor = (loss(text, scale * image, pairs(image)) + loss(image, scale * text, pairs(image))) / 2
    return out


def inf_cl(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Inf-CL's kernels in each direction."""
    cal_inf_loss = pytest.importorskip("inf_cl").cal_inf_loss
    out: Tensor = (cal_inf_loss(scale * image, text) + cal_inf_loss(scale * text, image)) / 2
    return out


@cache
def compiled(loss: Loss) -> Loss:
    torch._dynamo.config.recompile_limit = 256  # one for every shape, so that none is compiled as dynamic
    return torch.compile(loss, dynamic=False)


def losses() -> dict[str, Loss]:
    """Ours first, then the peers that run on a GPU, or on a CPU."""
    found: dict[str, Loss] = {
        "clippo": clippo,
        "explicit": explicit,
        "explicit-compiled": lambda *args: compiled(explicit)(*args),
        "open_clip": open_clip,
        "checkpointed": checkpointed,
    }
    if ON_GPU:
        found |= {"liger": liger, "inf_cl": inf_cl}
    return found


def matrix_bytes(name: str, B: int) -> int:
    """Least memory in bytes of a peer that stores B x B matrices, so that hopeless cases are skipped."""
    # The backward of an explicit matrix holds logits before and after the scale, two log-softmaxes and their
    # gradients at one time.
    matrices = {"explicit": 6, "explicit-compiled": 2, "open_clip": 5}.get(name, 0)
    return matrices * B * B * 4
