"""Contrastive losses to train with. A new one is a class and its configuration in this file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from clippo.model.packing import copied
from clippo_kernels import contrastive_loss, sigmoid_loss

__all__ = ["Loss", "LossConfig", "SigmoidLossConfig", "SoftmaxLossConfig"]


class Loss(nn.Module, ABC):
    """A loss of a batch of pairs. Its parameters, if it has any, are trained with those of the model."""

    @abstractmethod
    def forward(
        self,
        z_images: Tensor,
        z_texts: Tensor,
        scale: Tensor,
        group: dist.ProcessGroup | None,
        labels: Tensor | None = None,
        is_text: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of the global batch, a scalar.

        Args:
            z_images, z_texts: (B, E) L2-normalised embeddings of this process; row i of each is a positive
                pair.
            scale: (1,) factor on cosine similarities, `logit_scale.exp()`.
            group: the processes that share the batch.
            labels: (B,) int64, the pairs of equal label are positives of one another; by default all differ.
            is_text: (B,) bool on the CPU, whether both sides of a pair are texts, and not an image and a
                text; by default of none. A loss need not tell the two kinds apart.
        """


@dataclass(frozen=True, kw_only=True)
class LossConfig(ABC):
    """Configuration of a loss. The subclasses are the choices."""

    name: ClassVar[str]

    @abstractmethod
    def build(self) -> Loss:
        """Make the loss, with new parameters."""


@dataclass(frozen=True, kw_only=True)
class SoftmaxLossConfig(LossConfig):
    """Symmetric cross-entropy over all pairs of the batch, as of CLIP (arXiv 2103.00020) and CLIPPO.

    Attributes:
        within_kinds: where a batch has pairs of an image and a text and pairs of two texts, the negatives of
            a pair are those of its own kind alone. The loss is the mean over all pairs. Each process then
            gathers the embeddings of all, and computes the loss of the whole batch.
    """

    name: ClassVar[str] = "softmax"
    within_kinds: bool = False

    def build(self) -> SoftmaxLoss:
        return SoftmaxLoss(within_kinds=self.within_kinds)


class SoftmaxLoss(Loss):
    """See `clippo_kernels.contrastive_loss` and `SoftmaxLossConfig`."""

    def __init__(self, *, within_kinds: bool = False) -> None:
        super().__init__()
        self.within_kinds = within_kinds

    def forward(
        self,
        z_images: Tensor,
        z_texts: Tensor,
        scale: Tensor,
        group: dist.ProcessGroup | None,
        labels: Tensor | None = None,
        is_text: Tensor | None = None,
    ) -> Tensor:
        if self.within_kinds:
            if is_text is None:
                is_text = torch.zeros(len(z_images), dtype=torch.bool)
            return loss_within_kinds(z_images, z_texts, scale, group, labels, is_text)
        # The ranks hold equal shares of a batch, which need not be compared again in every step.
        return contrastive_loss(z_images, z_texts, scale, labels=both(labels), group=group, check_ranks=False)


def loss_within_kinds(
    z_images: Tensor,
    z_texts: Tensor,
    scale: Tensor,
    group: dist.ProcessGroup | None,
    labels: Tensor | None,
    is_text: Tensor,
) -> Tensor:
    """Compute the contrastive loss of each kind of pair by itself, and their mean over all pairs.

    The ranks may hold different numbers of a kind, so that each gathers all pairs and computes the same loss.
    Its products then take W times as long on W ranks, which is little beside the tower: of a ViT-B/16 on 64
    ranks with a batch of 16,384 pairs, half of them pairs of texts, 1.5 % of the FLOPs of a step.

    Args:
        z_images, z_texts, scale, group, labels, is_text: as of `Loss.forward`.
    """
    if group is not None:
        z_images, z_texts = (GatheredRows.apply(z, group) for z in (z_images, z_texts))  # type: ignore[no-untyped-call]
        labels = None if labels is None else all_rows(labels, group)
        # It is on the CPU: hosts tell one another, and none waits for its GPU.
        is_text = all_rows(is_text.byte(), group).bool()
    losses = []
    for is_of_kind in (~is_text, is_text):
        of_kind = is_of_kind.nonzero().flatten()
        if not len(of_kind):
            continue
        rows = copied(of_kind, z_images.device)
        own_labels = None if labels is None else labels[rows]
        loss = contrastive_loss(
            z_images.index_select(0, rows), z_texts.index_select(0, rows), scale, labels=both(own_labels)
        )
        losses.append(len(of_kind) / len(is_text) * loss)
    return torch.stack(losses).sum()


class GatheredRows(torch.autograd.Function):
    """The rows (W * B, E) of all ranks, from those (B, E) of each, for a loss that all ranks compute whole.

    The gradient of the own rows is multiplied by the number of ranks W. Averaging the gradients of parameters
    over the ranks, as `DistributedDataParallel` does, then gives those of one process with the whole batch.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group, ctx.num_rows = group, len(rows)
        return all_rows(rows, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        first = dist.get_rank(ctx.group) * ctx.num_rows
        return gradient[first : first + ctx.num_rows] * dist.get_world_size(ctx.group), None


def all_rows(rows: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The rows of all ranks, of which each has as many, one after the other."""
    gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, rows.contiguous(), group=group)
    return torch.cat(gathered)


@dataclass(frozen=True, kw_only=True)
class SigmoidLossConfig(LossConfig):
    """Sigmoid loss of every pair by itself, as of SigLIP (arXiv 2303.15343).

    Attributes:
        initial_bias: bias on the logits at the start; far below 0, because nearly all pairs are negative.
    """

    name: ClassVar[str] = "sigmoid"
    initial_bias: float = -10.0

    def build(self) -> SigmoidLoss:
        return SigmoidLoss(self.initial_bias)


class SigmoidLoss(Loss):
    """See `clippo_kernels.sigmoid_loss`.

    Attributes:
        logit_bias: (1,) parameter, the bias on the logits.
    """

    def __init__(self, initial_bias: float) -> None:
        super().__init__()
        self.logit_bias = nn.Parameter(torch.tensor([initial_bias]))

    def forward(
        self,
        z_images: Tensor,
        z_texts: Tensor,
        scale: Tensor,
        group: dist.ProcessGroup | None,
        labels: Tensor | None = None,
        is_text: Tensor | None = None,
    ) -> Tensor:
        bias, pair_labels = self.logit_bias, both(labels)
        return sigmoid_loss(
            z_images, z_texts, scale, bias, labels=pair_labels, group=group, check_ranks=False
        )


def both(labels: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """The labels of the images and of the texts, of which row i of each belongs together."""
    return None if labels is None else (labels, labels)
