"""Contrastive losses over pairs of embeddings that never store the matrix of all logits.

On a GPU the losses run Triton kernels (`launch`, `kernels`). On other devices, and for float64, they run in
PyTorch (`eager`). `operators` has the autograd functions. A loss can be differentiated once.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from .._checks import check_floating, check_same_device, check_same_kind, check_tensor
from .._ops import to_autocast_dtype
from ..dispatch import choose_backend, in_transform
from . import reference
from .caching import cached_contrastive_step
from .distributed import gather_rows, world_size
from .eager import accumulation_dtype
from .operators import ContrastiveLoss, SigmoidLoss

__all__ = ["cached_contrastive_step", "contrastive_loss", "sigmoid_loss"]

Labels = tuple[Tensor, Tensor]


def contrastive_loss(
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    logit_scale: Tensor | float,
    *,
    labels: Labels | None = None,
    group: dist.ProcessGroup | None = None,
    check_ranks: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Mean of the image-to-text and text-to-image cross-entropies of a batch of pairs: a scalar.

    This is the loss of CLIP (Radford et al., arXiv 2103.00020): the logits are `logit_scale` times the dot
    products of all images with all texts, and row i of the images belongs to row i of the texts. Only one
    block of logits is stored at a time, in the forward and again in the backward: in addition to the inputs
    and gradients, memory grows with B and not with B * B. Sums and the result are float32 (float64 for
    float64 embeddings); products run in the dtype of the embeddings, or in the autocast dtype if autocast is
    on. The same inputs give the same bits every time.

    With `labels`, images and texts of equal label are positives: the soft targets of an image are uniform
    over its texts, and those of a text over its images (as in Khosla et al., arXiv 2004.11362). The numbers
    of images and texts may then differ. An image or text without positives is a negative for the others and
    has no loss of its own; if no image and no text has any, the loss is NaN.

    With `group`, every rank passes its own rows, as many as every other rank, and gets the loss of the global
    batch. The gradients of a rank are multiplied by the number of ranks W, so that averaging parameter
    gradients over the ranks, as DistributedDataParallel does, gives the gradient of a single process that
    holds the whole batch. Each rank multiplies its images with the texts of all ranks. These come from one
    all-gather, or from a ring exchange if they and their gradients would take over 2 GiB.

    Args:
        image_embeddings, text_embeddings: (B, D), floating, usually of unit length.
        logit_scale: the factor itself, not its logarithm: a number, or a tensor with one element.
        labels: a pair of int64 tensors, of the images (B,) and of the texts (B,).
        group: the process group that shares the batch; `torch.distributed.group.WORLD` for all ranks.
        check_ranks: compare the shapes and dtypes of the ranks before anything else is exchanged. A group
            with a backend for the CPU, such as "cpu:gloo,cuda:nccl", does so in every call, and no host waits
            for a GPU. Another group would wait, so that it compares them only in the first call with such
            shapes and dtypes: this finds ranks that differ from the start, but not one whose batch alone
            changes later, as by a shorter last batch. Where nothing is compared, ranks whose arguments differ
            may hang or get wrong results.
        backend: "eager" or "triton" to force one; None leaves the choice to the environment variable and the
            device, as `clippo_kernels.dispatch` describes.

    Raises:
        TypeError: if dtypes are not floating or differ, or labels are not int64 tensors.
        ValueError: if shapes or devices do not match, or B = 0; if `group` is given inside of a transform of
            torch.func; if there is no such `backend`.
        RuntimeError: if `backend` forces kernels that cannot run on these tensors.

    With a `group` and `check_ranks`, every rank raises an error if any rank does, and also if the arguments
    of the ranks do not match each other (outside torch.compile only).
    """
    image, text, labels, group, chosen = check(
        "contrastive_loss", image_embeddings, text_embeddings, labels, group, check_ranks, backend,
        scale=logit_scale,
    )  # fmt: skip
    scale = to_scalar(logit_scale, image)
    if in_transform():
        check_no_group(group)
        return reference.contrastive_loss(image, text, scale, labels=labels)
    out: Tensor = ContrastiveLoss.apply(image, text, scale, *(labels or (None, None)), group, chosen)  # type: ignore[no-untyped-call]
    return out


def sigmoid_loss(
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    *,
    labels: Labels | None = None,
    group: dist.ProcessGroup | None = None,
    check_ranks: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Sigmoid loss summed over all images and texts of a batch and divided by the number of images: a scalar.

    This is the loss of SigLIP (Zhai et al., arXiv 2303.15343): `-log sigmoid(z * (logit_scale * x . y +
    logit_bias))` with z = 1 for positives and -1 for negatives. Memory, dtypes, determinism, `labels`,
    `group`, `check_ranks`, `backend` and errors are those of `contrastive_loss`.

    Args:
        image_embeddings, text_embeddings: (B, D), floating, usually of unit length.
        logit_scale, logit_bias: numbers, or tensors with one element.
        labels: a pair of int64 tensors, of the images (B,) and of the texts (B,).
        group: the process group that shares the batch.
        check_ranks: compare the arguments of the ranks first.
        backend: "eager" or "triton" to force one.
    """
    image, text, labels, group, chosen = check(
        "sigmoid_loss", image_embeddings, text_embeddings, labels, group, check_ranks, backend,
        scale=logit_scale, bias=logit_bias,
    )  # fmt: skip
    scale, bias = to_scalar(logit_scale, image), to_scalar(logit_bias, image)
    if in_transform():
        check_no_group(group)
        return reference.sigmoid_loss(image, text, scale, bias, labels=labels)
    out: Tensor = SigmoidLoss.apply(image, text, scale, bias, *(labels or (None, None)), group, chosen)  # type: ignore[no-untyped-call]
    return out


def check(
    op: str,
    image: Tensor,
    text: Tensor,
    labels: Labels | None,
    group: dist.ProcessGroup | None,
    check_ranks: bool,
    backend: str | None,
    **scalars: Tensor | float,
) -> tuple[Tensor, Tensor, Labels | None, dist.ProcessGroup | None, str]:
    """Check the arguments of `op`, cast the embeddings to the dtype of their products, choose the backend."""
    if group is not None and not isinstance(group, dist.ProcessGroup):
        raise TypeError(f"group must be a torch.distributed.ProcessGroup or None, got {group!r}")
    if world_size(group) == 1:
        group = None
    error: Exception | None = None
    chosen = "eager"
    try:
        check_alone(image, text, labels, scalars)
        chosen = choose_backend(op, image.device, image.dtype != torch.float64, backend)
    except (TypeError, ValueError, RuntimeError) as e:
        error = e
    # The ranks exchange their errors before any of them raises: if only one raised, the others would hang in
    # the next collective. This is skipped under torch.compile, because it needs a read on the host.
    if group is not None and check_ranks and not torch.compiler.is_compiling():
        if error is None:
            check_alike(", ".join(describe(x) for x in (image, text, *(labels or ()))), group)
        else:
            check_alike(f"{type(error).__name__}: {error}", group)
    if error is not None:
        raise error
    image, text = to_autocast_dtype(image, text)
    return image, text, labels, group, chosen


def check_no_group(group: dist.ProcessGroup | None) -> None:
    if group is not None:
        raise ValueError(f"group must be None inside of a transform of torch.func, got {group}")


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


# Fixed length, in bytes, of the message in which a rank describes its arguments to the others.
MESSAGE = 256

# The messages of each group that all of its ranks had alike, where a comparison waits for the GPU.
agreed: WeakKeyDictionary[dist.ProcessGroup, set[str]] = WeakKeyDictionary()


def check_alike(message: str, group: dist.ProcessGroup) -> None:
    """Raise ValueError on every rank if `message` differs between the ranks.

    Without a backend for the CPU, each message is compared only once.
    """
    if "cpu" in device_types(group):
        compare_messages(message, group, "cpu")
    elif message not in agreed.setdefault(group, set()):
        compare_messages(message, group, "cuda")
        agreed[group].add(message)


def device_types(group: dist.ProcessGroup) -> set[str]:
    """Types of the devices that the group has a backend for."""
    return {device.type for device in group._device_types}


def compare_messages(message: str, group: dist.ProcessGroup, device: str) -> None:
    coded = message.encode()[:MESSAGE].ljust(MESSAGE)
    said = gather_rows(torch.tensor([list(coded)], dtype=torch.uint8, device=device), group)
    messages = [bytes(row).decode(errors="replace").strip() for row in said.tolist()]
    if len(set(messages)) > 1:
        listed = "; ".join(f"{m} on rank {messages.index(m)}" for m in dict.fromkeys(messages))
        raise ValueError(f"the arguments of a loss must be alike on every rank, got {listed}")


def to_scalar(value: Tensor | float, image: Tensor) -> Tensor:
    """Return `value` as a 0-d tensor of the dtype that the loss accumulates in."""
    dtype = accumulation_dtype(image.dtype)
    if not isinstance(value, Tensor):
        # Filled on the device: a copy from the host would wait for a GPU, and no CUDA graph could hold it.
        return torch.full((), value, dtype=dtype, device=image.device)
    if hasattr(value, "full_tensor"):  # a DTensor: `fully_shard` has split the parameter
        value = gathered(value)
    return value.reshape(()).to(dtype)


def gathered(value: Any) -> Tensor:
    """The whole of a DTensor, whose gradient is averaged over the ranks as `fully_shard` does it."""
    from torch.distributed.tensor import Partial

    out: Tensor = value.full_tensor(grad_placements=[Partial("avg")] * value.device_mesh.ndim)
    return out
