"""The training loop."""

from __future__ import annotations

import copy
import json
import math
import signal
import time
import warnings
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from clippo.data.loader import Batches, load, worker_deaths_explained
from clippo.data.order import order_of
from clippo.errors import UserError
from clippo.evaluation import suite
from clippo.model import Clippo, RenderedTextConfig
from clippo.model.configs import to_dict
from clippo.model.packing import patch_dropout
from clippo.seeds import torch_seed
from clippo.training.config import TrainConfig
from clippo.training.initialisation import initialise
from clippo.training.parallel import join_processes
from clippo.training.run_folder import RunFolder
from clippo.training.signals import Requests, Stopped
from clippo_kernels import cached_contrastive_step

__all__ = ["train"]


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
    with ExitStack() as stack:
        # Data
        stack.enter_context(worker_deaths_explained())
        context = stack.enter_context(join_processes())
        device = context.device
        rows = context.shard(config.batch_size)
        image_size = config.model.image_size
        source = config.data.build("train", image_size=image_size)
        order = order_of(source, config.batch_size, seed=config.seed)
        evaluators = {}
        if context.is_main_process:
            evaluators = suite.build(config.evaluators, config.data, config.transform, image_size)

        # Model, loss and optimizer
        torch.manual_seed(torch_seed(config.seed, "weights"))
        has_renderer = isinstance(config.model.text, RenderedTextConfig)
        try:
            renderer = config.renderer.build(image_size) if has_renderer else None
            model = Clippo(config.model, renderer)
        except ValueError as error:
            raise UserError(f"model and renderer do not fit together: {error}") from error
        model.init_weights(residual_scale=config.residual_scale)
        model.tower.encoder.grad_checkpointing = config.grad_checkpointing
        text_input = copy.deepcopy(model.text_input)  # the workers' own, which stays on the CPU
        loss_module = config.loss.build()
        model.to(device)
        loss_module.to(device)
        named_parameters = [*model.named_parameters(), *loss_module.named_parameters()]
        optimizer = config.optimizer.build(named_parameters, config.model)
        parameters = [parameter for _, parameter in named_parameters if parameter.requires_grad]
        average = None
        if config.ema_decay:
            average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
        used = model if average is None else cast(Clippo, average.module)  # evaluated, and kept for use
        fingerprints = {"data": source.fingerprint, "renderer": renderer.fingerprint if renderer else "none"}
        if context.is_main_process:
            stack.callback(folder.release)
            folder.create(config, resume=resume)
        first_step = folder.load_checkpoint(model, loss_module, optimizer, fingerprints, average)
        begun_with = ""
        if config.init_from is not None and first_step == 0:
            begun_with = initialise(model, config.init_from)
        described = json.dumps(to_dict(config), sort_keys=True)
        context.check_alike(configuration=described, checkpoint=str(first_step), **fingerprints)
        if first_step > config.steps:
            raise UserError(f"steps must be at least {first_step}, as in the checkpoint, got {config.steps}")
        if context.is_main_process:
            folder.drop_metrics_after(first_step)
            count = sum(parameter.numel() for _, parameter in named_parameters)
            print(f"{folder.path}: {count / 1e6:.2f} M parameters, {len(source):,} examples")
            if begun_with:
                print(begun_with)
        batches = load(
            Batches(
                source, order, config.transform.build(image_size), text_input,
                rows=rows, steps=range(first_step, config.steps), seed=config.seed,
            ),
            workers=config.workers, pin_memory=device.type == "cuda",
        )  # fmt: skip

        # bfloat16 on a CPU costs more in casts than it saves in products at widths trained there.
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

        def embed(images: Tensor, texts: Any) -> tuple[Tensor, Tensor]:
            kept = None
            if config.patch_dropout:
                kept = patch_dropout(len(images), config.model.num_patches, config.patch_dropout)
            with autocast:
                texts, mask = texts if isinstance(texts, tuple) else (texts, None)
                out: tuple[Tensor, Tensor] = model(images, texts, kept, mask)
                return out

        def loss(z_images: Tensor, z_texts: Tensor, labels: Tensor | None) -> Tensor:
            with autocast:
                scale = model.logit_scale.exp()
                out: Tensor = loss_module(z_images, z_texts, scale, context.group, labels)
                return out

        # Steps
        bar = tqdm(
            total=config.steps, initial=first_step, unit="step", mininterval=1,
            disable=not context.is_main_process,
        )  # fmt: skip
        stack.enter_context(bar)
        requests = stack.enter_context(Requests(context, config.checkpoint_minutes))
        start, data_s = time.perf_counter(), 0.0
        num_cut = num_rejected = 0  # texts of this process that were too long, and examples that were broken
        num_bad = torch.zeros((), dtype=torch.int64, device=device)  # steps that were not finite
        bad_step = torch.zeros_like(num_bad)  # the one of them that ends the run, or 0
        for step in range(first_step, config.steps):
            asked = time.perf_counter()
            batch = next(batches)
            data_s += time.perf_counter() - asked
            if batch.num_cut and not num_cut:
                warnings.warn(
                    f"{batch.num_cut} of the {len(batch.texts)} texts of step {step + 1} are too long for "
                    'the model and were cut; metrics.jsonl counts them as "cut_texts"',
                    stacklevel=2,
                )
            num_cut += batch.num_cut
            num_rejected += len(batch.rejected)
            folder.append_rejected(step + 1, batch.rejected)
            num_read = (step + 1 - first_step) * len(batch.images)
            if num_read >= 1000 and num_rejected > config.max_broken_share * num_read:
                raise UserError(
                    f"{num_rejected} of the first {num_read:,} examples could not be read, more than "
                    f"{config.max_broken_share:.1%} (--max-broken-share): see {folder.rejected_file}"
                )

            torch.manual_seed(torch_seed(config.seed, "step", step, context.rank))
            optimizer.zero_grad()
            texts = batch.texts if batch.text_mask is None else (batch.texts, batch.text_mask)
            labels = batch.labels.to(device) if config.merge_equal_texts else None
            value = cached_contrastive_step(
                embed, batch.images, texts, partial(loss, labels=labels), chunk_size=config.micro_batch_size
            )
            context.average_gradients(parameters)
            grad_norm = torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip_norm)
            # Looked at on the device: a step that is not finite changes nothing, and no host waits for it.
            is_bad = context.maximum((~(value.isfinite() & grad_norm.isfinite())).long().to(device))
            num_bad = num_bad + is_bad
            is_end = (bad_step == 0) & (num_bad > config.max_skipped_steps)
            bad_step = torch.where(is_end, step + 1, bad_step)
            optimizer.found_inf = ((is_bad > 0) | (bad_step > 0)).float()  # type: ignore[attr-defined]
            factor = config.schedule.factor(step, steps=config.steps, warmup_steps=config.warmup_steps)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * factor * group["lr_multiplier"]
                group["factor"] = factor
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=math.log(config.max_logit_scale))
            if average is not None:
                average.update_parameters(model)
            bar.update()

            done = step + 1
            is_last = done == config.steps
            is_stopped, is_save_asked = requests.after(done)
            is_log_step = is_last or done % config.log_every == 0
            is_checkpoint_step = is_last or is_save_asked or done % config.checkpoint_every == 0
            is_eval_step = done % config.eval_every == 0 and not is_last and bool(config.evaluators)

            # The host learns here whether the steps so far were finite, before anything is kept.
            if (is_log_step or is_checkpoint_step or is_eval_step) and bad_step.item():
                raise UserError(
                    f"the loss or its gradient is not finite at step {bad_step.item()}; the weights were not "
                    f"updated since. Try a lower --learning-rate (--max-skipped-steps is "
                    f"{config.max_skipped_steps})"
                )
            if is_log_step and context.is_main_process:
                elapsed_s, steps = time.perf_counter() - start, done - first_step
                metrics = {
                    "step": done,
                    "loss": value.item(),
                    "grad_norm": grad_norm.item(),
                    "learning_rate": config.learning_rate * factor,
                    "logit_scale": model.logit_scale.exp().item(),
                    "pairs_per_s": steps * config.batch_size / elapsed_s,
                    "step_time": elapsed_s / steps,
                    "data_time": data_s / steps,
                    "cut_texts": num_cut,
                    "rejected": num_rejected,
                    "skipped_steps": num_bad.item(),
                    "elapsed_s": elapsed_s,
                }
                folder.append_metrics(metrics)
                bar.set_postfix_str(
                    f"loss {metrics['loss']:.2f}, {metrics['pairs_per_s']:.0f} pairs/s, "
                    f"data {data_s / elapsed_s:.0%} of the time"
                )
            if is_checkpoint_step and context.is_main_process:
                folder.save_checkpoint(done, model, loss_module, optimizer, fingerprints, average)
            if is_checkpoint_step:
                requests.saved()
            if is_stopped and not is_last:
                name = signal.Signals(requests.signal).name
                message = f"stopped by {name} after step {done}, whose checkpoint is saved; --resume goes on"
                raise Stopped(requests.signal, message)
            if is_eval_step and context.is_main_process:
                paused = time.perf_counter()
                folder.append_evaluation(done, suite.evaluate(used, evaluators))
                start += time.perf_counter() - paused  # evaluation is not part of the speed

        # Results
        requests.close()
        bar.close()
        if num_rejected:
            print(f"{num_rejected} examples could not be read: see {folder.rejected_file}")
        if context.is_main_process and evaluators:
            results = suite.evaluate(used, evaluators)
            folder.append_evaluation(config.steps, results)
            files = suite.report(
                folder.path, results, used, evaluators, run=folder.path.name, step=config.steps
            )
            print(f"\n{suite.table(results)}\n\nwritten to {', '.join(map(str, files))}")
    return used.eval()


def keep_freed_memory() -> None:
    """Raise glibc's mmap threshold to 32 MiB, so that the memory of freed activations is reused.

    Larger blocks than the threshold are returned to the system when they are freed, and mapped again page by
    page, which takes 8 % of a step of the emoji recipe on two cores. glibc raises the threshold to the size
    of the largest block that was freed, up to 32 MiB; other C libraries are not affected.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)
