"""Throughput of loading a source, and the time that each stage takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from clippo.data.base import BrokenExampleError, Source
from clippo.data.decode import pixels_of
from clippo.data.loader import Batches, load
from clippo.data.order import order_of
from clippo.data.transform import TransformConfig
from clippo.model import Clippo, ClippoConfig, RenderedTextConfig
from clippo.model.text_input import TextInput
from clippo.renderer import AlignedRenderer
from clippo.seeds import generator

__all__ = ["rates_of_workers", "seconds_of_stages"]


def text_input_of(image_size: int) -> TextInput:
    """The text input of a model that reads the inked patches of 16 px."""
    config = ClippoConfig(
        width=16, depth=1, mlp_dim=16, num_heads=1, patch_size=16, image_size=image_size, embed_dim=16,
        text=RenderedTextConfig(tokens="inked"),
    )  # fmt: skip
    return Clippo(config, AlignedRenderer(image_size)).text_input


def seconds_of_stages(
    source: Source, transform: TransformConfig, image_size: int, count: int = 512
) -> dict[str, float]:
    """Seconds that an example takes on one core, by stage: read, decode, transform and render.

    Args:
        source: the examples, of which `count` are taken in the order of training.
        transform: turns them into pixels, with random changes.
        image_size: side of the images of the model, px.
    """
    order = order_of(source, 1, seed=0)
    indices = [int(order(step)[0]) for step in range(min(count, len(source)))]
    built, text_input = transform.build(image_size), text_input_of(image_size)
    text_input.tokenize(["a cat"])
    seconds = {}
    start = time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal start
        seconds[stage] = (time.perf_counter() - start) / len(indices)
        start = time.perf_counter()

    examples, pixels = [], []
    for index in indices:
        with suppress(BrokenExampleError):
            examples.append(source[index])
    lap("read")
    for example in examples:
        with suppress(BrokenExampleError):
            pixels.append(pixels_of(example, at_least=built.decode_at_least))
    lap("decode")
    for number, image in enumerate(pixels):
        built(image, generator(0, "speed", number))
    lap("transform")
    text_input.tokenize([example.texts[0].text for example in examples])
    lap("render")
    return seconds


def rates_of_workers(
    source: Source,
    transform: TransformConfig,
    image_size: int,
    *,
    batch_size: int,
    workers: Sequence[int],
    count: int,
) -> dict[int, float]:
    """Examples a second that a loader gives, by its number of workers, after its first batches.

    Args:
        source, transform, image_size: as of `seconds_of_stages`.
        batch_size: examples in a batch.
        workers: numbers of processes to try.
        count: batches that each worker gives.
    """
    found = {}
    for number in workers:
        first, steps = 8 * max(1, number), count * max(1, number)
        batches = Batches(
            source, order_of(source, batch_size, seed=0), transform.build(image_size),
            text_input_of(image_size), rows=slice(0, batch_size), steps=range(first + steps), seed=0,
        )  # fmt: skip
        loaded = load(batches, workers=number)
        for _ in range(first):  # what the workers prepare while they start
            next(loaded)
        start = time.perf_counter()
        for _ in loaded:
            pass
        found[number] = steps * batch_size / (time.perf_counter() - start)
    return found
