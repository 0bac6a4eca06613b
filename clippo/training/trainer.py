"""The training loop."""

from __future__ import annotations

import copy
import json
import math
import signal
import warnings
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from clippo.data.loader import Batch, worker_deaths_explained
from clippo.data.order import order_of
from clippo.errors import UserError
from clippo.evaluation import suite
from clippo.model import Clippo
from clippo.model.checkpoints.safetensors import whole
from clippo.model.configs import to_dict
from clippo.seeds import torch_seed
from clippo.training.batches import batches_from
from clippo.training.config import TrainConfig
from clippo.training.curves import draw
from clippo.training.finite import FiniteCheck, rewind
from clippo.training.initialisation import initialise
from clippo.training.memory import keep_freed_memory
from clippo.training.parallel import DistributedContext, release
from clippo.training.run_folder import RunFolder
from clippo.training.signals import Requests, Stopped
from clippo.training.state import TrainState, build_model
from clippo.training.trackers import check_packages, open_trackers
from clippo.training.watch import Watch
from clippo_kernels import cached_contrastive_step

__all__ = ["take_step", "train"]

CURVES = "curves.png"


def train(config: TrainConfig, out: str | Path, *, resume: bool = False) -> Clippo:
    """Train a Clippo and leave checkpoints, metrics and results in a folder.

    Every batch, and all that is random in a step, follows from the seed and the step alone. A run that was
    cut off and resumed ends with the same weights as one that was not, bit for bit on a CPU.

    Args:
        config: the run.
        out: its folder; see `clippo.training.run_folder`.
        resume: continue from the newest checkpoint in `out`, where there is one.

    Returns:
        The trained model.

    Raises:
        UserError: see `RunFolder.create` and `RunFolder.load_checkpoint`; images too small for text; a batch
            that does not divide among the processes, or is larger than an epoch; processes that differ in
            configuration, data, renderer or checkpoint; too many examples that cannot be read; a loss or a
            gradient that is not finite; a checkpoint that cannot be written.
        Stopped: a signal asked the run to end; its checkpoint is saved.
    """
    if config.warmup_steps >= config.steps:
        warnings.warn(
            f"the warm-up of {config.warmup_steps} steps does not end within the {config.steps} steps of the "
            "run: set --warmup-steps",
            stacklevel=2,
        )
    keep_freed_memory()
    folder = RunFolder(out)
    context = DistributedContext.from_environment()
    rows = context.shard(config.batch_size)
    with ExitStack() as stack:
        # What may be wrong with the configuration is found before the processes wait for one another.
        stack.enter_context(worker_deaths_explained())
        source = config.data.build("train", image_size=config.model.image_size)
        order = order_of(source, config.batch_size, seed=config.seed)
        evaluators = {}
        if context.is_main_process:
            evaluators = suite.build(
                config.evaluators, config.data, config.transform, config.model.image_size
            )
        model = build_model(config)
        loss = config.loss.build()
        config.optimizer.freeze([*model.named_parameters(), *loss.named_parameters()])
        if context.is_main_process:
            check_packages(config.trackers)
            stack.callback(folder.release)
            folder.create(config, resume=resume)
        begun_with = ""
        if config.init_from is not None and folder.newest_checkpoint() is None:
            begun_with = initialise(model, config.init_from)

        make_batches = partial(
            batches_from, config=config, source=source, order=order, rows=rows,
            text_input=copy.deepcopy(model.text_input),
            text_augment=config.text_augment.build(model.text_input),
            pin_memory=context.device.type == "cuda",
        )  # fmt: skip

        # The processes join, and share the model.
        stack.enter_context(context.joined())
        state = TrainState.build(config, model, loss, context)
        fingerprints = {"data": source.fingerprint, "renderer": state.renderer_fingerprint}
        stack.callback(release, state.embedder)
        stack.callback(folder.wait)
        step = folder.load_checkpoint(state, fingerprints)
        described = json.dumps(to_dict(config), sort_keys=True)
        context.check_alike(configuration=described, checkpoint=str(step), **fingerprints)
        if step > config.steps:
            raise UserError(f"steps must be at least {step}, as in the checkpoint, got {config.steps}")
        if context.is_main_process:
            folder.drop_metrics_after(step)
            print(f"{folder.path}: {state.num_parameters / 1e6:.2f} M parameters, {len(source):,} examples")
            if begun_with:
                print(begun_with)
        batches = make_batches(step, state.left_out)
        names = config.trackers if context.is_main_process else ()
        trackers = stack.enter_context(open_trackers(names, folder.path, to_dict(config), step))
        check = FiniteCheck(config.max_skipped_steps, context)
        watch = stack.enter_context(Watch(config, context, step))
        requests = stack.enter_context(Requests(context, config.checkpoint_minutes))
        num_rewinds = 0

        while step < config.steps:
            batch = watch.next(batches)
            folder.append_rejected(step + 1, batch.rejected)
            value, grad_norm = take_step(state, batch, step, config, context, check)
            step += 1
            watch.update()

            is_last = step == config.steps
            is_stopped, is_save_asked = requests.after(step)
            is_log_step = is_last or step % config.log_every == 0
            is_checkpoint_step = is_last or is_save_asked or step % config.checkpoint_every == 0
            is_eval_step = step % config.eval_every == 0 and not is_last and bool(config.evaluators)

            # The host learns here whether the steps so far were finite, before anything is kept.
            if (is_log_step or is_checkpoint_step or is_eval_step) and (bad_step := check.ended_at()):
                if num_rewinds == config.max_rewinds or folder.newest_checkpoint() is None:
                    raise UserError(
                        f"the loss or its gradient is not finite at step {bad_step}; the weights were not "
                        f"updated since. Try a lower --learning-rate (--max-skipped-steps is "
                        f"{config.max_skipped_steps}, --max-rewinds is {config.max_rewinds})"
                    )
                num_rewinds += 1
                step = rewind(folder, state, fingerprints, step, bad_step, context)
                batches = make_batches(step, state.left_out)
                check = FiniteCheck(config.max_skipped_steps, context)
                watch.rewound(step)
                continue
            if is_log_step:
                metrics = watch.metrics(step, state, value, grad_norm, check)
                if context.is_main_process:
                    folder.append_metrics(metrics)
                    trackers.log(step, metrics)
            if is_checkpoint_step:
                if context.is_main_process or state.is_sharded:
                    folder.save_checkpoint(step, state, fingerprints)
                requests.saved()
            if is_stopped and not is_last:
                folder.wait()
                name = signal.Signals(requests.signal).name
                message = f"stopped by {name} after step {step}, whose checkpoint is saved; --resume goes on"
                raise Stopped(requests.signal, message)
            if is_eval_step:
                with watch.paused():  # evaluation is not part of the speed
                    used = state.whole_model()
                    if context.is_main_process:
                        trackers.log(step, folder.append_evaluation(step, suite.evaluate(used, evaluators)))
                        draw([folder], folder.path / CURVES)

        # Results
        requests.close()
        watch.close()
        used = state.whole_model().eval()
        folder.wait()
        if watch.num_rejected:
            print(f"{watch.num_rejected} examples could not be read: see {folder.rejected_file}")
        if context.is_main_process and evaluators:
            results = suite.evaluate(used, evaluators)
            trackers.log(step, folder.append_evaluation(step, results))
            files = suite.report(
                folder.path, results, used, evaluators, run=folder.path.name, step=config.steps
            )
            print(f"\n{suite.table(results)}\n\nwritten to {', '.join(map(str, files))}")
        if context.is_main_process:
            draw([folder], folder.path / CURVES)
    return used


def take_step(
    state: TrainState,
    batch: Batch,
    step: int,
    config: TrainConfig,
    context: DistributedContext,
    check: FiniteCheck,
) -> tuple[Tensor, Tensor]:
    """Update the state with a batch. The host waits for no device.

    Args:
        state: is changed, unless the loss or its gradient is not finite.
        batch: the share of this process.
        step: number of the step, from 0.
        config: the run.
        context: the processes that share the batch.
        check: learns whether the step was finite.

    Returns:
        The loss of the whole batch and the norm of its gradient, without a graph, on the device.
    """
    torch.manual_seed(torch_seed(config.seed, "step", step + state.left_out, context.rank))
    state.pairs.patch_dropout = config.patch_dropout if step < config.steps - config.unmasked_steps else 0.0
    state.optimizer.zero_grad()
    labels = batch.labels.to(context.device, non_blocking=True) if config.merge_equal_texts else None

    def loss(z_images: Tensor, z_texts: Tensor) -> Tensor:
        with state.pairs.autocast():
            scale = state.model.logit_scale.exp()
            out: Tensor = state.loss(z_images, z_texts, scale, context.group, labels, batch.is_text)
            return out

    texts = batch.texts if batch.text_mask is None else (batch.texts, batch.text_mask)
    value = cached_contrastive_step(
        state.embedder, batch.images, texts, loss, chunk_size=config.micro_batch_size
    )
    parameters = state.trained_parameters
    grad_norm = whole(torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip_norm))
    # Looked at on the device: a step that is not finite changes nothing.
    state.optimizer.found_inf = check.found(step + 1, value, grad_norm)  # type: ignore[attr-defined]
    factor = config.schedule.factor(step, steps=config.steps, warmup_steps=config.warmup_steps)
    for group in state.optimizer.param_groups:
        group["lr"] = config.learning_rate * factor * group["lr_multiplier"]
        group["factor"] = factor
    state.optimizer.step()
    with torch.no_grad():
        state.model.logit_scale.clamp_(max=math.log(config.max_logit_scale))
    if state.average is not None:
        state.average.update_parameters(state.model)
    return value, grad_norm
