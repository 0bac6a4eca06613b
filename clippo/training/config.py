"""What a training run is made of. A recipe fills it in, the command line may change it."""

from __future__ import annotations

from dataclasses import dataclass

from clippo.data.emoji import EmojiConfig
from clippo.errors import UserError
from clippo.model import ClippoConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run.

    Attributes:
        model: sizes of the tower, and how text enters.
        data: the texts and how often each is drawn.
        batch_size: pairs in a step, over all processes.
        chunk_size: pairs that a process embeds at a time. More of them in its part of the batch are embedded
            twice, so that they need not fit into memory together.
        steps: optimizer steps of the whole run.
        learning_rate: the highest; it is reached after the warm-up and falls to zero along a cosine.
        warmup_steps: steps over which the learning rate rises.
        weight_decay: AdamW's, on matrices alone.
        beta2: AdamW's decay of the mean square of the gradient.
        patch_dropout: share of the patches of a photograph that a step leaves out, from 0 to below 1.
        grad_checkpointing: save memory in training by computing each block's inner activations twice.
        residual_scale: factor on the initial weights that end each residual branch; see `Tower.init_weights`.
        grad_clip_norm: bound on the norm of the gradient.
        max_logit_scale: bound on the factor on the cosine similarities.
        render_workers: processes that render texts ahead, for each process that trains.
        checkpoint_every: steps between two checkpoints.
        log_every: steps between two lines of metrics.jsonl.
        seed: of the initialisation, the sampling and the augmentation.

    Raises:
        UserError: a value that no run can have.
    """

    model: ClippoConfig
    data: EmojiConfig
    batch_size: int
    steps: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    beta2: float
    chunk_size: int = 4096
    patch_dropout: float = 0.0
    grad_checkpointing: bool = False
    residual_scale: float = 1.0
    grad_clip_norm: float = 1.0
    max_logit_scale: float = 100.0
    render_workers: int = 1
    checkpoint_every: int = 500
    log_every: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "chunk_size", "steps", "render_workers", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "grad_clip_norm", "max_logit_scale"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("warmup_steps", "weight_decay", "beta2", "residual_scale"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.patch_dropout < 1:
            raise UserError(f"patch_dropout must be from 0 to below 1, got {self.patch_dropout}")
