"""The published B/16 on YFCC-100M, from the weights of a ViT on ImageNet-21k or from none."""

from __future__ import annotations

from clippo.data.base import SourceConfig
from clippo.data.mixture import MixtureConfig
from clippo.data.transform import SquashConfig
from clippo.errors import UserError
from clippo.evaluation.retrieval import RetrievalConfig
from clippo.model.variants import named_config
from clippo.renderer import UnifontRendererConfig
from clippo.training.config import TrainConfig
from clippo.training.losses import SoftmaxLossConfig
from clippo.training.optimizers import AdafactorConfig
from clippo.training.schedules import RsqrtConfig

__all__ = ["recipe"]


def recipe(
    data: SourceConfig,
    init_from: str | None = None,
    sentences: SourceConfig | None = None,
    sentence_share: float = 0.5,
) -> TrainConfig:
    """The published B/16 on YFCC-100M, from the weights of a ViT on ImageNet-21k or from none.

    Command: `torchrun --nproc-per-node 8 -m clippo train yfcc100m --data tars:yfcc/*.tar --init-from
        B_16-i21k.npz`, and on several nodes scripts/slurm.sh; `--dry-run 0` tells what it needs. With
        `--sentences sentences:c4/*.json.gz --sentence-share 0.25` (or 0.5, 0.75) that share of each batch is
        pairs of consecutive sentences, and the run is longer, so that it sees as many images, at most twice
        as long. `--data sentences:c4/*.json.gz` trains on sentences alone.
    Hardware: see docs/scaling.md, computed and not measured.
    Result: not run here. Its authors report for theirs 44.7 % on ImageNet with ten shots and 47.4 % zero-shot
        (arXiv 2212.08045), and with a quarter, a half and three quarters of sentences 44.8, 42.0 and 33.4 %
        zero-shot but 69.7, 75.2 and 77.6 instead of 60.7 on GLUE.
    """
    evaluators = {"held_out": RetrievalConfig()}
    steps = 250_000
    if sentences is not None:
        if not 0 < sentence_share < 1:
            raise UserError(f"sentence_share must be between 0 and 1, got {sentence_share}")
        evaluators = {"images": RetrievalConfig(data=data), "sentences": RetrievalConfig(data=sentences)}
        data = MixtureConfig(sources=(data, sentences), shares=(1 - sentence_share, sentence_share))
        steps = round(steps * min(2.0, 1 / (1 - sentence_share)))
    return TrainConfig(
        model=named_config("clippo-b16"),
        renderer=UnifontRendererConfig(),
        data=data,
        transform=SquashConfig(resize="bilinear"),
        loss=SoftmaxLossConfig(),
        optimizer=AdafactorConfig(weight_decay=1e-4),
        schedule=RsqrtConfig(timescale=10_000, cooldown_steps=50_000),
        evaluators=evaluators,
        batch_size=8192,
        micro_batch_size=256,
        steps=steps,
        learning_rate=1e-3,
        warmup_steps=10_000,
        init_from=init_from,
        workers=12,
        eval_every=10_000,
        checkpoint_every=5_000,
        log_every=50,
    )
