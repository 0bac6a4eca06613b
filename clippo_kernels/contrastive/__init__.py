"""Contrastive losses over pairs of embeddings that never hold the matrix of all logits.

On a GPU the Triton kernels compute them (`launch`, `kernels`), elsewhere and in float64 PyTorch does
(`reference`); `operators` has the autograd functions. A loss can be differentiated once.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from .._checks import check_floating, check_same_device, check_same_kind, check_tensor
from .._ops import to_autocast_dtype
from .caching import cached_contrastive_step
from .distributed import gather_rows, world_size
from .operators import ContrastiveLoss, SigmoidLoss
from .reference import accumulation_dtype

__all__ = ["cached_contrastive_step", "contrastive_loss", "sigmoid_loss"]

Labels = tuple[Tensor, Tensor]


def contrastive_loss(
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    logit_scale: Tensor | float,
    *,
    labels: Labels | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Mean of the image-to-text and text-to-image cross-entropies of a batch of pairs: a scalar.

    The loss of CLIP (Radford et al., arXiv 2103.00020): the logits are `logit_scale` times the products of
    all images with all texts, and row i of one belongs to row i of the other. The logits exist only a block
    at a time, in the forward and again in the backward: beside inputs and gradients, memory grows with B and
    not with B * B. Sums and the result are float32 (float64 for float64 embeddings), products are of the
    dtype of the embeddings, or of autocast where it is on. The same inputs give the same bits every time.

    With `labels`, images and texts of equal label belong together: the target of an image is uniform over
    its texts, and that of a text over its images (Khosla et al., arXiv 2004.11362, have such targets). There
    may then be more images than texts, or fewer. An image or text that nothing belongs to is a negative for
    the others and has no loss of its own; where that is all of them, the loss is NaN.

    With `group`, every rank passes its own rows, as many as the other ranks, and gets the loss of the global
    batch. The gradients a rank gets are W times its part, so that averaging parameter gradients over the
    ranks, as DistributedDataParallel does, gives the gradient of a single process that holds the whole batch.
    Each rank multiplies its images with the texts of all ranks, which are gathered once, or exchanged in a
    ring where they and their gradients would take over 2 GiB.

    Args:
        image_embeddings, text_embeddings: (B, D), floating, usually of unit length.
        logit_scale: the factor itself, not its logarithm: a number, or a tensor of one element.
        labels: a pair of int64 tensors, of the images (B,) and of the texts (B,).
        group: the process group that shares the batch; `torch.distributed.group.WORLD` for all ranks.

    Raises:
        TypeError: dtypes that are not floating or differ; labels that are no int64 tensors.
        ValueError: shapes or devices that do not fit, B = 0.

    On every rank of a `group` alike, also where they do not fit together (outside torch.compile only).
    """
    image, text, labels, group = check(image_embeddings, text_embeddings, labels, group, scale=logit_scale)
    scale = to_scalar(logit_scale, image)
    out: Tensor = ContrastiveLoss.apply(image, text, scale, *(labels or (None, None)), group)  # type: ignore[no-untyped-call]
    return out


def sigmoid_loss(
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    *,
    labels: Labels | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Sigmoid loss of a batch of pairs, summed over all images and texts and divided by the images: a scalar.

    The loss of SigLIP (Zhai et al., arXiv 2303.15343): `-log sigmoid(z * (logit_scale * x . y + logit_bias))`
    with z = 1 where image and text belong together and -1 elsewhere. Memory, dtypes, determinism, `labels`,
    `group` and errors are those of `contrastive_loss`.

    Args:
        image_embeddings, text_embeddings: (B, D), floating, usually of unit length.
        logit_scale, logit_bias: numbers, or tensors of one element.
        labels: a pair of int64 tensors, of the images (B,) and of the texts (B,).
        group: the process group that shares the batch.
    """
    image, text, labels, group = check(
        image_embeddings, text_embeddings, labels, group, scale=logit_scale, bias=logit_bias
    )
    scale, bias = to_scalar(logit_scale, image), to_scalar(logit_bias, image)
    out: Tensor = SigmoidLoss.apply(image, text, scale, bias, *(labels or (None, None)), group)  # type: ignore[no-untyped-call]
    return out


def check(
    image: Tensor,
    text: Tensor,
    labels: Labels | None,
    group: dist.ProcessGroup | None,
    **scalars: Tensor | float,
) -> tuple[Tensor, Tensor, Labels | None, dist.ProcessGroup | None]:
    """The arguments of a loss, checked, the embeddings in the dtype of their products."""
    if world_size(group) == 1:
        group = None
    error: Exception | None = None
    try:
        check_alone(image, text, labels, scalars)
    except (TypeError, ValueError) as e:
        error = e
    # The ranks exchange what they would raise before any does: if only one raised, the others would hang in
    # the next collective. Not under torch.compile, because it takes a read on the host.
    if group is not None and not torch.compiler.is_compiling():
        if error is None:
            check_alike(", ".join(describe(x) for x in (image, text, *(labels or ()))), group)
        else:
            check_alike(f"{type(error).__name__}: {error}", group)
    if error is not None:
        raise error
    image, text = to_autocast_dtype(image, text)
    return image, text, labels, group


def check_alone(
    image: Tensor, text: Tensor, labels: Labels | None, scalars: dict[str, Tensor | float]
) -> None:
    check_tensor("image_embeddings", image, "(B, D)")
    check_tensor("text_embeddings", text, "(B, D)")
    check_floating("image_embeddings", image)
    check_same_kind("text_embeddings", text, "image_embeddings", image)
    for name, x in (("image_embeddings", image), ("text_embeddings", text)):
        if x.shape[0] == 0:
            raise ValueError(f"{name} must hold at least one row, got {tuple(x.shape)}")
    if labels is None and text.shape != image.shape:
        raise ValueError(
            f"text_embeddings must have shape {tuple(image.shape)} like image_embeddings, "
            f"got {tuple(text.shape)}"
        )
    if text.shape[1] != image.shape[1]:
        raise ValueError(
            f"text_embeddings must have rows of {image.shape[1]} features like image_embeddings, "
            f"got {tuple(text.shape)}"
        )
    for name, value in scalars.items():
        if isinstance(value, Tensor):
            check_scalar(f"logit_{name}", value, image)
    if labels is None:
        return
    if not isinstance(labels, tuple | list) or len(labels) != 2:
        raise TypeError(f"labels must be a pair of tensors, of images and of texts, got {describe(labels)}")
    for i, (x, of) in enumerate(zip(labels, (image, text), strict=True)):
        name, rows = f"labels[{i}]", of.shape[0]
        check_tensor(name, x, "(B,)")
        if x.dtype != torch.int64:
            raise TypeError(f"{name} must have dtype torch.int64, got {x.dtype}")
        check_same_device(name, x, "image_embeddings", image)
        if x.shape[0] != rows:
            raise ValueError(f"{name} must have shape ({rows},), got {tuple(x.shape)}")


def check_scalar(name: str, value: Tensor, image: Tensor) -> None:
    if value.shape not in ((), (1,)):
        raise ValueError(f"{name} must have shape () or (1,), got {tuple(value.shape)}")
    check_floating(name, value)
    check_same_device(name, value, "image_embeddings", image)


def describe(x: object) -> str:
    return f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__


# Fixed length in bytes of the message by which a rank describes its arguments to the others.
MESSAGE = 256


def check_alike(message: str, group: dist.ProcessGroup) -> None:
    """Raise, on every rank alike, where `message` is not the same on all."""
    # On a device that the group can reach from, whatever tensors a rank was given.
    device = "cuda" if "nccl" in dist.get_backend(group) else "cpu"
    coded = message.encode()[:MESSAGE].ljust(MESSAGE)
    said = gather_rows(torch.tensor([list(coded)], dtype=torch.uint8, device=device), group)
    messages = [bytes(row).decode(errors="replace").strip() for row in said.tolist()]
    if len(set(messages)) > 1:
        listed = "; ".join(f"{m} on rank {messages.index(m)}" for m in dict.fromkeys(messages))
        raise ValueError(f"the arguments of a loss must be alike on every rank, got {listed}")


def to_scalar(value: Tensor | float, image: Tensor) -> Tensor:
    """`value` as a 0-d tensor of the dtype the loss accumulates in."""
    dtype = accumulation_dtype(image.dtype)
    if not isinstance(value, Tensor):
        return torch.tensor(value, dtype=dtype, device=image.device)
    return value.reshape(()).to(dtype)
