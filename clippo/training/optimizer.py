"""AdamW with a warm-up and a cosine."""

from __future__ import annotations

import math

import torch
from torch import nn

from clippo.training.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW that decays matrices alone: no bias, no norm, no embedding of positions, not the scale."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        matrix = name.endswith("weight") and parameter.ndim >= 2
        (decayed if matrix else free).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), fused=True)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Of optimizer step `step`, from 0: a linear warm-up under a cosine that ends at zero."""
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    return config.learning_rate * warmup * (1 + math.cos(math.pi * step / config.steps)) / 2
