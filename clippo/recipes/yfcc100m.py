"""The published B/16 on YFCC-100M, from the weights of a ViT on ImageNet-21k or from none."""

from __future__ import annotations

from clippo.data.base import SourceConfig
from clippo.data.transform import SquashConfig
from clippo.evaluation.retrieval import RetrievalConfig
from clippo.model.variants import named_config
from clippo.renderer import UnifontRendererConfig
from clippo.training.config import TrainConfig
from clippo.training.losses import SoftmaxLossConfig
from clippo.training.optimizers import AdafactorConfig
from clippo.training.schedules import RsqrtConfig

__all__ = ["recipe"]


def recipe(data: SourceConfig, init_from: str | None = None) -> TrainConfig:
    """The published B/16 on YFCC-100M, from the weights of a ViT on ImageNet-21k or from none.

    Command: `torchrun --nproc-per-node 8 -m clippo train yfcc100m --data tars:yfcc/*.tar --init-from
        B_16-i21k.npz`, and on several nodes scripts/slurm.sh; `--dry-run 0` tells what it needs.
    Hardware: see docs/scaling.md, computed and not measured.
    Result: not run here. Its authors report for theirs 44.7 % on ImageNet with ten shots and 47.4 % zero-shot
        (arXiv 2212.08045).
    """
    return TrainConfig(
        model=named_config("clippo-b16"),
        renderer=UnifontRendererConfig(),
        data=data,
        transform=SquashConfig(resize="bilinear"),
        loss=SoftmaxLossConfig(),
        optimizer=AdafactorConfig(weight_decay=1e-4),
        schedule=RsqrtConfig(timescale=10_000, cooldown_steps=50_000),
        evaluators={"held_out": RetrievalConfig()},
        batch_size=8192,
        micro_batch_size=256,
        steps=250_000,
        learning_rate=1e-3,
        warmup_steps=10_000,
        init_from=init_from,
        workers=12,
        eval_every=10_000,
        checkpoint_every=5_000,
        log_every=50,
    )
