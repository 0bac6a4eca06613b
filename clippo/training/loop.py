"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from clippo.data.emoji import EmojiDataset
from clippo.errors import UserError
from clippo.evaluation.report import report
from clippo.model import Clippo, RenderedTextConfig
from clippo.model.packing import patch_dropout
from clippo.model.text_input import ByteTokenizer
from clippo.renderer import RenderPool, UnifontRenderer
from clippo.training.config import TrainConfig
from clippo.training.distributed import join_processes
from clippo.training.optimizer import learning_rate, make_optimizer
from clippo.training.run_folder import RunFolder
from clippo_kernels import cached_contrastive_step, contrastive_loss


def train(config: TrainConfig, out: str | Path, *, resume: bool = False) -> Clippo:
    """Train a Clippo and leave checkpoints and metrics in a folder.

    Every batch, and what patch dropout leaves of it, follows from the seed and the step alone, so a run that
    was cut off and resumed ends with the same weights, bit for bit on a CPU, as one that was not.

    Args:
        config: the run.
        out: its folder; see `clippo.training.run_folder`.
        resume: go on from the newest checkpoint in `out`, where there is one.

    Returns:
        The trained model.

    Raises:
        UserError: see `RunFolder.create`; images too small for text; a batch that does not divide among the
            processes, or is larger than the data set; a loss that is no number.
    """
    folder = RunFolder(out)
    with ExitStack() as stack:
        processes = stack.enter_context(join_processes())
        # -- data
        part = processes.part(config.batch_size)
        try:
            renderer = UnifontRenderer(config.model.image_size)
        except ValueError as error:
            raise UserError(f"image_size is too small to render text: {error}") from error
        # What turns batches of strings into arrays; the workers get ready while the data set is read.
        if isinstance(config.model.text, RenderedTextConfig):
            share = len(range(config.batch_size)[part])
            pool = RenderPool(renderer, workers=config.render_workers, batch_size=share)
            text_arrays: Callable[..., Iterator[np.ndarray]] = stack.enter_context(pool).map
        else:
            text_arrays = partial(map, ByteTokenizer(config.model.text.max_bytes))
        dataset = EmojiDataset(config.data, renderer, seed=config.seed)
        trained = int((~dataset.held_out).sum())
        if config.batch_size > trained:
            raise UserError(f"batch_size must be at most {trained}, the concepts, got {config.batch_size}")

        # -- model and optimizer
        torch.manual_seed(config.seed)
        device = processes.device
        is_rendered = isinstance(config.model.text, RenderedTextConfig)
        model = Clippo(config.model, renderer if is_rendered else None).to(device)
        model.init_weights(residual_scale=config.residual_scale)
        model.tower.encoder.grad_checkpointing = config.grad_checkpointing
        optimizer = make_optimizer(model, config)
        if processes.is_first:
            folder.create(config, resume=resume)
        first_step = folder.load_checkpoint(model, optimizer)
        if processes.is_first:
            folder.drop_metrics_after(first_step)
            parameters = sum(parameter.numel() for parameter in model.parameters())
            print(
                f"{folder.path}: {parameters / 1e6:.2f} M parameters, {trained} emoji in "
                f"{len(config.data.languages)} languages, {len(dataset.held_out) - trained} more held out"
            )

        # bfloat16 on a CPU costs more in casts than it saves in products at widths trained there.
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

        def embed(images: torch.Tensor, texts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            kept = None
            if config.patch_dropout:
                kept = patch_dropout(len(images), config.model.num_patches, config.patch_dropout)
            # What arrives on the CPU, such as texts whose ink is looked for, is sent to the device in here.
            with autocast:
                return model(images, texts, kept)

        def loss_of(z_images: torch.Tensor, z_texts: torch.Tensor) -> torch.Tensor:
            with autocast:
                return contrastive_loss(z_images, z_texts, model.logit_scale.exp(), group=processes.group)

        # -- the loop
        with tqdm(
            total=config.steps, initial=first_step, unit="step", disable=not processes.is_first, mininterval=1
        ) as bar:
            batches = dataset.batches(range(first_step, config.steps), config.batch_size, part, text_arrays)
            start = time.perf_counter()
            waited_s = 0.0
            for step in range(first_step, config.steps):
                asked = time.perf_counter()
                images, texts = map(torch.from_numpy, next(batches))
                waited_s += time.perf_counter() - asked

                torch.manual_seed(hash((config.seed, step, processes.rank)))
                optimizer.zero_grad()
                loss = cached_contrastive_step(embed, images, texts, loss_of, chunk_size=config.chunk_size)
                processes.average_gradients(model.parameters())
                gradient_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip_norm)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(step, config)
                optimizer.step()
                with torch.no_grad():
                    model.logit_scale.clamp_(max=math.log(config.max_logit_scale))

                done = step + 1
                bar.update()
                if done % config.log_every == 0 or done == config.steps:
                    elapsed_s = time.perf_counter() - start
                    metrics = {
                        "step": done,
                        "loss": loss.item(),
                        "gradient_norm": gradient_norm.item(),
                        "learning_rate": learning_rate(step, config),
                        "logit_scale": model.logit_scale.exp().item(),
                        "pairs_per_s": (done - first_step) * config.batch_size / elapsed_s,
                        "waiting_for_data": waited_s / elapsed_s,
                        "elapsed_s": elapsed_s,
                    }
                    # Looked at here and not at every step, where it would make a GPU wait for the CPU.
                    if not math.isfinite(metrics["loss"]):
                        raise UserError(
                            f"the loss is {loss.item()} at step {done}; try a lower --learning-rate"
                        )
                    bar.set_postfix_str(
                        f"loss {metrics['loss']:.2f}, {metrics['pairs_per_s']:.0f} pairs/s, "
                        f"waiting for data {metrics['waiting_for_data']:.0%}"
                    )
                    if processes.is_first:
                        folder.append_metrics(metrics)
                if processes.is_first and (done % config.checkpoint_every == 0 or done == config.steps):
                    folder.save_checkpoint(done, model, optimizer)

        # -- what it learned
        if processes.is_first:
            report(model.eval(), dataset, folder)
    return model
