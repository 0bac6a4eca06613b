"""Steps whose loss or gradient is not finite: counted on the device, and what is done about them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from clippo.training.parallel import DistributedContext
from clippo.training.run_folder import RunFolder
from clippo.training.state import TrainState

__all__ = ["FiniteCheck", "rewind"]


class FiniteCheck:
    """Counts the steps that are not finite, without making the host wait for a device.

    Args:
        max_skipped_steps: so many are left out; from one more on, all steps are.
        context: the processes. A step that is not finite on one of them is left out on all.
    """

    def __init__(self, max_skipped_steps: int, context: DistributedContext) -> None:
        self.max_skipped_steps = max_skipped_steps
        self.context = context
        self.num_bad = torch.zeros((), dtype=torch.int64, device=context.device)
        self.bad_step = torch.zeros_like(self.num_bad)  # the one that ended the run, or 0

    def found(self, step: int, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """Look at a step, counted from 1. The result is 1.0 if it must change nothing, and else 0.0."""
        is_bad = self.context.maximum((~(loss.isfinite() & grad_norm.isfinite())).long())
        self.num_bad = self.num_bad + is_bad
        is_end = (self.bad_step == 0) & (self.num_bad > self.max_skipped_steps)
        self.bad_step = self.bad_step.masked_fill(is_end, step)
        return ((is_bad > 0) | (self.bad_step > 0)).float()

    def ended_at(self) -> int:
        """The step from which on nothing was changed; 0 if there is none. The host waits for the device."""
        return int(self.bad_step.item())


def rewind(
    folder: RunFolder,
    state: TrainState,
    fingerprints: Mapping[str, str],
    step: int,
    bad_step: int,
    context: DistributedContext,
) -> int:
    """Restore the newest checkpoint, from which the run goes on with the batches after `step`.

    Returns:
        The step of the checkpoint.
    """
    taken = step + state.left_out
    folder.wait()
    restored = folder.load_checkpoint(state, fingerprints)
    state.left_out = taken - restored
    if context.is_main_process:
        folder.drop_metrics_after(restored)
        warnings.warn(
            f"the loss or its gradient is not finite at step {bad_step}: the run goes on from step "
            f"{restored} with other batches",
            stacklevel=2,
        )
    return restored
