"""Contrastive losses to train with. A new one is a class and its configuration in this file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

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
    ) -> Tensor:
        """Compute the loss of the global batch, a scalar.

        Args:
            z_images, z_texts: (B, E) L2-normalised embeddings of this process; row i of each is a positive
                pair.
            scale: (1,) factor on cosine similarities, `logit_scale.exp()`.
            group: the processes that share the batch.
            labels: (B,) int64, the pairs of equal label are positives of one another; by default all differ.
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
    """Symmetric cross-entropy over all pairs of the batch, as of CLIP (arXiv 2103.00020) and CLIPPO."""

    name: ClassVar[str] = "softmax"

    def build(self) -> SoftmaxLoss:
        return SoftmaxLoss()


class SoftmaxLoss(Loss):
    """See `clippo_kernels.contrastive_loss`."""

    def forward(
        self,
        z_images: Tensor,
        z_texts: Tensor,
        scale: Tensor,
        group: dist.ProcessGroup | None,
        labels: Tensor | None = None,
    ) -> Tensor:
        # The ranks hold equal shares of a batch, which need not be compared again in every step.
        return contrastive_loss(z_images, z_texts, scale, labels=both(labels), group=group, check_ranks=False)


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
    ) -> Tensor:
        bias, pair_labels = self.logit_bias, both(labels)
        return sigmoid_loss(
            z_images, z_texts, scale, bias, labels=pair_labels, group=group, check_ranks=False
        )


def both(labels: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """The labels of the images and of the texts, of which row i of each belongs together."""
    return None if labels is None else (labels, labels)
