"""The losses as modules, for training loops that are given one."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn

from .contrastive import contrastive_loss, sigmoid_loss

__all__ = ["ContrastiveLoss", "SigmoidLoss"]


class Loss(nn.Module):
    """A loss of a batch of pairs that the ranks of a group share.

    Args:
        group: the process group that shares the batch, or None.
        check_ranks: compare the arguments of the ranks first.
        backend: "eager" or "triton" to force one.
    """

    def __init__(
        self, group: dist.ProcessGroup | None = None, check_ranks: bool = True, backend: str | None = None
    ) -> None:
        super().__init__()
        self.group, self.check_ranks, self.backend = group, check_ranks, backend


class ContrastiveLoss(Loss):
    """`contrastive_loss` as a module; it has no parameters."""

    def forward(
        self,
        image_embeddings: Tensor,
        text_embeddings: Tensor,
        logit_scale: Tensor | float,
        labels: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Compute the loss of (B, D) embeddings: a scalar."""
        return contrastive_loss(
            image_embeddings, text_embeddings, logit_scale,
            labels=labels, group=self.group, check_ranks=self.check_ranks, backend=self.backend,
        )  # fmt: skip


class SigmoidLoss(Loss):
    """`sigmoid_loss` as a module; it has no parameters."""

    def forward(
        self,
        image_embeddings: Tensor,
        text_embeddings: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float,
        labels: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Compute the loss of (B, D) embeddings: a scalar."""
        return sigmoid_loss(
            image_embeddings, text_embeddings, logit_scale, logit_bias,
            labels=labels, group=self.group, check_ranks=self.check_ranks, backend=self.backend,
        )  # fmt: skip
