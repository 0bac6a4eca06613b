"""Contrastive losses over pairs of embeddings that never hold the matrix of all logits.

The losses of a shard are registered operators (see `reference` for what they compute), so that
torch.compile takes them whole and another implementation can stand behind the same schema. The autograd
functions around them add what is distributed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .._checks import check_floating, check_same_device, check_same_kind, check_tensor
from .._ops import refuse_second_derivative, register
from ..dispatch import Implementations, select
from . import reference
from .distributed import gather_rows, rank, sum_over_ranks, sum_to_owners, world_size
from .reference import accumulation_dtype


def contrastive_loss(
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    logit_scale: Tensor | float,
    *,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Mean of the image-to-text and text-to-image cross-entropies of a batch of pairs: a scalar.

    The loss of CLIP (Radford et al., arXiv 2103.00020): the logits are `logit_scale` times the products of
    all images with all texts, and row i of one belongs to row i of the other. The B x B logits exist only a
    chunk at a time, in the forward and again in the backward. The result is deterministic. It can be
    differentiated once.

    With `group`, every rank passes its own B rows, as many as the other ranks, and gets the loss of the
    global batch of W * B. The gradients a rank gets are W times its share, so that averaging parameter
    gradients over the ranks, as DistributedDataParallel does, gives the gradient of a single process that
    holds the whole batch. Each rank's images meet the texts of all ranks, which are gathered once.

    Args:
        image_embeddings, text_embeddings: (B, D), floating, usually of unit length.
        logit_scale: the factor itself, not its logarithm: a number, or a tensor of one element.
        group: the process group that shares the batch; `torch.distributed.group.WORLD` for all ranks.

    Returns:
        float32 (float64 for float64 embeddings), as all sums inside; autocast does not apply.

    Raises:
        TypeError: dtypes that are not floating or differ.
        ValueError: shapes or devices that do not fit, B = 0, or shapes that differ between ranks (on every
            rank, and outside torch.compile only).
    """
    check_embeddings(image_embeddings, text_embeddings, group)
    scale = to_scalar("logit_scale", logit_scale, image_embeddings)
    return ContrastiveLoss.apply(image_embeddings, text_embeddings, scale, group)


def sigmoid_loss(
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    *,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Sigmoid loss of a batch of pairs, summed over all B x B of them and divided by B: a scalar.

    The loss of SigLIP (Zhai et al., arXiv 2303.15343): `-log sigmoid(z * (logit_scale * x . y + logit_bias))`
    with z = 1 where image and text belong together and -1 elsewhere. Memory, determinism, `group`, result
    and errors are those of `contrastive_loss`.

    Args:
        image_embeddings, text_embeddings: (B, D), floating, usually of unit length.
        logit_scale, logit_bias: numbers, or tensors of one element.
        group: the process group that shares the batch.
    """
    check_embeddings(image_embeddings, text_embeddings, group)
    scale = to_scalar("logit_scale", logit_scale, image_embeddings)
    bias = to_scalar("logit_bias", logit_bias, image_embeddings)
    return SigmoidLoss.apply(image_embeddings, text_embeddings, scale, bias, group)


def check_embeddings(image: Tensor, text: Tensor, group: dist.ProcessGroup | None) -> None:
    check_tensor("image_embeddings", image, "(B, D)")
    check_tensor("text_embeddings", text, "(B, D)")
    check_floating("image_embeddings", image)
    check_same_kind("text_embeddings", text, "image_embeddings", image)
    # What one rank alone would refuse is compared first: had it raised by itself, the others would wait for
    # it in the next collective. Reading the answer back is no part of a traced graph.
    if group is not None and not torch.compiler.is_compiling():
        shapes = gather_rows(torch.tensor([[*image.shape, *text.shape]], device=image.device), group).tolist()
        if shapes.count(shapes[0]) != len(shapes):
            listed = ", ".join(f"{tuple(shape[:2])} and {tuple(shape[2:])}" for shape in shapes)
            raise ValueError(
                f"image_embeddings and text_embeddings must have the same shapes on every rank, got {listed}"
            )
    if image.shape[0] == 0:
        raise ValueError(f"image_embeddings must hold at least one pair, got {tuple(image.shape)}")
    if text.shape != image.shape:
        raise ValueError(
            f"text_embeddings must have shape {tuple(image.shape)} like image_embeddings, "
            f"got {tuple(text.shape)}"
        )


def to_scalar(name: str, value: Tensor | float, image: Tensor) -> Tensor:
    """`value` as a 0-d tensor of the dtype the loss accumulates in."""
    dtype = accumulation_dtype(image.dtype)
    if not isinstance(value, Tensor):
        return torch.tensor(value, dtype=dtype, device=image.device)
    if value.shape not in ((), (1,)):
        raise ValueError(f"{name} must have shape () or (1,), got {tuple(value.shape)}")
    check_floating(name, value)
    check_same_device(name, value, "image_embeddings", image)
    return value.reshape(()).to(dtype)


class ContrastiveLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image: Tensor, text: Tensor, scale: Tensor, group: dist.ProcessGroup | None
    ) -> Tensor:
        texts = gather_rows(text, group)
        own = slice(rank(group) * text.shape[0], (rank(group) + 1) * text.shape[0])
        row_lse, column_lse, positive = torch.ops.clippo_kernels.contrastive_forward(
            image, texts, scale, own.start
        )
        column_lse = gather_rows(column_lse[None], group).logsumexp(0)
        ctx.group = group
        ctx.save_for_backward(image, texts, scale, row_lse, column_lse)
        pair_loss = (row_lse - positive) + (column_lse[own] - positive)
        return sum_over_ranks(pair_loss.sum() / (2 * texts.shape[0]), group)

    @staticmethod
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a contrastive loss")
        image, texts, scale, row_lse, column_lse = ctx.saved_tensors
        dimage, dtexts, dscale = torch.ops.clippo_kernels.contrastive_backward(
            image, texts, scale, row_lse, column_lse, rank(ctx.group) * image.shape[0]
        )
        dtext = sum_to_owners(dtexts, ctx.group)
        dloss = dloss * world_size(ctx.group)
        return (dimage * dloss).to(image.dtype), (dtext * dloss).to(image.dtype), dscale * dloss, None


class SigmoidLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, group: dist.ProcessGroup | None
    ) -> Tensor:
        texts = gather_rows(text, group)
        row_loss = torch.ops.clippo_kernels.sigmoid_forward(
            image, texts, scale, bias, rank(group) * image.shape[0]
        )
        ctx.group = group
        ctx.save_for_backward(image, texts, scale, bias)
        return sum_over_ranks(row_loss.sum() / texts.shape[0], group)

    @staticmethod
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a contrastive loss")
        image, texts, scale, bias = ctx.saved_tensors
        dimage, dtexts, dscale, dbias = torch.ops.clippo_kernels.sigmoid_backward(
            image, texts, scale, bias, rank(ctx.group) * image.shape[0]
        )
        dtext = sum_to_owners(dtexts, ctx.group)
        dloss = dloss * world_size(ctx.group)
        return (
            (dimage * dloss).to(image.dtype),
            (dtext * dloss).to(image.dtype),
            dscale * dloss,
            dbias * dloss,
            None,
        )


def _fake_contrastive_forward(image: Tensor, text: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    R, B = image.shape[0], text.shape[0]
    dtype = accumulation_dtype(image.dtype)
    return image.new_empty(R, dtype=dtype), image.new_empty(B, dtype=dtype), image.new_empty(R, dtype=dtype)


def _fake_sigmoid_forward(image: Tensor, *_: Any) -> Tensor:
    return image.new_empty(image.shape[0], dtype=accumulation_dtype(image.dtype))


def _fake_backward(scalars: int) -> Callable[..., tuple[Tensor, ...]]:
    def fake(image: Tensor, text: Tensor, *_: Any) -> tuple[Tensor, ...]:
        dtype = accumulation_dtype(image.dtype)
        shapes = (image.shape, text.shape, *[()] * scalars)
        return tuple(image.new_empty(shape, dtype=dtype) for shape in shapes)

    return fake


def _register(name: str, schema: str, implementations: Implementations, fake: Callable[..., Any]) -> None:
    def run(image: Tensor, *args: Any) -> Any:
        return select(name, image.device, implementations)(image, *args)

    register(name, schema, run, fake)


_register(
    "contrastive_forward",
    "(Tensor image, Tensor text, Tensor scale, SymInt diagonal_offset)"
    " -> (Tensor row_lse, Tensor column_lse, Tensor positive)",
    {"reference": reference.contrastive_forward},
    _fake_contrastive_forward,
)
_register(
    "contrastive_backward",
    "(Tensor image, Tensor text, Tensor scale, Tensor row_lse, Tensor column_lse, SymInt diagonal_offset)"
    " -> (Tensor dimage, Tensor dtext, Tensor dscale)",
    {"reference": reference.contrastive_backward},
    _fake_backward(1),
)
_register(
    "sigmoid_forward",
    "(Tensor image, Tensor text, Tensor scale, Tensor bias, SymInt diagonal_offset) -> Tensor row_loss",
    {"reference": reference.sigmoid_forward},
    _fake_sigmoid_forward,
)
_register(
    "sigmoid_backward",
    "(Tensor image, Tensor text, Tensor scale, Tensor bias, SymInt diagonal_offset)"
    " -> (Tensor dimage, Tensor dtext, Tensor dscale, Tensor dbias)",
    {"reference": reference.sigmoid_backward},
    _fake_backward(2),
)
