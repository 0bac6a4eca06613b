"""The head that is fine-tuned: an MLP with two hidden layers on the pooled tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clippo.seeds import torch_seed

__all__ = ["MlpHead"]

STD_EPS = 1e-6  # what never changes is not blown up


class MlpHead(nn.Module):
    """Pooled tokens (B, D) to outputs (B, O), through two hidden layers of D features with GELU.

    The two hidden layers are those of the paper (arXiv 2212.08045). The pooled tokens are first shifted and
    scaled as `standardise` has found them, because those of a tower that was never trained, or trained for
    little time, differ by a thousandth of their length. The last layer begins with zeros, so that training
    begins where all outputs are equally probable.

    Args:
        width: D.
        num_outputs: O.
        seed: decides on the first weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, num_outputs: int, seed: int = 0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.hidden1, self.hidden2 = nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, num_outputs)
        rng = torch.Generator().manual_seed(torch_seed(seed, "head"))
        for layer in (self.hidden1, self.hidden2):
            nn.init.trunc_normal_(layer.weight, std=width**-0.5, generator=rng)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def standardise(self, features: Tensor) -> None:
        """Scale what comes in so that these pooled tokens (N, D) have mean 0 and standard deviation 1."""
        self.mean.copy_(features.mean(0))
        std = features.std(0, correction=0)
        self.std.copy_(torch.where(std > STD_EPS, std, 1.0))

    def forward(self, pooled: Tensor) -> Tensor:
        x = (pooled - self.mean) / self.std
        x = F.gelu(self.hidden2(F.gelu(self.hidden1(x))))
        out: Tensor = self.out(x)
        return out
