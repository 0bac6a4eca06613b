"""A B/16 on LAION-400M, in batches of 10,240."""

from __future__ import annotations

import dataclasses

from clippo.data.base import SourceConfig
from clippo.recipes import yfcc100m
from clippo.training.config import TrainConfig
from clippo.training.schedules import RsqrtConfig

__all__ = ["recipe"]


def recipe(data: SourceConfig, init_from: str | None = None) -> TrainConfig:
    """A B/16 on LAION-400M, in batches of 10,240.

    Command: `torchrun --nproc-per-node 8 -m clippo train laion400m --data tars:laion/*.tar`, and on several
        nodes scripts/slurm.sh; `--dry-run 0` tells what it needs.
    Hardware: see docs/scaling.md, computed and not measured.
    Result: not run here. The authors of CLIPPO report 53.6 % zero-shot on ImageNet after 100,000 steps.
    """
    return dataclasses.replace(
        yfcc100m.recipe(data, init_from),
        batch_size=10_240,
        steps=100_000,
        schedule=RsqrtConfig(timescale=10_000, cooldown_steps=20_000),
    )
