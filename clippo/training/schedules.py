"""Schedules of the learning rate: the factor of each step on it. A new one is a class in this file."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from clippo.errors import UserError

__all__ = ["ConstantConfig", "CosineConfig", "RsqrtConfig", "ScheduleConfig"]


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(ABC):
    """A schedule. The subclasses are the choices."""

    name: ClassVar[str]

    @abstractmethod
    def factor(self, step: int, *, steps: int, warmup_steps: int) -> float:
        """The factor on the learning rate, from 0 to 1.

        Args:
            step: number of the step, from 0.
            steps: of the whole run.
            warmup_steps: over which the learning rate rises.
        """

    def check(self, *, steps: int, warmup_steps: int) -> None:
        """Check that a run is long enough.

        Raises:
            UserError: it is not.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class CosineConfig(ScheduleConfig):
    """A linear warm-up, multiplied by a cosine over the whole run that ends at zero.

    The cosine falls during the warm-up already, so that the factor stays below 1: it reaches 0.65 with a
    warm-up over 40 % of the steps.
    """

    name: ClassVar[str] = "cosine"

    def factor(self, step: int, *, steps: int, warmup_steps: int) -> float:
        warmup = min(1.0, (step + 1) / (warmup_steps + 1))
        return warmup * (1 + math.cos(math.pi * step / steps)) / 2


@dataclass(frozen=True, kw_only=True)
class ConstantConfig(ScheduleConfig):
    """A linear warm-up, then 1; and, on request, a linear fall to zero at the end ("WSD", arXiv 2404.06395).

    Attributes:
        cooldown_steps: the last steps, over which the factor falls.
    """

    name: ClassVar[str] = "constant"
    cooldown_steps: int = 0

    def __post_init__(self) -> None:
        if self.cooldown_steps < 0:
            raise UserError(f"schedule.cooldown_steps must not be negative, got {self.cooldown_steps}")

    def check(self, *, steps: int, warmup_steps: int) -> None:
        if warmup_steps + self.cooldown_steps > steps:
            raise UserError(
                f"warmup_steps and schedule.cooldown_steps must fit into the {steps} steps of the run, got "
                f"{warmup_steps} and {self.cooldown_steps}"
            )

    def factor(self, step: int, *, steps: int, warmup_steps: int) -> float:
        warmup = step / warmup_steps if step < warmup_steps else 1.0
        is_falling = step > steps - self.cooldown_steps
        return warmup * ((steps - step) / self.cooldown_steps if is_falling else 1.0)


@dataclass(frozen=True, kw_only=True)
class RsqrtConfig(ConstantConfig):
    """The schedule of the published models: after the warm-up the factor falls as an inverse square root,
    1 / sqrt(1 + (step - warmup_steps) / timescale), and at the end linearly to zero ("rsqrt" of big_vision;
    arXiv 2106.04560). As there, the rate of the very first step is zero.

    Attributes:
        cooldown_steps: the last steps, over which the factor falls to zero.
        timescale: steps after which it has fallen to 1 / sqrt(2).
    """

    name: ClassVar[str] = "rsqrt"
    cooldown_steps: int = 10_000
    timescale: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.timescale < 1:
            raise UserError(f"schedule.timescale must be at least 1, got {self.timescale}")

    def factor(self, step: int, *, steps: int, warmup_steps: int) -> float:
        fallen = 1 / math.sqrt(1 + max(0, step - warmup_steps) / self.timescale)
        return fallen * super().factor(step, steps=steps, warmup_steps=warmup_steps)
