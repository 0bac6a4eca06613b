"""What one watches of a run: its progress bar, and a line of metrics every few steps."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import torch
from torch import Tensor
from tqdm import tqdm

from clippo.data.loader import Batch
from clippo.data.pairs import FirstSides
from clippo.errors import UserError
from clippo.model import ClippoConfig, RenderedTextConfig
from clippo.model.checkpoints.safetensors import whole
from clippo.model.packing import PackedPatches
from clippo.training.config import TrainConfig
from clippo.training.finite import FiniteCheck
from clippo.training.flops import peak_flops, step_flops
from clippo.training.memory import memory_bytes
from clippo.training.parallel import DistributedContext
from clippo.training.state import TrainState

__all__ = ["Watch", "image_lengths_of", "text_lengths_of"]


class Watch:
    """Context that counts what a run goes through, and shows it.

    Args:
        config: the run.
        context: the processes. The main one shows the bar; what is counted of examples and time is its own.
        first_step: that the run goes on from.

    Attributes:
        num_rejected: examples of this process that could not be read.
    """

    def __init__(self, config: TrainConfig, context: DistributedContext, first_step: int) -> None:
        self.config = config
        self.context = context
        self.num_cut = self.num_rejected = self.num_read = 0
        self.num_steps = 0
        self.num_patches = self.num_tokens = 0  # of the texts, and of them those that the tower reads
        self.flops = 0.0
        self.data_s = 0.0
        peak = peak_flops(context.device)
        self.peak_flops = None if peak is None else peak * context.world_size
        self.start = time.perf_counter()
        self.bar = tqdm(
            total=config.steps, initial=first_step, unit="step", mininterval=1,
            disable=not context.is_main_process,
        )  # fmt: skip

    def next(self, batches: Iterator[Batch]) -> Batch:
        """Take the next batch, and take note of how long that took and of what was wrong with its examples.

        Raises:
            UserError: too many examples could not be read.
        """
        asked = time.perf_counter()
        batch = next(batches)
        self.data_s += time.perf_counter() - asked
        if batch.num_cut and not self.num_cut:
            warnings.warn(
                f"{batch.num_cut} of the {len(batch.texts)} texts of step {self.num_steps + 1} are too long "
                'for the model and were cut; metrics.jsonl counts them as "cut_texts"',
                stacklevel=3,
            )
        self.num_cut += batch.num_cut
        self.num_rejected += len(batch.rejected)
        self.num_read += len(batch.images)
        self._count_tokens(batch)
        if self.num_read >= 1000 and self.num_rejected > self.config.max_broken_share * self.num_read:
            raise UserError(
                f"{self.num_rejected} of the first {self.num_read:,} examples could not be read, more than "
                f"{self.config.max_broken_share:.1%} (--max-broken-share): see rejected.jsonl of the run"
            )
        return batch

    def _count_tokens(self, batch: Batch) -> None:
        """Count what the tower reads of a batch; the other processes are taken to read as much."""
        model = self.config.model
        text_lengths = text_lengths_of(batch, model)
        self.num_tokens += int(text_lengths.sum())
        self.num_patches += len(text_lengths) * model.num_patches
        image_lengths = image_lengths_of(batch, model, self.config.patch_dropout)
        processes = self.context.world_size
        self.flops += step_flops(model, image_lengths.repeat(processes), text_lengths.repeat(processes))

    def update(self) -> None:
        """Take note that a step was taken."""
        self.num_steps += 1
        self.bar.update()

    def rewound(self, step: int) -> None:
        """Take note that the run goes on from an earlier step."""
        self.bar.n = step
        self.bar.refresh()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Context of what does not count as time of the run."""
        begun = time.perf_counter()
        yield
        self.start += time.perf_counter() - begun

    def metrics(
        self, step: int, state: TrainState, loss: Tensor, grad_norm: Tensor, check: FiniteCheck
    ) -> dict[str, float]:
        """The line of metrics after a step. If the parameters are sharded, all processes must call this."""
        elapsed_s = time.perf_counter() - self.start
        norms = state.pairs.norms
        assert norms is not None
        metrics = {
            "step": step,
            "loss": loss.item(),
            "grad_norm": grad_norm.item(),
            "learning_rate": self.config.learning_rate * state.optimizer.param_groups[0]["factor"],
            "logit_scale": whole(state.model.logit_scale).exp().item(),
            "pairs_per_s": self.num_steps * self.config.batch_size / elapsed_s,
            "flops_per_s": self.flops / elapsed_s,
            "memory_bytes": memory_bytes(self.context.device),
            "image_norm": norms[0].item(),
            "text_norm": norms[1].item(),
            "step_time": elapsed_s / self.num_steps,
            "data_time": self.data_s / self.num_steps,
            "cut_texts": self.num_cut,
            "rejected": self.num_rejected,
            "skipped_steps": check.num_bad.item(),
            "elapsed_s": elapsed_s,
        }
        speed = f"{self.flops / elapsed_s / 1e12:.3g} TFLOP/s"
        if self.peak_flops is not None:
            metrics["mfu"] = self.flops / elapsed_s / self.peak_flops
            speed = f"{metrics['mfu']:.0%} of the peak"
        if (
            isinstance(self.config.model.text, RenderedTextConfig)
            and self.config.model.text.tokens == "inked"
        ):
            metrics["inked_share"] = self.num_tokens / self.num_patches
        self.bar.set_postfix_str(
            f"loss {metrics['loss']:.2f}, {metrics['pairs_per_s']:.0f} pairs/s, {speed}, "
            f"data {self.data_s / elapsed_s:.0%}, {metrics['memory_bytes'] / 2**30:.1f} GiB"
        )
        return metrics

    def close(self) -> None:
        self.bar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def image_lengths_of(batch: Batch, model: ClippoConfig, patch_dropout: float) -> Tensor:
    """The number of patches that a model reads of each image, (I,)."""
    images = batch.images.images if isinstance(batch.images, FirstSides) else batch.images
    num_patches = (images.shape[1] // model.patch_size) ** 2
    return torch.full((len(images),), max(1, round(num_patches * (1 - patch_dropout))))


def text_lengths_of(batch: Batch, model: ClippoConfig) -> Tensor:
    """The number of tokens that a model reads of each text, those in the place of images last."""
    lengths = lengths_of(batch.texts, batch.text_mask, model)
    if isinstance(batch.images, FirstSides):
        first = lengths_of(batch.images.texts, batch.images.text_mask, model)
        return torch.cat([lengths, first])
    return lengths


def lengths_of(texts: Tensor | PackedPatches, mask: Tensor | None, model: ClippoConfig) -> Tensor:
    if isinstance(texts, PackedPatches):
        return texts.varlen.cu_seqlens.diff()
    if mask is not None:
        return mask.sum(1)
    return torch.full((len(texts),), model.num_patches)
