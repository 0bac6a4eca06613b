"""Configuration of a training run. A recipe fills it in, and the command line may change it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from clippo.data.base import SourceConfig
from clippo.data.text_augment import TextAugmentConfig
from clippo.data.transform import TransformConfig
from clippo.errors import UserError
from clippo.evaluation.base import EvaluatorConfig
from clippo.model import ClippoConfig
from clippo.renderer import RendererConfig
from clippo.training.losses import LossConfig
from clippo.training.optimizers import OptimizerConfig
from clippo.training.parallel import Parallel
from clippo.training.schedules import CosineConfig, ScheduleConfig
from clippo.training.trackers import check_trackers

__all__ = ["MAX_WORKERS", "TrainConfig", "image_sizes"]

MAX_COUNT = 2**31 - 1  # PyTorch's DataLoader and range() end in an OverflowError a little above
MAX_WORKERS = 256  # more have to be a slip of the finger, and a machine does not survive it


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run.

    Attributes:
        model: sizes of the tower, and how text enters.
        renderer: draws the texts, at the size of the model's images; not used by a model that reads bytes.
        data: the examples.
        transform: turns their images into pixels, with random changes in training.
        text_augment: random changes of the texts in training.
        loss: the contrastive loss.
        optimizer: updates the weights.
        evaluators: measures of the model, by name.
        batch_size: pairs in a step, over all processes.
        merge_equal_texts: pairs of a batch with equal texts are positives of one another, and not negatives.
        parallel: how processes share the model, see `clippo.training.parallel.parallelize`.
        precision: of products, "bfloat16" or "float32"; by default bfloat16 on a GPU. Weights are float32.
        compile: compile each block of the tower by torch.compile.
        micro_batch_size: pairs that a process embeds at a time. A larger share of the batch is embedded
            twice, in micro-batches whose activations need not fit into memory together.
        steps: optimizer steps of the whole run.
        learning_rate: factor on the schedule.
        warmup_steps: steps over which the learning rate rises.
        schedule: of the learning rate.
        ema_decay: decay of the mean of the weights over the steps, which is then evaluated and kept for use;
            0 for no mean.
        grad_clip_norm: bound on the norm of the gradient.
        max_logit_scale: bound on the factor on the cosine similarities.
        patch_dropout: share of the patches of an image that a step leaves out, from 0 to below 1.
        unmasked_steps: the last steps, which leave no patches out (the "unmasked tuning" of FLIP, arXiv
            2212.00794).
        resolutions: "SIZE=SHARE", images of SIZE px for that share of the steps; several follow one another,
            and the rest of the steps has the size of the model. Position embeddings are resampled. Texts are
            drawn at the size of the model throughout.
        grad_checkpointing: save memory by computing the inner activations of each block twice.
        init_from: a model whose weights the run begins with, see `clippo.training.initialisation`; none by
            default.
        residual_scale: factor on the initial weights that end each residual branch.
        max_skipped_steps: so many steps whose loss or gradient is not finite change nothing, counted from the
            start of the process; one more ends the run.
        max_rewinds: so many times the run goes back to its newest checkpoint instead, and on from there with
            the batches that come next.
        max_broken_share: the run ends when more than this share of at least 1,000 examples cannot be read.
        workers: processes that read and render batches ahead, for each process that trains; 0 for none.
        eval_every: steps between two evaluations; the last step is always evaluated.
        checkpoint_every: steps between two checkpoints.
        checkpoint_minutes: a checkpoint is also written when the last is so old; 0 for never.
        keep_checkpoints: how many of the newest checkpoints are kept; of two, the older takes the place of a
            newer one that a disk has damaged.
        keep_every: checkpoints of multiples of so many steps are never removed; 0 for none.
        log_every: steps between two lines of metrics.jsonl.
        trackers: names of programs that show the run, beside its files, see `clippo.training.trackers`.
        seed: of the initialisation, the order of the data, and all random changes.

    Raises:
        UserError: a value that no run can have.
    """

    model: ClippoConfig
    renderer: RendererConfig
    data: SourceConfig
    transform: TransformConfig
    loss: LossConfig
    optimizer: OptimizerConfig
    text_augment: TextAugmentConfig = field(default_factory=TextAugmentConfig)
    evaluators: Mapping[str, EvaluatorConfig] = field(default_factory=dict)
    batch_size: int
    merge_equal_texts: bool = False
    parallel: Parallel = "ddp"
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    compile: bool = False
    micro_batch_size: int = 4096
    steps: int
    learning_rate: float
    warmup_steps: int
    schedule: ScheduleConfig = field(default_factory=CosineConfig)
    ema_decay: float = 0.0
    grad_clip_norm: float = 1.0
    max_logit_scale: float = 100.0
    patch_dropout: float = 0.0
    unmasked_steps: int = 0
    resolutions: tuple[str, ...] = ()
    grad_checkpointing: bool = False
    init_from: str | None = None
    residual_scale: float = 1.0
    max_skipped_steps: int = 0
    max_rewinds: int = 0
    max_broken_share: float = 0.01
    workers: int = 1
    eval_every: int = 1000
    checkpoint_every: int = 500
    checkpoint_minutes: float = 0.0
    keep_checkpoints: int = 2
    keep_every: int = 0
    log_every: int = 20
    trackers: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "batch_size", "micro_batch_size", "steps", "eval_every", "checkpoint_every", "log_every",
            "keep_checkpoints",
        ):  # fmt: skip
            if not 1 <= getattr(self, name) <= MAX_COUNT:
                raise UserError(f"{name} must be from 1 to {MAX_COUNT}, got {getattr(self, name)}")
        for name in ("learning_rate", "grad_clip_norm", "max_logit_scale"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in (
            "warmup_steps", "residual_scale", "workers", "seed", "checkpoint_minutes", "keep_every",
            "max_skipped_steps", "max_rewinds", "unmasked_steps",
        ):  # fmt: skip
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("learning_rate", "residual_scale"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"{name} must be finite, got {getattr(self, name)}")
        if self.workers > MAX_WORKERS:
            raise UserError(f"workers must be at most {MAX_WORKERS}, got {self.workers}")
        for name, choices in (("parallel", ("ddp", "fsdp")), ("precision", ("auto", "bfloat16", "float32"))):
            if getattr(self, name) not in choices:
                raise UserError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        image_sizes(self)
        if self.parallel == "fsdp" and not self.optimizer.works_sharded:
            raise UserError(
                "optimizer must be one that works on parts of a matrix, such as adamw, for parallel fsdp, "
                f"got {self.optimizer.name}"
            )
        self.schedule.check(steps=self.steps, warmup_steps=self.warmup_steps)
        resize = getattr(self.transform, "resize", self.model.resize)
        if resize != self.model.resize:
            raise UserError(f"transform.resize must be {self.model.resize}, as model.resize, got {resize}")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"ema_decay must be from 0 to below 1, got {self.ema_decay}")
        if not 0 <= self.max_broken_share <= 1:
            raise UserError(f"max_broken_share must be from 0 to 1, got {self.max_broken_share}")
        if not 0 <= self.patch_dropout < 1:
            raise UserError(f"patch_dropout must be from 0 to below 1, got {self.patch_dropout}")
        check_trackers(self.trackers)


def image_sizes(config: TrainConfig) -> list[tuple[int, int]]:
    """The sizes in px of the images before they have that of the model, and before which step each ends.

    Raises:
        UserError: something else than "SIZE=SHARE", a size that the model cannot take, or shares of more than
            the whole run.
    """
    found, end = [], 0.0
    for spec in config.resolutions:
        size, _, share = spec.partition("=")
        try:
            found.append((int(size), round((end + float(share)) * config.steps)))
            end += float(share)
        except ValueError as error:
            raise UserError(f"resolutions must be SIZE=SHARE, such as 112=0.5, got {spec!r}") from error
        P, largest = config.model.patch_size, config.model.image_size
        if not (0 < int(size) <= largest and int(size) % P == 0):
            raise UserError(f"resolutions must be multiples of {P} px up to {largest}, got {size}")
        if not (float(share) > 0 and end <= 1):
            raise UserError(f"the shares of resolutions must be above 0, and at most 1 in all, got {spec!r}")
    return found
