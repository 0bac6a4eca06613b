"""One optimizer step of the emoji recipe, and the batch it needs.

    pytest bench/suites/bench_train.py

In float32 and under bfloat16 autocast; with all patches of a text or the inked ones, on canvases of several
sizes, with and without half of each photograph; and of the models that CLIPPO is compared with.
"""

import dataclasses
import itertools
from typing import Any, Literal

import pytest
import torch

from clippo.data.loader import Batches
from clippo.data.order import order_of
from clippo.model import ByteTextConfig, Clippo, RenderedTextConfig
from clippo.model.packing import patch_dropout
from clippo.recipes.emoji import recipe
from clippo.training.config import TrainConfig
from clippo_kernels import contrastive_loss

CONFIG = recipe()
STEPS = 8


def batches_of(config: TrainConfig) -> tuple[Batches, Clippo]:
    """The batches of a run by step, and its model."""
    torch.manual_seed(0)
    size = config.model.image_size
    source = config.data.build("train", image_size=size)
    is_rendered = isinstance(config.model.text, RenderedTextConfig)
    model = Clippo(config.model, config.renderer.build(size) if is_rendered else None)
    order = order_of(source, config.batch_size, seed=0)
    batches = Batches(
        source, order, config.transform.build(size), model.text_input,
        rows=slice(0, config.batch_size), steps=range(1000), seed=0,
    )  # fmt: skip
    return batches, model


def measure(benchmark: Any, name: str, config: TrainConfig, dtype: torch.dtype = torch.float32) -> None:
    """Steps over batches of different texts, which are made before."""
    batches, model = batches_of(config)
    ready = itertools.cycle([batches.read(step) for step in range(STEPS)])
    optimizer = config.optimizer.build(model.named_parameters(), model.config)

    def step() -> None:
        kept, batch = None, next(ready)
        if config.patch_dropout:
            kept = patch_dropout(config.batch_size, config.model.num_patches, config.patch_dropout)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            z_images, z_texts = model(batch.images, batch.texts, kept, batch.text_mask)
        loss = contrastive_loss(z_images, z_texts, model.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    half = ", half of each photograph" if config.patch_dropout else ""
    benchmark.group = f"training step, {config.model.image_size} px{half}"
    benchmark.pedantic(step, rounds=2 * STEPS, warmup_rounds=3)
    keep(benchmark, name, config.batch_size)


def keep(benchmark: Any, name: str, pairs: int) -> None:
    seconds = benchmark.stats["median"]
    benchmark.extra_info |= {"name": name, "median_us": 1e6 * seconds, "pairs_per_s": round(pairs / seconds)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dtype(benchmark: Any, dtype: torch.dtype) -> None:
    tower = dataclasses.replace(CONFIG.model, text=RenderedTextConfig(tokens="all"))
    measure(benchmark, f"all, {dtype}", dataclasses.replace(CONFIG, model=tower), dtype)


@pytest.mark.parametrize("tokens", ["all", "inked"])
@pytest.mark.parametrize("dropped", [0.0, 0.5], ids=["whole", "half"])
@pytest.mark.parametrize("canvas_px", [64, 96, 128, 160])
def test_text_tokens(benchmark: Any, canvas_px: int, dropped: float, tokens: Literal["all", "inked"]) -> None:
    text = RenderedTextConfig(tokens=tokens)
    tower = dataclasses.replace(CONFIG.model, image_size=canvas_px, text=text)
    measure(benchmark, tokens, dataclasses.replace(CONFIG, model=tower, patch_dropout=dropped))


@pytest.mark.parametrize("num_towers", [1, 2])
def test_bytes(benchmark: Any, num_towers: Literal[1, 2]) -> None:
    tower = dataclasses.replace(CONFIG.model, text=ByteTextConfig(), num_towers=num_towers)
    name = {1: "1T", 2: "two towers"}[num_towers]
    measure(benchmark, name, dataclasses.replace(CONFIG, model=tower))


def test_batch(benchmark: Any) -> None:
    batches, _ = batches_of(CONFIG)
    steps = iter(range(1000))
    benchmark.group = "training batch"
    benchmark.pedantic(lambda: batches.read(next(steps)), rounds=20, warmup_rounds=3)
    keep(benchmark, "clippo", CONFIG.batch_size)
