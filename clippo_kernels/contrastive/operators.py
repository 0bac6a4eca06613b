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

        terms = {"backend": backend, "x": row_lse, "y": column_lse[own_texts], "subtracted": positive}
        if weights is None:
            unit = None
            row_shift, column_shift = row_lse, column_lse
            terms |= {"divisor": 2 * text.shape[0] * world_size(group)}
        else:
            unit = weights.unit
            image_weight = weights.image[own_images]
            # exp(logit - shift) is the softmax times its weight.
            row_shift, column_shift = row_lse - image_weight.log(), column_lse - weights.text.log()
            terms |= {"x_weight": image_weight, "y_weight": weights.text[own_texts], "factor": unit}
        ctx.group, ctx.backend, ctx.ring_of, ctx.offset = group, backend, ring_of, positives.offset
        ctx.save_for_backward(image, texts, scale, unit, row_shift, column_shift, *positives[1:])
        return total_over_ranks(scale.dtype, group, **terms)

    @staticmethod
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a contrastive loss")
        image, texts, scale, unit, row_shift, column_shift, *pairs = ctx.saved_tensors
        # Without labels the unit is 1 / (2 * image.shape[0] * W).
        W = world_size(ctx.group)
        factor = dloss / (2 * image.shape[0]) if unit is None else dloss * unit * W
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
        sums = OPS.sigmoid_forward(image, texts, scale, bias, *positives, backend, ring_of)
        row_loss, row_dlogits = sums
        ctx.group, ctx.backend, ctx.ring_of, ctx.offset = group, backend, ring_of, positives.offset
        ctx.save_for_backward(image, texts, scale, bias, row_dlogits, *positives[1:])
        divisor = image.shape[0] * world_size(group)
        return total_over_ranks(scale.dtype, group, backend=backend, x=row_loss, divisor=divisor)

    @staticmethod
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a contrastive loss")
        image, texts, scale, bias, row_dlogits, *pairs = ctx.saved_tensors
        factor = dloss / image.shape[0]  # the mean over image.shape[0] * W rows, times W
        gradients = backward(ctx, image, texts, scale, bias, factor, None, None, ctx.offset, *pairs)
        dbias = OPS.total(row_dlogits, bias.dtype, backend=ctx.backend, factor=factor)
        return *gradients, dbias, None, None, None, None


def total_over_ranks(dtype: torch.dtype, group: dist.ProcessGroup | None, **terms: Any) -> Tensor:
    """The sum over the ranks of `total`, rounded to `dtype` after the ranks are added up."""
    if group is None:
        out: Tensor = OPS.total(dtype=dtype, **terms)
        return out
    return cast(sum_over_ranks(OPS.total(dtype=wide_dtype(terms["x"]), **terms), group), dtype)


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


# ---------------------------------------------------------------------------------------------------------
# Operators. Triton is imported by `launch`, when the first one runs.

POSITIVES = "SymInt offset, Tensor? image_ids, Tensor? text_ids, Tensor? image_target, Tensor? text_target"


def run(name: str, backend: str, ring_of: str, *arguments: Any) -> Any:
    """Run the function `name` of an implementation on all texts, or in the ring of the group `ring_of`."""
    image = arguments[0].image if isinstance(arguments[0], Problem) else arguments[0]
    implementation: Any = eager
    if backend == "triton" and can_launch(image.device):  # which an exported program may be unable to
        from . import launch as implementation
    local = getattr(implementation, name)
    return getattr(ring, name)(local, named_group(ring_of), *arguments) if ring_of else local(*arguments)


def run_contrastive_forward(image: Tensor, text: Tensor, scale: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *positives, backend, ring_of = rest
    problem = (image, text, scale, Positives(*positives))
    out: tuple[Tensor, ...] = run("contrastive_forward", backend, ring_of, *problem)
    return out


def run_total(x: Tensor, dtype: torch.dtype, backend: str, *rest: Any) -> Tensor:
    out: Tensor = run("total", backend, "", x, dtype, *rest)
    return out


def run_sigmoid_forward(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, *rest: Any) -> Tensor:
    *positives, backend, ring_of = rest
    out: Tensor = run("sigmoid_forward", backend, ring_of, image, text, scale, bias, Positives(*positives))
    return out


def run_backward(*arguments: Any) -> tuple[Tensor, ...]:
    *loss, offset, image_ids, text_ids, image_target, text_target, backend, ring_of = arguments[:-2]
    positives = Positives(offset, image_ids, text_ids, image_target, text_target)
    out: tuple[Tensor, ...] = run(
        "backward", backend, ring_of, Problem._make([*loss, positives]), *arguments[-2:]
    )
    return out


def fake_contrastive_forward(image: Tensor, text: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *_, ring_of = rest
    texts = text.shape[0] * (world_size(named_group(ring_of)) if ring_of else 1)
    return tuple(image.new_empty(n, dtype=wide_dtype(image)) for n in (image.shape[0], texts, image.shape[0]))


def fake_total(x: Tensor, dtype: torch.dtype, *_: Any) -> Tensor:
    return x.new_empty((), dtype=dtype)


def fake_sigmoid_forward(image: Tensor, *_: Any) -> Tensor:
    return image.new_empty((2, image.shape[0]), dtype=accumulation_dtype(image.dtype))


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
    "total",
    "(Tensor x, ScalarType dtype, str backend, Tensor? x_weight=None, Tensor? y=None, Tensor? y_weight=None,"
    " Tensor? subtracted=None, Tensor? factor=None, SymInt divisor=1) -> Tensor",
    run_total,
    fake_total,
)
register(
    "sigmoid_forward",
    f"(Tensor image, Tensor text, Tensor scale, Tensor bias, {POSITIVES}, str backend, str ring) -> Tensor",
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
