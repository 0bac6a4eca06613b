"""Optimizers to train with. A new one is a configuration in this file.

The trainer sets `found_inf` on an optimizer before every step, as PyTorch's GradScaler does: a tensor on the
device that is 1.0 if the loss or a gradient is not finite. The optimizer must then leave the weights as they
are, without making the host wait.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from clippo.errors import UserError

__all__ = ["AdamWConfig", "OptimizerConfig"]

NamedParameters = Iterable[tuple[str, nn.Parameter]]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(ABC):
    """Configuration of an optimizer. The subclasses are the choices."""

    name: ClassVar[str]

    @abstractmethod
    def build(self, parameters: NamedParameters) -> torch.optim.Optimizer:
        """Make the optimizer. The trainer sets the learning rate of every group before each step."""


@dataclass(frozen=True, kw_only=True)
class AdamWConfig(OptimizerConfig):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101), which decays matrices only.

    Biases, the parameters of LayerNorms, position embeddings, probes and the temperature do not decay.

    Attributes:
        weight_decay: factor of the decay, times the learning rate.
        beta1: decay of the mean of the gradient.
        beta2: decay of the mean of its square.

    Raises:
        UserError: a value out of range.
    """

    name: ClassVar[str] = "adamw"
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.98

    def __post_init__(self) -> None:
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(
                f"optimizer.weight_decay must be finite and not negative, got {self.weight_decay}"
            )
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"optimizer.{name} must be from 0 to below 1, got {getattr(self, name)}")

    def build(self, parameters: NamedParameters) -> torch.optim.AdamW:
        decayed: list[nn.Parameter] = []
        free: list[nn.Parameter] = []
        for name, parameter in parameters:
            is_matrix = name.endswith("weight") and parameter.ndim >= 2
            (decayed if is_matrix else free).append(parameter)
        groups = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ]
        # Fused kernels honour `found_inf`.
        return torch.optim.AdamW(groups, lr=0.0, betas=(self.beta1, self.beta2), fused=True)
