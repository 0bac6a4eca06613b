"""A whole training step of a CLIPPO B/16 at 224 px: both embeddings, loss, backward, clipping, optimizer.

    python -m clippo.bench.gpu --only training_step     on a GPU

256 pairs in one micro-batch, in bfloat16, with made-up photographs and captions, which come from pinned
memory as a loader gives them. Captions are read as the patches that hold ink, 5 to 20 of them and packed, or
as all 196 patches of their canvas. "eager" is the same model without our kernels, on PyTorch's own attention.
`mfu` is the share of the peak of the GPU's data sheet that the FLOPs of the model take
(clippo/training/flops.py), where that is known. Without a GPU it is skipped.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from clippo.bench.device import DEVICE, ON_GPU, sized
from clippo.bench.harness import Work, measure, timed_on_device
from clippo.data.loader import Batch
from clippo.data.made_up import MadeUpConfig
from clippo.model import Clippo, ClippoConfig, RenderedTextConfig
from clippo.model.packing import PackedPatches, VarlenInfo
from clippo.model.variants import named_config
from clippo.recipes import yfcc100m
from clippo.training.config import TrainConfig
from clippo.training.finite import FiniteCheck
from clippo.training.flops import peak_of, step_flops
from clippo.training.parallel import DistributedContext
from clippo.training.state import TrainState
from clippo.training.trainer import take_step
from clippo.training.watch import image_lengths_of, text_lengths_of
from clippo_kernels.dispatch import BACKEND_VARIABLE

Tokens = Literal["inked", "all"]

B16 = named_config("clippo-b16")
SMALL = ClippoConfig(width=16, depth=1, mlp_dim=16, num_heads=1, patch_size=16, image_size=32, embed_dim=16)
MODEL = sized(gpu=B16, cpu=B16, rehearsal=SMALL)
PAIRS = sized(gpu=256, cpu=256, rehearsal=2)
CONTESTANTS = ("clippo", "eager", "clippo-compiled")
COMPILED = {"clippo-compiled"}  # see conftest.py


def is_main(test: str, parameters: Mapping[str, Any]) -> bool:
    """Whether bench.gpu measures a benchmark among the first."""
    return True


def config_of(tokens: Tokens, *, compile: bool) -> TrainConfig:
    """The published recipe, of one micro-batch."""
    return dataclasses.replace(
        yfcc100m.recipe(MadeUpConfig()),
        model=dataclasses.replace(MODEL, text=RenderedTextConfig(tokens=tokens)),
        batch_size=PAIRS,
        micro_batch_size=PAIRS,
        precision="bfloat16",
        compile=compile,
    )


def pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8).pin_memory()


def batch_of(model: ClippoConfig, tokens: Tokens) -> Batch:
    """A batch of random pixels."""
    S, P = model.image_size, model.patch_size
    texts: Tensor | PackedPatches = pixels(PAIRS, S, S)
    if tokens == "inked":
        lengths = torch.randint(min(5, model.num_patches), min(21, model.num_patches + 1), (PAIRS,))
        cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).int()
        positions = torch.cat([torch.arange(n) for n in lengths.tolist()]).int()
        varlen = VarlenInfo(cu_seqlens, int(lengths.max()))
        texts = PackedPatches(pixels(len(positions), P, P), positions, varlen).pin_memory()
    return Batch(pixels(PAIRS, S, S, 3), texts, None, torch.arange(PAIRS), num_cut=0, rejected=())


def mfu_of(flops: float, seconds: float, device_name: str) -> float | None:
    """The share of the peak of a GPU's data sheet; None where that is not known."""
    peak = peak_of(device_name)
    return None if peak is None else flops / seconds / peak


@pytest.mark.skipif(not ON_GPU, reason="a step takes minutes on a CPU")
@timed_on_device
@pytest.mark.parametrize("tokens", ["inked", "all"])
@pytest.mark.parametrize("name", CONTESTANTS)
def test_step(benchmark: Any, monkeypatch: pytest.MonkeyPatch, name: str, tokens: Tokens) -> None:
    if name == "eager":
        monkeypatch.setenv(BACKEND_VARIABLE, "eager")
    config = config_of(tokens, compile=name in COMPILED)
    batch = batch_of(config.model, tokens)
    benchmark.group = f"training step, {tokens} patches of captions, {PAIRS} pairs"
    benchmark.extra_info.update(name=name, batch=PAIRS)

    def make() -> Callable[[], object]:
        torch.manual_seed(0)
        context = DistributedContext(0, 1, DEVICE)
        model = Clippo(config.model)  # without a renderer, because nothing is drawn
        model.init_weights(residual_scale=config.residual_scale)
        state = TrainState.build(config, model, config.loss.build(), context)
        check, numbers = FiniteCheck(0, context), itertools.count()
        return lambda: take_step(state, batch, next(numbers), config, context, check)

    flops = step_flops(
        config.model, image_lengths_of(batch, config.model, 0.0), text_lengths_of(batch, config.model)
    )
    measure(benchmark, make, Work(0, flops), torch.bfloat16, is_recorded=False)
    seconds = benchmark.stats["median"]
    benchmark.extra_info["pairs_per_s"] = PAIRS / seconds
    benchmark.extra_info["mfu"] = mfu_of(flops, seconds, torch.cuda.get_device_name())
