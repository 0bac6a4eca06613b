import os
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clippo.data.base import BrokenExampleError, Example, Source, Text
from clippo.data.loader import Batches, choose, load, prefetched, worker_deaths_explained
from clippo.data.order import ShuffledOrder, WeightedOrder
from clippo.data.transform import PlaceConfig
from clippo.errors import UserError
from clippo.model import ByteTextConfig, Clippo, ClippoConfig, RenderedTextConfig
from clippo.renderer import AlignedRenderer, UnifontRenderer

TEXTS = (Text("one", "en", 0.5), Text("eins", "de", 0.3), Text("never", "en", 0.0), Text("un", "fr", 0.2))


class Squares(Source):
    """Squares of as many grey levels as there are examples."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Example:
        if index == 13:
            raise OSError("the disk of 13 is gone")
        return Example(f"square {index}", np.full((32, 32, 3), index, np.uint8), TEXTS)


UNBROKEN = np.where(np.arange(40) == 13, 0.0, 1.0)  # weights
SIZES = ClippoConfig(width=16, depth=1, mlp_dim=16, num_heads=2, patch_size=16, image_size=32, embed_dim=8)


def batches_of(
    *,
    steps=range(4),
    rows=slice(0, 8),
    seed=0,
    text=None,
    weights=UNBROKEN,
    renderer=UnifontRenderer,
    source=Squares,
):
    config = replace(SIZES, text=text or RenderedTextConfig(tokens="inked"))
    text_input = Clippo(config, None if isinstance(text, ByteTextConfig) else renderer(32)).text_input
    order = ShuffledOrder(40, 8, seed=seed) if weights is None else WeightedOrder(weights, 8, seed=seed)
    transform = PlaceConfig(strength=0.5).build(32)
    return Batches(source(), order, transform, text_input, rows=rows, steps=steps, seed=seed)


def same(one, other) -> bool:
    assert one.num_cut == other.num_cut
    return all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))


class Pairs(Source):
    """Squares, and pairs of texts in every third place."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Example:
        if index % 3 == 0:
            return Example(f"pair {index}", None, (Text(f"a{index}"), Text(f"b{index}")))
        return Example(f"square {index}", np.full((32, 32, 3), index, np.uint8), (Text(f"b{index}"),))


@pytest.mark.parametrize("renderer", [pytest.param(UnifontRenderer, marks=pytest.mark.slow), AlignedRenderer])
def test_pairs_of_texts_have_two_texts(renderer):
    batches = batches_of(
        source=Pairs, weights=None, renderer=renderer, text=RenderedTextConfig(tokens="inked")
    )
    batch, indices = batches.read(0), batches.order(0).tolist()
    first = batch.images
    assert batch.is_text.tolist() == first.is_text.tolist() == [index % 3 == 0 for index in indices]
    assert len(first.images) + len(first.texts) == len(batch.texts) == len(first) == 8
    expected = batches.text_input.tokenize([f"a{index}" for index in indices if index % 3 == 0])
    if renderer is UnifontRenderer:
        assert torch.equal(first.texts, expected)
        assert torch.equal(first.text_mask, batches.text_input.mask(expected))
    else:
        assert torch.equal(first.texts.pixels, expected.pixels)
    parts = [batches_of(source=Pairs, weights=None, rows=rows).read(0) for rows in (slice(0, 3), slice(3, 8))]
    assert [len(part.images) for part in parts] == [3, 5]


def test_batches_have_images_texts_and_the_tokens_of_the_texts():
    [batch] = load(batches_of(steps=range(1)), workers=0)
    assert batch.images.shape == (8, 32, 32, 3)
    assert batch.texts.shape == (8, 32, 32)
    assert batch.images.dtype == batch.texts.dtype == torch.uint8
    assert batch.text_mask.shape == (8, 4)
    assert 0 < batch.text_mask.float().mean() < 1
    [batch] = load(batches_of(steps=range(1), text=ByteTextConfig(max_bytes=6)), workers=0)
    assert batch.texts.shape == batch.text_mask.shape == (8, 6)
    [batch] = load(batches_of(steps=range(1), text=RenderedTextConfig(tokens="all")), workers=0)
    assert batch.text_mask is None


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_patch_aligned_texts_come_as_their_patches(workers):
    [batch] = load(batches_of(steps=range(1), renderer=AlignedRenderer), workers=workers)
    assert len(batch.texts) == len(batch.images) == 8
    assert batch.texts.pixels.shape[1:] == (16, 16)
    assert batch.text_mask is None


def test_a_batch_follows_from_the_seed_and_the_step():
    whole = list(load(batches_of(), workers=0))
    late = list(load(batches_of(steps=range(2, 4)), workers=0))
    assert all(same(a, b) for a, b in zip(whole[2:], late, strict=True))
    assert not same(whole[0], whole[1])
    assert not same(whole[0], next(iter(load(batches_of(seed=1), workers=0))))


def test_processes_share_a_batch_by_rows():
    whole = next(iter(load(batches_of(), workers=0)))
    parts = [next(iter(load(batches_of(rows=slice(i, i + 2)), workers=0))) for i in range(0, 8, 2)]
    for name in ("images", "texts", "text_mask"):
        together = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(together, getattr(whole, name))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.slow
def test_workers_give_the_same_batches(workers):
    expected = list(load(batches_of(), workers=0))
    found = list(load(batches_of(), workers=workers))
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_error_comes_in_its_turn_with_its_own_message(workers):
    batches = load(batches_of(weights=None, steps=range(5)), workers=workers)
    with pytest.raises(OSError, match="^the disk of 13 is gone$"):
        list(batches)


class Fatal(Squares):
    """A source whose fourth example kills the process that reads it."""

    def __getitem__(self, index):
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def read_with_a_worker_that_dies():
    with worker_deaths_explained():
        list(load(batches_of(source=Fatal), workers=1))


@pytest.mark.slow
def test_a_worker_that_is_killed_is_one_line():
    """A process of its own reads: PyTorch's handler of SIGCHLD may raise later, in another test, again."""
    code = "from test_loader import read_with_a_worker_that_dies as read; read()"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert re.match(r"clippo\.errors\.UserError: a worker that reads data ended, .*DataLoader", last)


def test_a_death_is_told_wherever_the_program_is():
    """PyTorch raises from the handler of a signal."""
    told = pytest.raises(UserError, match=r"a worker that reads data ended, .*pid 7\) is killed")
    with told, worker_deaths_explained():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    with pytest.raises(RuntimeError, match="^anything else$"), worker_deaths_explained():
        raise RuntimeError("anything else")


def test_no_more_is_made_ahead_than_fits_into_memory():
    assert batches_of().batch_bytes == 8 * 32 * 32 * 4
    assert prefetched(batches_of().batch_bytes, workers=2) == 4
    assert prefetched(2**29, workers=2) == 2
    assert prefetched(2**31, workers=8) == 1


class Broken(Squares):
    """A source in which some examples are broken: the numbers below `below`."""

    below = 3

    def __getitem__(self, index):
        if index < self.below:
            raise BrokenExampleError(f"square {index}", "no file")
        if index == 20:
            return Example("square 20", b"no picture", TEXTS)
        return Example(f"square {index}", np.full((32, 32, 3), index, np.uint8), TEXTS)


def test_another_example_takes_the_place_of_a_broken_one():
    whole = list(load(batches_of(source=Broken, weights=None, steps=range(5)), workers=0))
    rejected = dict(pair for batch in whole for pair in batch.rejected)
    assert rejected.keys() == {"square 0", "square 1", "square 2", "square 20"}
    assert rejected["square 0"] == "no file"
    assert rejected["square 20"].startswith("not a picture in JPEG")
    order = ShuffledOrder(40, 8)
    for step, batch in enumerate(whole):
        grey = batch.images[:, 16, 16, 0].tolist()  # PlaceConfig moves the square, but not off its middle
        for row, index in enumerate(order(step).tolist()):
            is_broken = index in (0, 1, 2, 20)
            assert (grey[row] == index) != is_broken
        assert len(set(grey)) == 8


@pytest.mark.slow
def test_the_replacement_follows_from_the_seed_the_step_and_the_row():
    whole = next(iter(load(batches_of(source=Broken, weights=None), workers=0)))
    parts = [
        next(iter(load(batches_of(source=Broken, weights=None, rows=slice(i, i + 2)), workers=0)))
        for i in range(0, 8, 2)
    ]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert [pair for part in parts for pair in part.rejected] == list(whole.rejected)


class AllBroken(Broken):
    below = 40


def test_labels_are_equal_for_equal_texts():
    [batch] = load(batches_of(steps=range(1)), workers=0)
    texts = batch.texts.reshape(8, -1)
    same_text = (texts[:, None] == texts).all(2)
    assert torch.equal(batch.labels[:, None] == batch.labels, same_text)
    assert same_text.sum() - 8 > 1
    assert torch.equal(next(iter(load(batches_of(steps=range(1), seed=0), workers=0))).labels, batch.labels)


def test_a_source_without_anything_that_can_be_read_is_said():
    with pytest.raises(UserError, match="100 examples in a row are broken; the last is square .*: no file"):
        next(iter(load(batches_of(source=AllBroken, weights=None), workers=0)))


def test_texts_are_drawn_by_their_weights():
    rng = np.random.default_rng(0)
    shares = Counter(choose(TEXTS, rng) for _ in range(4000))
    assert shares["never"] == 0
    for text in TEXTS:
        assert shares[text.text] / 4000 == pytest.approx(text.weight, abs=0.03)
