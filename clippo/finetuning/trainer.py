"""The loop that fine-tunes a model for a task, or trains a head on a frozen tower.

Every step follows from the seed and its number alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from tqdm import tqdm

from clippo.errors import UserError
from clippo.evaluation.base import Estimate, Metrics
from clippo.finetuning.fine_tuned import FineTuned
from clippo.finetuning.inputs import Features
from clippo.finetuning.tasks import Examples, Task
from clippo.model import ClippoConfig
from clippo.results import Row
from clippo.seeds import generator
from clippo.training.finite import FiniteCheck
from clippo.training.optimizers import AdamWConfig
from clippo.training.parallel import DistributedContext
from clippo.training.run_folder import RunFolder
from clippo.training.schedules import ConstantConfig

__all__ = ["DivergedError", "FinetuneConfig", "Finished", "finetune", "frozen", "verdict"]

GRAD_CLIP_NORM = 1.0
WARMUP = 0.1  # share of the steps
EVALUATIONS = 10  # on the examples for choosing, spread evenly over the steps
MAX_COUNT = 2**31 - 1  # as of `clippo.training.config`
LOGS = 50  # lines of metrics.jsonl, at most
STANDARDISED = 1024  # examples, by which the input of the head is scaled
FROZEN_EPOCHS = 30  # these cost little


class DivergedError(UserError):
    """A loss or a gradient that is not finite."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """How one model is fine-tuned: BERT's protocol (arXiv 1810.04805), as the paper of CLIPPO takes it over.

    The learning rate rises over a tenth of the steps, and falls linearly to zero. The gradient is clipped to
    a norm of 1. Ten times a run the examples for choosing are measured, and the best weights are kept.

    Attributes:
        learning_rate: its highest value.
        epochs: how often each example is seen; by default 3 times, and 30 times by the head of a frozen
            tower, whose features are computed once.
        batch_size: examples of a step.
        max_steps: end after so many steps at the latest, over which the learning rate then falls.
        freeze: train the head alone, which is probing.
        layer_decay: factor on the learning rate from each layer to the one below it, as in ELECTRA (arXiv
            2003.10555); the head has the whole rate.
        position_multiplier: factor on the learning rate of the position embedding. The paper raises it for
            questions in pictures.
        patience: end after so many measurements in a row that were not better than the best; by default a
            run takes all of its steps.
        weight_decay: of AdamW.
        seed: of the head, and of the order and changes of the examples.

    Raises:
        UserError: a value out of range.
    """

    learning_rate: float = 3e-5
    epochs: int | None = None
    batch_size: int = 32
    max_steps: int | None = None
    freeze: bool = False
    layer_decay: float = 1.0
    position_multiplier: float = 1.0
    patience: int | None = None
    weight_decay: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "max_steps", "patience"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MAX_COUNT:
                raise UserError(f"{name} must be from 1 to {MAX_COUNT}, got {value}")
        for name in ("learning_rate", "position_multiplier"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} must be finite and above 0, got {getattr(self, name)}")
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"layer_decay must be above 0, and at most 1, got {self.layer_decay}")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"weight_decay must be finite and not negative, got {self.weight_decay}")
        if self.seed < 0:
            raise UserError(f"seed must not be negative, got {self.seed}")

    def steps(self, num_examples: int) -> int:
        """The steps of a run on so many examples."""
        epochs = self.epochs or (FROZEN_EPOCHS if self.freeze else 3)
        steps = epochs * math.ceil(num_examples / self.batch_size)
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def optimizer(self, model: ClippoConfig) -> AdamWConfig:
        """AdamW with the factors on the learning rates of the layers of a model."""
        if self.freeze:
            return AdamWConfig(weight_decay=self.weight_decay, beta2=0.999)
        depth = model.depth
        top = self.layer_decay  # of the last LayerNorm and the pooling
        below = {number: self.layer_decay ** (depth + 1 - number) for number in range(depth)}
        lowest = self.layer_decay ** (depth + 2)  # of the embedding of patches or bytes
        factors = {
            r"^head\.": 1.0,
            r"\.pos_embed$": lowest * self.position_multiplier,
            **{rf"\.blocks\.{number}\.": factor for number, factor in below.items()},
            r"\.(norm|pool)\.": top,
            r"^model\.": lowest,
        }
        multipliers = tuple(f"{pattern}={factor!r}" for pattern, factor in factors.items())
        return AdamWConfig(weight_decay=self.weight_decay, beta2=0.999, lr_multipliers=multipliers)


@dataclass(frozen=True)
class Finished:
    """A run that has ended. The model has its best weights.

    Attributes:
        step: after which they were measured.
        steps: that were taken in all.
        dev: the main metric on the examples for choosing.
        guessing: what guessing reaches there.
        tests: metrics on each set of examples to test on.
        test_guessing: what guessing reaches there.
        seconds: of the whole run.
    """

    step: int
    steps: int
    dev: Metrics
    guessing: Mapping[str, float]
    tests: Mapping[str, Metrics]
    test_guessing: Mapping[str, Mapping[str, float]]
    seconds: float


def finetune(tuned: FineTuned, task: Task, config: FinetuneConfig, folder: RunFolder) -> Finished:
    """Fine-tune a model in place, and leave it with the weights that were the best on `task.dev`.

    Prints a line for each measurement that says whether the model is better than guessing. Appends to
    metrics.jsonl and evaluations.jsonl of the folder.

    Args:
        tuned: a model with a new head.
        task: what for; that of `frozen` where the tower is not trained, which computes its features once.
        config: the run.
        folder: whose files are written; it must be there.

    Raises:
        DivergedError: the loss or its gradient is not finite.
    """
    begun = time.perf_counter()
    objective, train = task.objective, task.train
    steps = config.steps(len(train))
    warmup_steps = min(steps - 1, round(WARMUP * steps))
    schedule = ConstantConfig(cooldown_steps=steps - warmup_steps)
    measured_at = {max(1, round(steps * turn / EVALUATIONS)) for turn in range(1, EVALUATIONS + 1)}
    log_every = max(1, steps // LOGS)

    # The head, and what is trained
    drawn = train.drawn(STANDARDISED, "standardised")
    tuned.head.standardise(tuned.features_of(train.inputs, drawn.rows))
    tuned.model.requires_grad_(not config.freeze)
    parameters = [(name, p) for name, p in tuned.named_parameters() if p.requires_grad]
    optimizer = config.optimizer(tuned.model.config).build(parameters, tuned.model.config)
    check = FiniteCheck(0, DistributedContext(0, 1, tuned.device))
    best = Best(tuned)
    guessing = objective.guessing(task.dev.targets, task.dev.rows)
    batches = batches_of(len(train), config.batch_size, config.seed)

    with tqdm(total=steps, desc=task.name, unit="step", mininterval=1, leave=False) as bar:
        for step in range(1, steps + 1):
            # A step
            rows = train.rows[next(batches)]
            optimizer.zero_grad()
            rng = generator(config.seed, "finetuning", "step", step)
            loss = objective.loss(tuned(train.inputs, rows, rng), train.targets, rows)
            loss.backward()
            grad_norm = torch.nn.utils.clip_grad_norm_([p for _, p in parameters], GRAD_CLIP_NORM)
            optimizer.found_inf = check.found(step, loss.detach(), grad_norm)  # type: ignore[attr-defined]
            # The factor of step 0 is 0, and so is that of the number of steps.
            factor = schedule.factor(min(step, steps - 1), steps=steps, warmup_steps=warmup_steps)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * factor * group["lr_multiplier"]
            optimizer.step()
            bar.update()

            # Logging
            if step % log_every == 0 or step in measured_at:
                if bad_step := check.ended_at():
                    raise DivergedError(
                        f"{task.name}: the loss or its gradient is not finite at step {bad_step}: try a "
                        f"learning rate below {config.learning_rate:g}"
                    )
                elapsed_s = time.perf_counter() - begun
                folder.append_metrics({
                    "step": step, "loss": loss.item(), "grad_norm": grad_norm.item(),
                    "learning_rate": config.learning_rate * factor,
                    "examples_per_s": step * config.batch_size / elapsed_s, "elapsed_s": elapsed_s,
                })  # fmt: skip
                bar.set_postfix_str(f"loss {loss.item():.3f}")

            # Choosing
            if step in measured_at:
                dev, dev_loss = measured(tuned, task, task.dev, main_only=True)
                folder.append_evaluation(step, dev_rows(dev, guessing, dev_loss))
                bar.write(f"{task.name}, step {step:,} of {steps:,}: {verdict(task, dev, guessing)}")
                best.offer(tuned, step, dev, (float(dev[objective.main]), -dev_loss))
                if config.patience is not None and best.num_worse >= config.patience:
                    bar.write(f"{task.name}: {best.num_worse} measurements without a better one end the run")
                    break

    best.restore(tuned)
    return Finished(
        step=best.step,
        steps=step,
        dev=best.dev,
        guessing=guessing,
        tests={name: measured(tuned, task, part)[0] for name, part in task.tests.items()},
        test_guessing={name: objective.guessing(p.targets, p.rows) for name, p in task.tests.items()},
        seconds=time.perf_counter() - begun,
    )


class Best:
    """The weights that were the best so far.

    Attributes:
        step: after which they were measured; 0 for the first weights.
        dev: what was measured.
        num_worse: measurements since then.
    """

    def __init__(self, tuned: FineTuned) -> None:
        self.step, self.num_worse = 0, 0
        self.dev: Metrics = {}
        self.score = (-math.inf, -math.inf)
        self.keep(tuned)

    def keep(self, tuned: FineTuned) -> None:
        """Copy the weights that are trained, and the buffers of the head."""
        own = {name for name, p in tuned.named_parameters() if not p.requires_grad}
        self.kept = {n: v.detach().cpu().clone() for n, v in tuned.state_dict().items() if n not in own}

    def offer(self, tuned: FineTuned, step: int, dev: Metrics, score: tuple[float, float]) -> None:
        """Keep the present weights if they have the highest score, or the first one that is a number."""
        self.num_worse += 1
        if score > self.score:
            self.score, self.step, self.dev, self.num_worse = score, step, dev, 0
            self.keep(tuned)

    def restore(self, tuned: FineTuned) -> None:
        tuned.load_state_dict(self.kept, strict=False)


def frozen(tuned: FineTuned, task: Task) -> Task:
    """The same task on the features that the tower makes of its examples, which are computed here.

    Random changes of pictures are left out.
    """

    def features(part: Examples) -> Examples:
        return replace(part, inputs=Features(tuned.features_of(part.inputs, part.rows), part.rows))

    tests = {name: features(part) for name, part in task.tests.items()}
    return replace(task, train=features(task.train), dev=features(task.dev), tests=tests)


def measured(
    tuned: FineTuned, task: Task, part: Examples, *, main_only: bool = False
) -> tuple[Metrics, float]:
    """The metrics and the loss on some examples."""
    outputs = tuned.outputs_of(part)
    loss = task.objective.loss(outputs, part.targets, part.rows)
    metrics = task.objective.metrics(outputs, part.targets, part.rows, main_only=main_only)
    return metrics, float(loss)


def verdict(task: Task, dev: Metrics, guessing: Mapping[str, float]) -> str:
    """Say in a line whether a model is better than guessing, beyond what the examples leave open."""
    main = task.objective.main
    value, guess = dev[main], guessing[main]
    low, high = (value.low, value.high) if isinstance(value, Estimate) else (value, value)
    said = "better than" if low > guess else "worse than" if high < guess else "no better yet than"
    return f"dev {main} {value:.1f} ({low:.1f} to {high:.1f}), {said} {task.objective.guesses} ({guess:.1f})"


def dev_rows(dev: Metrics, guessing: Mapping[str, float], loss: float) -> list[Row]:
    """The rows of a measurement; curves draw the first, with what guessing reaches."""
    named = {**dev, "loss": loss, **{f"chance/{name}": guessing[name] for name in dev}}
    return [{"evaluator": "dev", "metric": name, "value": float(value)} for name, value in named.items()]


def batches_of(count: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """The numbers of the examples of each step, without end; each epoch has an order of its own."""
    epoch = 0
    while True:
        order = generator(seed, "finetuning", "order", epoch).permutation(count)
        yield from (order[start : start + batch_size] for start in range(0, count, batch_size))
        epoch += 1
