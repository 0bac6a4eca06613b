"""Schedules of the learning rate."""

from __future__ import annotations

import math

__all__ = ["warmup_cosine"]


def warmup_cosine(step: int, *, steps: int, warmup_steps: int, peak: float) -> float:
    """Learning rate of a step: a linear warm-up, multiplied by a cosine over the whole run that ends at zero.

    The cosine falls during the warm-up already, so that the highest rate is a little below `peak`: 65 % of it
    for a warm-up over 40 % of the steps.

    Args:
        step: number of the step, from 0.
        steps: of the whole run.
        warmup_steps: over which the warm-up rises.
        peak: factor on both.
    """
    warmup = min(1.0, (step + 1) / (warmup_steps + 1))
    return peak * warmup * (1 + math.cos(math.pi * step / steps)) / 2
