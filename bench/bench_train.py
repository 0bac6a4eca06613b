"""One optimizer step of the emoji recipe, and the batch it needs.

    pytest bench/bench_train.py

In float32 and under bfloat16 autocast; with all patches of a text or the inked ones, on canvases of several
sizes, with and without half of each photograph; and of the models that CLIPPO is compared with.
"""

import dataclasses
import itertools

import pytest
import torch

from clippo.data.emoji import EmojiConfig, EmojiDataset
from clippo.model import Clippo
from clippo.model.packing import random_patches
from clippo.renderer import UnifontRenderer
from clippo.training import recipes
from clippo.training.baselines import MODELS
from clippo.training.optimizer import make_optimizer
from clippo_kernels import contrastive_loss

CONFIG = recipes.emoji()
BATCHES = 8


def measure(benchmark, name, config, dataset, dtype=torch.float32):
    """Steps over batches of different texts; what they need is ready before."""
    torch.manual_seed(0)
    cls = MODELS[config.baseline]
    model = cls(config.model)
    draw = dataset.renderer if cls is Clippo else model.renderer
    samples = [dataset.sample(number, config.batch_size) for number in range(BATCHES)]
    batches = itertools.cycle(
        [
            (torch.from_numpy(dataset.draw(s.chosen, s.placements)), torch.from_numpy(draw(s.texts)))
            for s in samples
        ]
    )
    optimizer = make_optimizer(model, config)

    def step():
        kept = None
        if config.patch_dropout:
            kept = random_patches(config.batch_size, config.model.num_patches, config.patch_dropout)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            z_images, z_texts = model(*next(batches), kept)
        loss = contrastive_loss(z_images, z_texts, model.logit_scale)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    half = ", half of each photograph" if config.patch_dropout else ""
    benchmark.group = f"training step, {config.model.image_size} px{half}"
    benchmark.pedantic(step, rounds=2 * BATCHES, warmup_rounds=3)
    keep(benchmark, name, config.batch_size)


def keep(benchmark, name, pairs):
    seconds = benchmark.stats["median"]
    benchmark.extra_info |= {"name": name, "median_us": 1e6 * seconds, "pairs_per_s": round(pairs / seconds)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dtype(benchmark, dataset, dtype):
    tower = dataclasses.replace(CONFIG.model, text_tokens="all")
    config = dataclasses.replace(CONFIG, model=tower)
    measure(benchmark, f"all, {dtype}", config, dataset, dtype)


@pytest.mark.parametrize("text_tokens", ["all", "inked"])
@pytest.mark.parametrize("patch_dropout", [0.0, 0.5], ids=["whole", "half"])
@pytest.mark.parametrize("canvas_px", [64, 96, 128, 160])
def test_text_tokens(benchmark, canvas_px, patch_dropout, text_tokens):
    tower = dataclasses.replace(CONFIG.model, image_size=canvas_px, text_tokens=text_tokens)
    config = dataclasses.replace(CONFIG, model=tower, patch_dropout=patch_dropout)
    measure(benchmark, text_tokens, config, EmojiDataset(EmojiConfig(), UnifontRenderer(canvas_px)))


@pytest.mark.parametrize("baseline", ["1t", "two-tower"])
def test_baseline(benchmark, dataset, baseline):
    measure(benchmark, baseline, dataclasses.replace(CONFIG, baseline=baseline), dataset)


def test_batch(benchmark, dataset):
    numbers = iter(range(1000))
    benchmark.group = "training batch"
    benchmark.pedantic(lambda: dataset.batch(next(numbers), CONFIG.batch_size), rounds=20, warmup_rounds=3)
    keep(benchmark, "clippo", CONFIG.batch_size)
