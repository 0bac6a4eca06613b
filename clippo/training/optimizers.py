"""Optimizers to train with. A new one is a configuration in this file.

The trainer sets `found_inf` on an optimizer before every step, as PyTorch's GradScaler does: a tensor on the
device that is 1.0 if the loss or a gradient is not finite. The optimizer must then leave the weights as they
are, without making the host wait.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from clippo.errors import UserError
from clippo.model import TowerConfig
from clippo.model.checkpoints.big_vision import published_views
from clippo.training.adafactor import Adafactor, View

__all__ = ["AdafactorConfig", "AdamWConfig", "OptimizerConfig"]

NamedParameters = Iterable[tuple[str, nn.Parameter]]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(ABC):
    """Configuration of an optimizer. The subclasses are the choices."""

    name: ClassVar[str]

    @abstractmethod
    def build(self, parameters: NamedParameters, sizes: TowerConfig) -> torch.optim.Optimizer:
        """Make the optimizer.

        The trainer sets the learning rate of every group, "lr", before each step, and the "factor" of the
        schedule that is in it.

        Args:
            parameters: of the model and of the loss.
            sizes: of the model.
        """


def check_weight_decay(weight_decay: float) -> None:
    if not 0 <= weight_decay < math.inf:
        raise UserError(f"optimizer.weight_decay must be finite and not negative, got {weight_decay}")


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is the matrix or kernel of a layer; these are big_vision's arrays named kernel."""
    return name.endswith("weight") and parameter.ndim >= 2


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
        check_weight_decay(self.weight_decay)
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"optimizer.{name} must be from 0 to below 1, got {getattr(self, name)}")

    def build(self, parameters: NamedParameters, sizes: TowerConfig) -> torch.optim.AdamW:
        decayed: list[nn.Parameter] = []
        free: list[nn.Parameter] = []
        for name, parameter in parameters:
            (decayed if is_matrix(name, parameter) else free).append(parameter)
        groups = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ]
        # Fused kernels honour `found_inf`.
        return torch.optim.AdamW(groups, lr=0.0, betas=(self.beta1, self.beta2), fused=True)


def transposed(tensor: Tensor) -> Tensor:
    return tensor.T


def unchanged(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True, kw_only=True)
class AdafactorConfig(OptimizerConfig):
    """Adafactor as the published models were trained, see `clippo.training.adafactor`. Matrices alone decay.

    It keeps a bfloat16 and a few vectors for each weight, a quarter of AdamW's state.

    Attributes:
        weight_decay: factor of the decay, times the factor of the schedule; not times the learning rate.
        momentum: decay of the mean of the update.

    Raises:
        UserError: a value out of range.
    """

    name: ClassVar[str] = "adafactor"
    weight_decay: float = 1e-4
    momentum: float = 0.9

    def __post_init__(self) -> None:
        check_weight_decay(self.weight_decay)
        if not 0 <= self.momentum < 1:
            raise UserError(f"optimizer.momentum must be from 0 to below 1, got {self.momentum}")

    def build(self, parameters: NamedParameters, sizes: TowerConfig) -> Adafactor:
        published = published_views(sizes)
        decayed: list[nn.Parameter] = []
        free: list[nn.Parameter] = []
        views: dict[Tensor, Sequence[View]] = {}
        for name, parameter in parameters:
            # What a published model does not have is viewed as its linear layers are, in x out.
            other: View = transposed if parameter.ndim == 2 else unchanged
            views[parameter] = published.get(name, [other])
            (decayed if is_matrix(name, parameter) else free).append(parameter)
        groups = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ]
        return Adafactor(groups, views, momentum=self.momentum)
