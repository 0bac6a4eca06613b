"""Dry runs: what a configuration needs, without its data and, on request, without computing anything."""

from __future__ import annotations

import dataclasses
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clippo.data.loader import Batch, Batches
from clippo.data.made_up import MadeUpConfig
from clippo.data.order import order_of
from clippo.training.config import TrainConfig
from clippo.training.finite import FiniteCheck
from clippo.training.flops import peak_of, step_flops
from clippo.training.parallel import DistributedContext
from clippo.training.run_folder import RunFolder
from clippo.training.state import TrainState, build_model
from clippo.training.trainer import take_step, train
from clippo.training.watch import image_lengths_of, text_lengths_of
from clippo_kernels.dispatch import BACKEND_VARIABLE

__all__ = ["dry_run"]

GPU, UTILIZATION = "H100 80GB HBM3", 0.4
LARGEST_COUNTED = 64  # pairs; memory grows in proportion to them


def dry_run(config: TrainConfig, steps: int) -> None:
    """Print what a run needs, and take some of its steps on made-up data.

    The memory is that of one process with the kernels of a GPU. It is counted on PyTorch's meta device, which
    computes nothing.

    Args:
        config: the run.
        steps: to take on this machine; 0 for none.

    Raises:
        UserError: as of `train`.
    """
    data = MadeUpConfig(text_share=config.data.text_share)
    config = dataclasses.replace(config, data=data, evaluators={}, trackers=(), init_from=None)
    if int(os.environ.get("RANK", 0)) == 0:
        print(needs(config))
    if steps:
        short = dataclasses.replace(
            config, steps=steps, warmup_steps=min(config.warmup_steps, steps - 1), log_every=1,
            checkpoint_every=steps, schedule=dataclasses.replace(config.schedule, **shortened(config)),
        )  # fmt: skip
        with TemporaryDirectory() as folder:
            train(short, Path(folder) / "run", resume=True)
            if int(os.environ.get("RANK", 0)) == 0:
                last = RunFolder(Path(folder) / "run").metrics_file.read_text().splitlines()[-1]
                print(f"{steps} steps on made-up data: {last}")


def shortened(config: TrainConfig) -> dict[str, int]:
    return {"cooldown_steps": 0} if hasattr(config.schedule, "cooldown_steps") else {}


def needs(config: TrainConfig) -> str:
    """Describe the parameters, the memory and the FLOPs of a run."""
    pairs = min(config.micro_batch_size, config.batch_size)
    batch = made_up_batch(config, min(LARGEST_COUNTED, pairs))
    held, active = memory(config, batch)
    flops = mean_flops(config, batch)
    total = flops * config.steps
    peak = peak_of(GPU)
    assert peak is not None
    hours = total / (peak * UTILIZATION) / 3600
    parameters = num_parameters(config)
    activations = active * pairs / len(batch.texts)
    return f"""
parameters    {parameters / 1e6:,.1f} M
memory        {held / 2**30:.2f} GiB for weights, gradients and optimizer, which fsdp divides
              {activations / 2**30:.2f} GiB for a micro-batch of {pairs:,} pairs; in bfloat16 about half
a step        {flops / 1e12:,.4g} TFLOP for {config.batch_size:,} pairs
the run       {total:.3g} FLOP for {config.steps:,} steps, {config.steps * config.batch_size:,} pairs
computed      {hours:,.3g} hours of an {GPU}, at {UTILIZATION:.0%} of its {peak / 1e12:.0f} TFLOP/s
""".strip()


def num_parameters(config: TrainConfig) -> int:
    """The number of parameters of a run."""
    with torch.device("meta"):
        model, loss = build_model(config), config.loss.build()
    return sum(parameter.numel() for part in (model, loss) for parameter in part.parameters())


def made_up_batch(config: TrainConfig, pairs: int) -> Batch:
    size = config.model.image_size
    data = MadeUpConfig(count=4 * pairs, text_share=config.data.text_share)
    source = data.build("train", image_size=size)
    model = build_model(config)
    batches = Batches(
        source, order_of(source, pairs, seed=0), config.transform.build(size), model.text_input,
        rows=slice(0, pairs), steps=range(1), seed=0,
    )  # fmt: skip
    return batches.read(0)


def mean_flops(config: TrainConfig, batch: Batch) -> float:
    """FLOPs of a step of the run, whose texts are as long as those of a batch."""
    images = image_lengths_of(batch, config.model, config.patch_dropout)
    texts = text_lengths_of(batch, config.model)
    times = config.batch_size // len(batch.texts)
    return step_flops(config.model, images.repeat(times), texts.repeat(times))


def memory(config: TrainConfig, batch: Batch) -> tuple[int, int]:
    """Bytes of the weights, their gradients and the optimizer, and the most that a step has beside them."""
    context = DistributedContext(0, 1, torch.device("meta"))
    with kernels_on_meta(), LiveBytes() as live:
        with torch.device("meta"):
            model, loss = build_model(config), config.loss.build()
        alone = dataclasses.replace(config, parallel="ddp", compile=False, micro_batch_size=len(batch.texts))
        state = TrainState.build(alone, model, loss, context)
        # Fused kernels alone look at `found_inf`, and there are none for meta tensors.
        state.optimizer.register_step_pre_hook(lambda optimizer, *_: delattr(optimizer, "found_inf"))
        check = FiniteCheck(0, context)
        take_step(state, batch, 0, alone, context, check)
        held = live.now
        state.optimizer.zero_grad()
        before = live.peak = live.now
        take_step(state, batch, 1, alone, context, check)
    return held, live.peak - before


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the meta tensors that are alive.

    Attributes:
        now: bytes.
        peak: the most so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = operator(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, torch.Tensor) and value.is_meta:
                self.add(value.untyped_storage())
        return out

    def add(self, storage: torch.UntypedStorage) -> None:
        if storage not in self.seen:
            self.seen.add(storage)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.free, storage.nbytes())

    def free(self, size: int) -> None:
        self.now -= size


@contextmanager
def kernels_on_meta() -> Iterator[None]:
    """Context in which the operators of the kernels are called on meta tensors, as on a GPU."""
    names = {BACKEND_VARIABLE: "triton", "TRITON_INTERPRET": "1"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
