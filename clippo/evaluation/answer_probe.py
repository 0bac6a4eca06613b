"""A classifier of answers on frozen embeddings: one hidden layer, trained on soft targets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clippo.evaluation.vqa_accuracy import SoftTargets
from clippo.seeds import generator, torch_seed

__all__ = ["AnswerProbe", "fit_probe"]

HIDDEN = 512
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.05
BATCH_SIZE = 256
MIN_BATCHES = 8  # of an epoch; so batches are smaller where there are few questions
MAX_EPOCHS = 60
PATIENCE = 8  # epochs without a lower loss on the validation part
VALIDATION = 0.1  # share of the pictures


class AnswerProbe(nn.Module):
    """Embeddings (N, E) to logits of V answers, (N, V).

    Args:
        z: (N, E) the embeddings of the training part, whose mean and standard deviation scale the input.
        num_answers: V.
        seed: decides on the first weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, z: Tensor, num_answers: int, seed: int) -> None:
        super().__init__()
        self.register_buffer("mean", z.mean(0))
        std = z.std(0, correction=0)
        self.register_buffer("std", torch.where(std > 1e-6, std, 1.0))  # what never changes is not blown up
        self.hidden, self.out = nn.Linear(z.shape[1], HIDDEN), nn.Linear(HIDDEN, num_answers)
        rng = torch.Generator().manual_seed(torch_seed(seed, "answer probe"))
        for layer in (self.hidden, self.out):
            nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5, generator=rng)
            nn.init.zeros_(layer.bias)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.out(F.gelu(self.hidden((z - self.mean) / self.std)))
        return out

    @torch.no_grad()
    def predict(self, z: Tensor) -> np.ndarray:
        """The most probable answers, by their numbers: (N,)."""
        parts = [self(part).argmax(1) for part in z.split(2**14)]
        return torch.cat(parts).numpy()


def fit_probe(z: Tensor, targets: SoftTargets, pictures: Sequence[str], seed: int = 0) -> AnswerProbe:
    """Train a probe, with binary cross-entropy for each answer as Teney et al. (arXiv 1708.02711).

    A tenth of the pictures is for validation: training ends when the loss of their questions has not
    decreased for some epochs, and the weights with the lowest one are kept.

    Args:
        z: (N, E) float32 embeddings, on the CPU.
        targets: of the N questions.
        pictures: of the N questions, two at least; those of a picture are on one side of the validation.
        seed: decides on the first weights, the validation part and the order.
    """
    rng = generator(seed, "answer probe")
    names, numbers = np.unique(np.asarray(pictures), return_inverse=True)
    is_validation = np.isin(numbers, rng.permutation(len(names))[: max(1, round(VALIDATION * len(names)))])
    train, validation = np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
    probe = AnswerProbe(z[train], targets.num_answers, seed)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    num_batches = min(len(train), max(MIN_BATCHES, len(train) // BATCH_SIZE))
    least, best_epoch, kept = float("inf"), 0, copied(probe)  # these stay if no loss is a number
    for epoch in range(MAX_EPOCHS):
        for rows in np.array_split(rng.permutation(train), num_batches):
            optimizer.zero_grad()
            loss_of(probe, z, targets, rows).backward()
            optimizer.step()
        with torch.no_grad():
            loss = sum(
                loss_of(probe, z, targets, rows).item() * len(rows)
                for rows in np.array_split(validation, -(-len(validation) // BATCH_SIZE))
            )
        if loss < least:
            least, best_epoch = loss, epoch
            kept = copied(probe)
        elif epoch - best_epoch >= PATIENCE:
            break
    probe.load_state_dict(kept)
    return probe


def copied(probe: AnswerProbe) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in probe.state_dict().items()}


def loss_of(probe: AnswerProbe, z: Tensor, targets: SoftTargets, rows: np.ndarray) -> Tensor:
    """The loss of some questions, given by index: the sum over the answers, the mean over the questions."""
    wanted = torch.from_numpy(targets.rows(rows))
    return F.binary_cross_entropy_with_logits(probe(z[rows]), wanted, reduction="sum") / len(rows)
