"""Gradient caching: a training step on a batch whose activations would not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

__all__ = ["cached_contrastive_step"]

Rows = Any  # a tensor, or what has a length, a device and split() like one; or a tuple of these


def cached_contrastive_step(
    embed: Callable[[Any, Any], tuple[Tensor, Tensor]],
    images: Rows,
    texts: Rows,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    chunk_size: int,
) -> Tensor:
    """Compute the loss of a batch and accumulate its gradients in the memory of one micro-batch.

    This is the gradient cache of Gao et al. (arXiv 2101.06983). Micro-batches of `chunk_size` pairs are
    embedded without a graph, and the loss of all embeddings gives the gradient w.r.t. each embedding. Then
    every micro-batch is embedded again with the same random numbers (dropout, patch dropout), and its part of
    these gradients is backpropagated. The parameter gradients are those of embedding the same micro-batches
    with a graph, and only the activations of one micro-batch are alive at a time. A batch of one micro-batch
    is embedded once. Modules that change their buffers when called, such as batch normalisation, change them
    twice.

    Args:
        embed: returns the embeddings of a micro-batch of images and texts, for instance a `model.Clippo`, or
            one in DistributedDataParallel or `fully_shard`, which then exchanges gradients once, after the
            last micro-batch. A side may be frozen.
        images, texts: B rows each, on one device: a tensor, or another object with a length, a `device` and a
            method `split(rows)`; or a tuple of these, which are all split into the same rows.
        loss: returns the scalar loss of all B embeddings, for instance by `contrastive_loss` with a `group`.
            Parameters in it, such as the scale, get their gradients as well.
        chunk_size: number of pairs in a micro-batch.

    Returns:
        The loss, without a graph.

    Raises:
        ValueError: if `chunk_size` is below 1, the numbers of images and texts differ, or `embed` is a
            DistributedDataParallel with static_graph=True and the batch has more than one micro-batch.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    parts = [x for rows in (images, texts) for x in (rows if isinstance(rows, tuple) else (rows,))]
    rows, device = len(parts[0]), parts[0].device
    if differing := [len(x) for x in parts if len(x) != rows]:
        raise ValueError(f"texts must have as many rows as images, {rows}, got {differing[0]}")
    chunks = list(zip(split(images, chunk_size), split(texts, chunk_size), strict=True))
    if len(chunks) == 1:
        value = loss(*embed(images, texts))
        value.backward()
        return value.detach()

    ddp = embed if isinstance(embed, DistributedDataParallel) else None
    if ddp is not None and ddp.static_graph:
        raise ValueError(
            "embed must not have static_graph=True for a batch of more than one micro-batch, got a "
            f"DistributedDataParallel that has it, and {len(chunks)} micro-batches"
        )
    states, embedded = [], []
    with torch.no_grad():
        for chunk in chunks:
            states.append(random_state(device))
            embedded.append(embed(*chunk))
    z_images, z_texts = (torch.cat(z).requires_grad_() for z in zip(*embedded, strict=True))
    value = loss(z_images, z_texts)
    parameters = [x for x in leaves(value) if x is not z_images and x is not z_texts]
    dz_images, dz_texts, *dparameters = torch.autograd.grad(
        value, (z_images, z_texts, *parameters), allow_unused=True, materialize_grads=True
    )
    if ddp is not None and ddp.find_unused_parameters:
        # DistributedDataParallel takes parameters that `embed` does not use for ready before its backward.
        torch.autograd.backward(parameters, dparameters)
        parameters, dparameters = [], []

    gradients = zip(dz_images.split(chunk_size), dz_texts.split(chunk_size), strict=True)
    for i, (chunk, state, (dz_image, dz_text)) in enumerate(zip(chunks, states, gradients, strict=True)):
        is_last = i + 1 == len(chunks)
        with from_random_state(state, device), synchronized_only_if(is_last, embed):
            z_image, z_text = embed(*chunk)
            results = [(z, dz) for z, dz in ((z_image, dz_image), (z_text, dz_text)) if z.requires_grad]
            # Every backward gives a gradient to the parameters of the loss, because DistributedDataParallel
            # waits for all of its parameters: zeros, and in the last one the gradient itself.
            results += [
                (x, dx if is_last else torch.zeros_like(dx))
                for x, dx in zip(parameters, dparameters, strict=True)
            ]
            tensors, gradients_of_tensors = zip(*results, strict=True)
            torch.autograd.backward(tensors, gradients_of_tensors)
    return value.detach()


def leaves(value: Tensor) -> list[Tensor]:
    """The tensors that gradients of `value` accumulate in: parameters and other leaves of its graph."""
    found: list[Tensor] = []
    ahead: list[Any] = [value.grad_fn]
    seen = {None, *ahead}
    while ahead:
        node = ahead.pop()
        if hasattr(node, "variable"):
            found.append(node.variable)
        new = [parent for parent, _ in node.next_functions if parent not in seen]
        seen.update(new)
        ahead += dict.fromkeys(new)
    return found


def split(rows: Rows, size: int) -> list[Any]:
    """Split a tensor, or each tensor of a tuple, into parts of `size` rows."""
    if isinstance(rows, tuple):
        return list(zip(*(x.split(size) for x in rows), strict=True))
    return list(rows.split(size))


RandomState = tuple[Tensor, Tensor | None]


def random_state(device: torch.device) -> RandomState:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


@contextmanager
def from_random_state(state: RandomState, device: torch.device) -> Iterator[None]:
    """Run the block with the random state `state`, and restore the current state afterwards."""
    of_cpu, of_device = state
    with torch.random.fork_rng([device] if of_device is not None else []):
        torch.set_rng_state(of_cpu)
        if of_device is not None:
            torch.cuda.set_rng_state(of_device, device)
        yield


@contextmanager
def synchronized_only_if(condition: bool, embed: Any) -> Iterator[None]:
    """Exchange gradients in the backward only if `condition` holds, where `embed` averages them itself."""
    if condition:
        yield
    elif isinstance(embed, DistributedDataParallel):
        with embed.no_sync():
            yield
    elif hasattr(embed, "set_requires_gradient_sync"):  # fully_shard
        embed.set_requires_gradient_sync(False)
        yield
        embed.set_requires_gradient_sync(True)
    else:
        yield
