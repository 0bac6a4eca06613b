"""An L/16 on LAION-400M, whose parameters are sharded over the processes."""

from __future__ import annotations

import dataclasses

from clippo.data.base import SourceConfig
from clippo.model.variants import named_config
from clippo.recipes import laion400m
from clippo.training.config import TrainConfig
from clippo.training.optimizers import AdamWConfig

__all__ = ["recipe"]


def recipe(data: SourceConfig, init_from: str | None = None) -> TrainConfig:
    """An L/16 on LAION-400M, whose parameters are sharded over the processes.

    Command: `sbatch --nodes=8 scripts/slurm.sh laion400m_l16 RUN --data 'tars:laion/*.tar'`; `--dry-run 0`
        tells what it needs.
    Hardware: see docs/scaling.md, computed and not measured.
    Result: not run here.
    """
    return dataclasses.replace(
        laion400m.recipe(data, init_from),
        model=named_config("clippo-l16"),
        # Adafactor keeps means over whole matrices, which no process has.
        optimizer=AdamWConfig(weight_decay=0.1, beta2=0.95),
        parallel="fsdp",
        compile=True,
        grad_checkpointing=True,
    )
