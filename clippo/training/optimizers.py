"""Optimizers to train with. A new one is a configuration in this file.

The trainer sets `found_inf` on an optimizer before every step, as PyTorch's GradScaler does: a tensor on the
device that is 1.0 if the loss or a gradient is not finite. The optimizer must then leave the weights as they
are, without making the host wait.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from clippo.errors import UserError
from clippo.model import TowerConfig
from clippo.model.checkpoints.big_vision import published_views
from clippo.training.adafactor import Adafactor, View
from clippo.training.muon import Muon

__all__ = ["AdafactorConfig", "AdamWConfig", "MuonConfig", "OptimizerConfig"]

NamedParameters = Iterable[tuple[str, nn.Parameter]]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(ABC):
    """Configuration of an optimizer. The subclasses are the choices.

    Attributes:
        weight_decay: factor of the decay of matrices. Biases, the parameters of LayerNorms, position
            embeddings, probes and the temperature do not decay.
        lr_multipliers: "PATTERN=FACTOR", factors on the learning rate of the parameters in whose names the
            regular expression is found; of several the first that fits. 0 freezes them.
        wd_multipliers: the same for the decay.

    Raises:
        UserError: a value out of range, or a pattern that is none.
    """

    name: ClassVar[str]
    works_sharded: ClassVar[bool] = True  # or it needs each parameter whole, which fully_shard divides
    weight_decay: float
    lr_multipliers: tuple[str, ...] = ()
    wd_multipliers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(
                f"optimizer.weight_decay must be finite and not negative, got {self.weight_decay}"
            )
        for name in ("lr_multipliers", "wd_multipliers"):
            for spec in getattr(self, name):
                parsed(spec, f"optimizer.{name}")

    def check_decays(self, *names: str) -> None:
        """Check fields that are the decay of a mean.

        Raises:
            UserError: one is out of range.
        """
        for name in names:
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"optimizer.{name} must be from 0 to below 1, got {getattr(self, name)}")

    @abstractmethod
    def build(self, parameters: NamedParameters, sizes: TowerConfig) -> torch.optim.Optimizer:
        """Make the optimizer of the parameters that are not frozen.

        Before each step the trainer sets the "lr" of every group, which includes its "lr_multiplier", and the
        "factor" of the schedule that is in it.

        Args:
            parameters: of the model and of the loss.
            sizes: of the model.

        Raises:
            UserError: as of `freeze`.
        """

    def freeze(self, parameters: NamedParameters) -> None:
        """Freeze the parameters whose learning rate is multiplied by 0.

        Raises:
            UserError: a pattern fits no parameter, or all are frozen.
        """
        named = [*parameters]
        self.groups(named)
        rates = multipliers(self.lr_multipliers, [name for name, _ in named], "optimizer.lr_multipliers")
        for name, parameter in named:
            parameter.requires_grad_(rates[name] != 0)

    def groups(self, parameters: Sequence[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
        """The groups of parameters that have the same learning rate and decay, those of matrices first."""
        names = [name for name, _ in parameters]
        lr = multipliers(self.lr_multipliers, names, "optimizer.lr_multipliers")
        wd = multipliers(self.wd_multipliers, names, "optimizer.wd_multipliers")
        found: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
        for name, parameter in parameters:
            if lr[name] != 0:
                is_free = not is_matrix(name, parameter)
                decay = 0.0 if is_free else self.weight_decay * wd[name]
                found.setdefault((is_free, lr[name], decay), []).append(parameter)
        if not found:
            raise UserError("optimizer.lr_multipliers must leave a parameter to train, got 0 for all of them")
        return [
            {"params": params, "lr_multiplier": multiplier, "weight_decay": decay}
            for (_, multiplier, decay), params in sorted(found.items())
        ]


def parsed(spec: str, field: str) -> tuple[re.Pattern[str], float]:
    """The pattern and the factor of "PATTERN=FACTOR".

    Raises:
        UserError: it is something else.
    """
    pattern, _, factor = spec.rpartition("=")
    try:
        found = re.compile(pattern), float(factor)
        if not pattern or not 0 <= found[1] < math.inf:
            raise ValueError("the factor must be finite and not negative")
    except (ValueError, re.error) as error:
        raise UserError(f"{field} must be PATTERN=FACTOR, such as 'patch_embed=0.1', got {spec!r}") from error
    return found


def multipliers(specs: Sequence[str], names: Sequence[str], field: str) -> dict[str, float]:
    """The factor of each name.

    Raises:
        UserError: a pattern fits no name.
    """
    patterns = [parsed(spec, field) for spec in specs]
    for pattern, _ in patterns:
        if not any(pattern.search(name) for name in names):
            raise UserError(
                f"{field}: no parameter has {pattern.pattern!r} in its name; they are {', '.join(names)}"
            )
    return {name: next((f for pattern, f in patterns if pattern.search(name)), 1.0) for name in names}


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is the matrix or kernel of a layer; these are big_vision's arrays named kernel."""
    return name.endswith("weight") and parameter.ndim >= 2


@dataclass(frozen=True, kw_only=True)
class AdamWConfig(OptimizerConfig):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101).

    Attributes:
        weight_decay, lr_multipliers, wd_multipliers: as of `OptimizerConfig`; the decay is that factor times
            the learning rate.
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
        super().__post_init__()
        self.check_decays("beta1", "beta2")

    def build(self, parameters: NamedParameters, sizes: TowerConfig) -> torch.optim.AdamW:
        # Fused kernels honour `found_inf`.
        groups = self.groups([*parameters])
        is_fused = not groups[0]["params"][0].is_meta
        return torch.optim.AdamW(groups, lr=0.0, betas=(self.beta1, self.beta2), fused=is_fused)


def transposed(tensor: Tensor) -> Tensor:
    return tensor.T


def unchanged(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True, kw_only=True)
class AdafactorConfig(OptimizerConfig):
    """Adafactor as the published models were trained, see `clippo.training.adafactor`.

    It keeps a bfloat16 for each weight and a few vectors, a quarter of AdamW's state.

    Attributes:
        weight_decay, lr_multipliers, wd_multipliers: as of `OptimizerConfig`; the decay is that factor times
            the factor of the schedule, and not times the learning rate.
        momentum: decay of the mean of the update.

    Raises:
        UserError: a value out of range.
    """

    name: ClassVar[str] = "adafactor"
    works_sharded: ClassVar[bool] = False
    weight_decay: float = 1e-4
    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_decays("momentum")

    def build(self, parameters: NamedParameters, sizes: TowerConfig) -> Adafactor:
        published = published_views(sizes)
        named = [*parameters]
        views: dict[Tensor, Sequence[View]] = {}
        for name, parameter in named:
            # Parameters without a published counterpart get the layout of published linear layers, in x out.
            other: View = transposed if parameter.ndim == 2 else unchanged
            views[parameter] = published.get(name, [other])
        return Adafactor(self.groups(named), views, momentum=self.momentum)


# The matrices inside of the blocks and of the pooling, and how many layers are stacked in one.
HIDDEN = re.compile(r"(?:^|\.)(?:blocks\.\d+|pool)\..*\b(\w+)\.weight$")
STACKED = {"qkv": 3, "kv": 2}


@dataclass(frozen=True, kw_only=True)
class MuonConfig(OptimizerConfig):
    """Muon for the matrices inside of the blocks and AdamW for the rest, see `clippo.training.muon`.

    The rest are the patch embedding, the head, the tables of positions and bytes, the probe, and all that is
    no matrix. A step has the size of one of AdamW, whose learning rates serve for both.

    Attributes:
        weight_decay, lr_multipliers, wd_multipliers: as of `AdamWConfig`.
        momentum: decay of Muon's mean of the gradient.
        beta1: decay of AdamW's mean of the gradient.
        beta2: decay of AdamW's mean of its square.

    Raises:
        UserError: a value out of range.
    """

    name: ClassVar[str] = "muon"
    works_sharded: ClassVar[bool] = False
    weight_decay: float = 0.05
    momentum: float = 0.95
    beta1: float = 0.9
    beta2: float = 0.98

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_decays("momentum", "beta1", "beta2")

    def build(self, parameters: NamedParameters, sizes: TowerConfig) -> Muon:
        named = [*parameters]
        matrices: dict[Tensor, int] = {}
        for name, parameter in named:
            if parameter.ndim == 2 and (found := HIDDEN.search(name)):
                matrices[parameter] = STACKED.get(found[1], 1)
        betas = (self.beta1, self.beta2)
        return Muon(self.groups(named), matrices, momentum=self.momentum, betas=betas)
