"""One optimizer step of the emoji recipe, and the batch it needs.

    pytest bench/suites/bench_train.py

In float32 and under bfloat16 autocast; with all patches of a text or the inked ones, on canvases of several
sizes, with and without half of each photograph; and of the models that CLIPPO is compared with. With pairs of
sentences in the place of some of the pictures (`clippo data fetch texts`) against pictures alone: each step,
and each batch, is timed right after one of pictures alone, so that a change in the load of the machine hits
both. The times of these are those of the processor, on one thread.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from clippo.data.loader import Batch, Batches
from clippo.data.mixture import MixtureConfig
from clippo.data.order import order_of
from clippo.data.packages import PackagesConfig
from clippo.errors import UserError
from clippo.evaluation.intervals import bootstrap
from clippo.model import ByteTextConfig, Clippo, RenderedTextConfig
from clippo.model.packing import PackedPatches, patch_dropout
from clippo.model.variants import named_config
from clippo.recipes.emoji import recipe
from clippo.renderer import AlignedRendererConfig
from clippo.training.config import TrainConfig
from clippo.training.finite import FiniteCheck
from clippo.training.flops import step_flops
from clippo.training.losses import SoftmaxLossConfig
from clippo.training.parallel import DistributedContext
from clippo.training.state import TrainState, build_model
from clippo.training.trainer import take_step
from clippo.training.watch import image_lengths_of, text_lengths_of
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


# Pairs of sentences in the place of pictures.

SENTENCES = PackagesConfig()
HALF = MixtureConfig(sources=(CONFIG.data, SENTENCES), shares=(1.0, 1.0))
MIXED = {
    "pictures and names": CONFIG,  # against themselves: the ratio shows how well it is measured
    "half pairs of sentences": dataclasses.replace(CONFIG, data=HALF),
    "half pairs of sentences, loss within kinds": dataclasses.replace(
        CONFIG, data=HALF, loss=SoftmaxLossConfig(within_kinds=True)
    ),
    "pairs of sentences": dataclasses.replace(CONFIG, data=SENTENCES),
}


@pytest.fixture
def sentences() -> None:
    try:
        _ = SENTENCES.file
    except UserError as error:
        pytest.skip(str(error))


def steps_of(config: TrainConfig) -> tuple[Callable[[], Any], list[Batch]]:
    """A function that takes the next step of a training on one process, and the batches it goes through."""
    batches, _ = batches_of(config)
    ready = [batches.read(step) for step in range(STEPS)]
    context = DistributedContext(0, 1, torch.device("cpu"))
    state = TrainState.build(config, build_model(config), config.loss.build(), context)
    check, numbers = FiniteCheck(0, context), itertools.count()

    def step() -> None:
        number = next(numbers)
        take_step(state, ready[number % STEPS], number, config, context, check)

    return step, ready


def measure_against(benchmark: Any, call: Callable[[], Any], other: Callable[[], Any], rounds: int) -> None:
    """Time a call right after each of another one, and keep the median of the ratios of neighbours."""
    seconds_of_other: list[float] = []

    def setup() -> None:
        start = time.process_time()
        other()
        seconds_of_other.append(time.process_time() - start)

    benchmark.pedantic(call, setup=setup, rounds=rounds, warmup_rounds=3)
    ratios = np.array(benchmark.stats.stats.data) / seconds_of_other[-rounds:]
    ratio = bootstrap(np.median, ratios)
    benchmark.extra_info |= {"ratio": float(ratio), "ratio_low": ratio.low, "ratio_high": ratio.high}


def flops_of(config: TrainConfig, ready: Sequence[Batch]) -> tuple[float, float]:
    """FLOPs of a step, and patches that the tower reads of a pair, on average."""
    lengths = [(image_lengths_of(b, config.model, 0.0), text_lengths_of(b, config.model)) for b in ready]
    patches = sum(int(own.sum()) for both in lengths for own in both)
    flops = sum(step_flops(config.model, *both) for both in lengths)
    return flops / len(ready), patches / len(ready) / config.batch_size


@cache
def sentence_lengths_of_b16() -> Tensor:
    """The patches that 2,000 sentences, drawn at random, take at 224 px, (2000,)."""
    model = named_config("clippo-b16")
    text_input = RenderedTextConfig(tokens="inked").build(model, AlignedRendererConfig().build(224))
    source = SENTENCES.build("train")
    rows = np.random.default_rng(0).choice(len(source), 1000, replace=False).tolist()
    texts = [text.text for row in rows for text in source[row].texts]
    tokens = text_input.tokenize(texts)
    assert isinstance(tokens, PackedPatches)
    return tokens.varlen.cu_seqlens.diff()


def flops_of_b16(text_share: float, *, is_inked: bool) -> tuple[float, float]:
    """FLOPs of a step of 1,000 pairs of a B/16 at 224 px, and patches of a pair; captions are as long as
    sentences.
    """
    model = named_config("clippo-b16")
    lengths = sentence_lengths_of_b16() if is_inked else torch.full((2000,), model.num_patches)
    num_texts = round(1000 * text_share)
    images, texts = torch.full((1000 - num_texts,), model.num_patches), lengths[: 1000 + num_texts]
    return step_flops(model, images, texts), float(images.sum() + texts.sum()) / 1000


@pytest.mark.usefixtures("one_thread", "sentences")
@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("name", MIXED)
def test_pairs_of_sentences(benchmark: Any, name: str) -> None:
    config = MIXED[name]
    (pictures, alone), (mixed, ready) = steps_of(CONFIG), steps_of(config)
    benchmark.group = f"training step, {CONFIG.model.image_size} px, one thread"
    measure_against(benchmark, mixed, pictures, rounds=2 * STEPS)
    keep(benchmark, name, config.batch_size)
    flops, patches = flops_of(config, ready)
    benchmark.extra_info |= {"patches": patches, "flops_ratio": flops / flops_of(CONFIG, alone)[0]}
    for tokens in ("all", "inked"):
        flops, patches = flops_of_b16(config.data.text_share, is_inked=tokens == "inked")
        alone_flops, _ = flops_of_b16(0.0, is_inked=tokens == "inked")
        benchmark.extra_info |= {
            f"b16_{tokens}_patches": patches, f"b16_{tokens}_flops_ratio": flops / alone_flops
        }  # fmt: skip


@pytest.mark.usefixtures("one_thread", "sentences")
@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("name", [name for name in MIXED if "within" not in name])
def test_batch_of_sentences(benchmark: Any, name: str) -> None:
    (pictures, _), (mixed, _) = batches_of(CONFIG), batches_of(MIXED[name])
    counts = itertools.count(), itertools.count()
    benchmark.group = f"training batch, {CONFIG.model.image_size} px, one thread"
    measure_against(
        benchmark, lambda: mixed.read(next(counts[0])), lambda: pictures.read(next(counts[1])), rounds=20
    )
    keep(benchmark, name, CONFIG.batch_size)
