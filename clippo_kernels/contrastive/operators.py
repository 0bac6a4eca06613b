"""The losses as registered operators, and the autograd functions that call them.

An operator gets R images and either all B texts or, if `ring` names a process group, the texts of this rank,
which are then passed on in a ring exchange (see `ring`). The autograd functions combine the results of the
ranks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .._ops import cast, refuse_second_derivative, register
from ..dispatch import can_launch
from . import eager, ring
from .distributed import gather_rows, lse_over_ranks, named_group, sum_over_ranks, sum_to_owners, world_size
from .eager import accumulation_dtype, wide_dtype
from .positives import Positives, by_label, with_soft_targets
from .problem import Problem

__all__ = ["ContrastiveLoss", "SigmoidLoss"]

OPS = torch.ops.clippo_kernels

# If the gathered texts and their gradients take more bytes than this, a ring exchange is used instead.
GATHERED_BYTES = 2 * 2**30


class ContrastiveLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        image_labels: Tensor | None,
        text_labels: Tensor | None,
        group: dist.ProcessGroup | None,
        backend: str,
    ) -> Tensor:
        texts, ring_of = gathered_or_own_texts(text, group)
        own_images, own_texts = own_rows(image, group), own_rows(text, group)
        positives, weights = positives_of_all(image_labels, text_labels, group), None
        if image_labels is not None:
            positives, weights = with_soft_targets(positives, scale.dtype)
        positives = positives.block(own_images, slice(0, None))
        row_lse, column_lse, positive = OPS.contrastive_forward(
            image, texts, scale, *positives, backend, ring_of
        )
        column_lse = lse_over_ranks(column_lse, group)

        row_loss, column_loss = row_lse, column_lse[own_texts]
        row_shift, column_shift = row_lse, column_lse
        if weights is None:
            unit = scale.new_ones(()) / (2 * text.shape[0] * world_size(group))
        else:
            unit = weights.unit
            image_weight = weights.image[own_images]
            row_loss, column_loss = row_loss * image_weight, column_loss * weights.text[own_texts]
            # exp(logit - shift) is the softmax times its weight.
            row_shift, column_shift = row_lse - image_weight.log(), column_lse - weights.text.log()
        loss = (row_loss.sum() + column_loss.sum() - positive.sum()) * unit
        ctx.group, ctx.backend, ctx.ring_of, ctx.offset = group, backend, ring_of, positives.offset
        ctx.save_for_backward(image, texts, scale, unit, row_shift, column_shift, *positives[1:])
        return cast(sum_over_ranks(loss, group), scale.dtype)

    @staticmethod
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a contrastive loss")
        image, texts, scale, unit, row_shift, column_shift, *pairs = ctx.saved_tensors
        factor = dloss * unit * world_size(ctx.group)
        gradients = backward(
            ctx, image, texts, scale, None, factor, row_shift, column_shift, ctx.offset, *pairs
        )
        return *gradients, None, None, None, None


class SigmoidLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        bias: Tensor,
        image_labels: Tensor | None,
        text_labels: Tensor | None,
        group: dist.ProcessGroup | None,
        backend: str,
    ) -> Tensor:
        texts, ring_of = gathered_or_own_texts(text, group)
        positives = positives_of_all(image_labels, text_labels, group)
        positives = positives.block(own_rows(image, group), slice(0, None))
        row_loss, row_dlogits = OPS.sigmoid_forward(image, texts, scale, bias, *positives, backend, ring_of)
        unit = row_loss.new_ones(()) / (image.shape[0] * world_size(group))
        dbias = accurate_sum(row_dlogits)
        ctx.group, ctx.backend, ctx.ring_of, ctx.offset = group, backend, ring_of, positives.offset
        ctx.save_for_backward(image, texts, scale, bias, unit, dbias, *positives[1:])
        return cast(sum_over_ranks(accurate_sum(row_loss) * unit, group), row_loss.dtype)

    @staticmethod
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a contrastive loss")
        image, texts, scale, bias, unit, dbias, *pairs = ctx.saved_tensors
        factor = dloss * unit * world_size(ctx.group)
        gradients = backward(ctx, image, texts, scale, bias, factor, None, None, ctx.offset, *pairs)
        return *gradients, (dbias * factor).to(bias.dtype), None, None, None, None


def backward(ctx: Any, image: Tensor, texts: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients w.r.t. this rank's images and texts, and this rank's part of that w.r.t. the scale."""
    # After an all-gather, dtext is a partial sum and must be reduce-scattered; in a ring exchange it is
    # already complete.
    is_partial = ctx.group is not None and not ctx.ring_of
    text_dtype = accumulation_dtype(texts.dtype) if is_partial else texts.dtype
    dimage, dtext, dscale = OPS.contrastive_backward(
        image, texts, *arguments, ctx.backend, ctx.ring_of, image.dtype, text_dtype
    )
    if is_partial:
        dtext = sum_to_owners(dtext, ctx.group).to(texts.dtype)
    return dimage, dtext, dscale


def positives_of_all(
    image_labels: Tensor | None, text_labels: Tensor | None, group: dist.ProcessGroup | None
) -> Positives:
    """The positive pairs among the images and texts of all ranks."""
    if image_labels is None or text_labels is None:
        return Positives()
    return by_label(gather_rows(image_labels, group), gather_rows(text_labels, group))


def gathered_or_own_texts(text: Tensor, group: dist.ProcessGroup | None) -> tuple[Tensor, str]:
    """Return the texts of all ranks and "", or, if they are too large, own texts and the group's name."""
    gradient_bytes = accumulation_dtype(text.dtype).itemsize
    gathered = text.numel() * world_size(group) * (text.dtype.itemsize + gradient_bytes)
    if group is not None and gathered > GATHERED_BYTES:
        return text, group.group_name
    return gather_rows(text, group), ""


def own_rows(x: Tensor, group: dist.ProcessGroup | None) -> slice:
    """Slice of this rank's rows in the rows of all ranks."""
    first = x.shape[0] * (0 if group is None else dist.get_rank(group))
    return slice(first, first + x.shape[0])


def accurate_sum(x: Tensor) -> Tensor:
    return x.sum(dtype=wide_dtype(x))


# ---------------------------------------------------------------------------------------------------------
# Operators. Triton is imported by `launch`, when the first one runs.

POSITIVES = "SymInt offset, Tensor? image_ids, Tensor? text_ids, Tensor? image_target, Tensor? text_target"


def run(name: str, backend: str, ring_of: str, *arguments: Any) -> tuple[Tensor, ...]:
    """Run the function `name` of an implementation on all texts, or in the ring of the group `ring_of`."""
    image = arguments[0].image if isinstance(arguments[0], Problem) else arguments[0]
    implementation: Any = eager
    if backend == "triton" and can_launch(image.device):  # which an exported program may be unable to
        from . import launch as implementation
    local = getattr(implementation, name)
    results: tuple[Tensor, ...] = (
        getattr(ring, name)(local, named_group(ring_of), *arguments) if ring_of else local(*arguments)
    )
    return results


def run_contrastive_forward(image: Tensor, text: Tensor, scale: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *positives, backend, ring_of = rest
    return run("contrastive_forward", backend, ring_of, image, text, scale, Positives(*positives))


def run_sigmoid_forward(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    *positives, backend, ring_of = rest
    return run("sigmoid_forward", backend, ring_of, image, text, scale, bias, Positives(*positives))


def run_backward(*arguments: Any) -> tuple[Tensor, ...]:
    *loss, offset, image_ids, text_ids, image_target, text_target, backend, ring_of = arguments[:-2]
    positives = Positives(offset, image_ids, text_ids, image_target, text_target)
    return run("backward", backend, ring_of, Problem._make([*loss, positives]), *arguments[-2:])


def fake_contrastive_forward(image: Tensor, text: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *_, ring_of = rest
    texts = text.shape[0] * (world_size(named_group(ring_of)) if ring_of else 1)
    return tuple(image.new_empty(n, dtype=wide_dtype(image)) for n in (image.shape[0], texts, image.shape[0]))


def fake_sigmoid_forward(image: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return tuple(image.new_empty(image.shape[0], dtype=accumulation_dtype(image.dtype)) for _ in range(2))


def fake_backward(image: Tensor, text: Tensor, scale: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *_, image_dtype, text_dtype = rest
    dimage = image.new_empty(image.shape, dtype=image_dtype)
    return dimage, text.new_empty(text.shape, dtype=text_dtype), torch.empty_like(scale)


register(
    "contrastive_forward",
    f"(Tensor image, Tensor text, Tensor scale, {POSITIVES}, str backend, str ring)"
    " -> (Tensor row_lse, Tensor column_lse, Tensor positive)",
    run_contrastive_forward,
    fake_contrastive_forward,
)
register(
    "sigmoid_forward",
    f"(Tensor image, Tensor text, Tensor scale, Tensor bias, {POSITIVES}, str backend, str ring)"
    " -> (Tensor row_loss, Tensor row_dlogits)",
    run_sigmoid_forward,
    fake_sigmoid_forward,
)
register(
    "contrastive_backward",
    "(Tensor image, Tensor text, Tensor scale, Tensor? bias, Tensor factor, Tensor? row_shift,"
    f" Tensor? column_shift, {POSITIVES}, str backend, str ring, ScalarType image_dtype,"
    " ScalarType text_dtype)"
    " -> (Tensor dimage, Tensor dtext, Tensor dscale)",
    run_backward,
    fake_backward,
)
