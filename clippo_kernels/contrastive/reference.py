"""The definitions of the losses, by the whole matrix of logits. They are the oracle of the tests."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["contrastive_loss", "sigmoid_loss"]


def contrastive_loss(
    image: Tensor, text: Tensor, scale: Tensor, *, labels: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Mean of the cross-entropies of image (R, D) over text (B, D) and of text over image: ().

    The logits are products in the dtype of the embeddings. An image and a text are a pair if they have the
    same index, or equal `labels`, (R,) and (B,).
    """
    logits = scale * (image @ text.T).to(scale.dtype)
    if labels is None:
        pairs = torch.arange(len(image), device=image.device)
        return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
    is_positive = (labels[0][:, None] == labels[1]).to(scale.dtype)
    return (cross_entropy(logits, is_positive) + cross_entropy(logits.T, is_positive.T)) / 2


def cross_entropy(logits: Tensor, is_positive: Tensor) -> Tensor:
    """Mean over the rows that have a positive; the targets of a row are uniform over its positives."""
    has_any = is_positive.any(1)
    return F.cross_entropy(logits[has_any], F.normalize(is_positive[has_any], p=1, dim=1))


def sigmoid_loss(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, *, labels: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Sum of -log sigmoid(z * logit) over all pairs, divided by R: (). z is 1 for positives, else -1."""
    logits = scale * (image @ text.T).to(scale.dtype) + bias
    if labels is None:
        labels = (torch.arange(len(image), device=image.device),) * 2
    z = torch.where(labels[0][:, None] == labels[1], 1.0, -1.0).to(scale.dtype)
    return -F.logsigmoid(z * logits).sum() / len(image)
