"""Batches for training: read, transformed and tokenised in worker processes."""

from __future__ import annotations

import multiprocessing
import signal
from bisect import bisect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from itertools import accumulate, islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from clippo.data.base import BrokenExampleError, Example, Source, Text
from clippo.data.decode import pixels_of
from clippo.data.order import Order
from clippo.data.pairs import FirstSides
from clippo.data.text_augment import TextAugment
from clippo.data.transform import Transform
from clippo.errors import UserError
from clippo.model.packing import PackedPatches
from clippo.model.text_input import TextInput
from clippo.seeds import generator, generators

__all__ = ["Batch", "Batches", "load", "made_ahead", "worker_deaths_explained"]

PREFETCHED_BYTES = 2**31  # of the batches that wait, for each process that trains
MAX_ATTEMPTS = 100  # to find an example that can be read

Item = TypeVar("Item")


class Batch(NamedTuple):
    """The examples of a step that belong to one process.

    Attributes:
        images: (B, S, S, 3) uint8; `FirstSides` if some of the pairs are pairs of texts.
        texts: what the text input of the model gave, such as (B, S, S) uint8 rendered text, or its patches.
        text_mask: (B, N) bool, the tokens of the texts, such as the patches that hold ink; None for all.
        labels: (B,) int64, equal for equal texts, as the source gave them.
        num_cut: texts that were too long and were cut.
        rejected: keys of examples that could not be read, and why. Others have taken their places.
    """

    images: Tensor | FirstSides
    texts: Tensor | PackedPatches
    text_mask: Tensor | None
    labels: Tensor
    num_cut: int
    rejected: Sequence[tuple[str, str]]

    @property
    def is_text(self) -> Tensor:
        """(B,) bool on the CPU, whether both sides of a pair are texts."""
        if isinstance(self.images, FirstSides):
            return self.images.is_text
        return torch.zeros(len(self.images), dtype=torch.bool)


class Batches(Dataset[Batch | Exception]):
    """The batches of a run by step. A batch is a function of the seed and the step alone.

    Args:
        source: the examples.
        order: says which examples are in a batch.
        transform: turns their images into pixels.
        text_input: turns their texts into arrays. On the CPU.
        rows: the rows of a batch that belong to this process.
        steps: the steps of which `load` gives the batches.
        seed: of the run.
        text_augment: changes the texts at random; None leaves them as they are.
    """

    def __init__(
        self,
        source: Source,
        order: Order,
        transform: Transform,
        text_input: TextInput,
        *,
        rows: slice,
        steps: range,
        seed: int,
        text_augment: TextAugment | None = None,
    ) -> None:
        self.source = source
        self.order = order
        self.transform = transform
        self.text_input = text_input
        self.rows = rows
        self.steps = steps
        self.seed = seed
        self.text_augment = text_augment

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def batch_bytes(self) -> int:
        """Bytes of the images of a batch, and of texts that are drawn as large as they."""
        num_rows: int = self.rows.stop - self.rows.start
        return num_rows * self.transform.image_size**2 * 4

    def transform_of(self, step: int) -> Transform:
        """The transform of the images of a step."""
        return self.transform

    def __getitem__(self, number: int) -> Batch | Exception:
        try:
            return self.read(self.steps[number])
        except Exception as error:  # see `made_ahead`
            return error

    def read(self, step: int) -> Batch:
        indices = self.order(step).tolist()
        rngs = generators(self.seed, "examples", step, count=len(indices))
        images: list[np.ndarray] = []
        texts: list[str] = []
        first_texts: list[str] = []
        is_text: list[bool] = []
        rejected: list[tuple[str, str]] = []
        for row, rng in islice(enumerate(rngs), self.rows.start, self.rows.stop):
            example, pixels = self.readable(step, row, indices, rejected)
            is_text.append(pixels is None)
            if pixels is None:
                first_texts.append(example.texts[0].text)
                texts.append(example.texts[1].text)
            else:
                texts.append(choose(example.texts, rng))
                images.append(self.transform_of(step)(pixels, rng))
        cut = self.text_input.num_cut
        rows = np.arange(self.rows.start, self.rows.stop)[: len(texts)]
        tokens, mask = self.tokens_of(texts, step, rows)
        first: Tensor | FirstSides
        if images:
            first = torch.from_numpy(np.stack(images))
        else:
            size = self.transform_of(step).image_size
            first = torch.zeros(0, size, size, 3, dtype=torch.uint8)
        if first_texts:
            first_tokens = self.tokens_of(first_texts, step, rows[is_text], is_first=True)
            first = FirstSides(first, *first_tokens, torch.tensor(is_text))
        labels = torch.tensor([label_of(text) for text in texts])
        return Batch(first, tokens, mask, labels, self.text_input.num_cut - cut, rejected)

    def tokens_of(
        self, texts: Sequence[str], step: int, rows: np.ndarray, *, is_first: bool = False
    ) -> tuple[Tensor | PackedPatches, Tensor | None]:
        """Augment the texts of some rows of a batch, and make tokens and their mask of them.

        Args:
            texts: B strings.
            step: of the batch.
            rows: (B,) the row of each text. They, the step and the seed decide on the random changes.
            is_first: whether they are the first texts of pairs, which change in other ways than the second.
        """
        augment = self.text_augment
        if augment is None:
            tokens = self.text_input.tokenize(texts)
            return tokens, self.text_input.mask(tokens)
        path = ("first texts" if is_first else "texts", step)
        rngs = [generator(self.seed, *path, row) for row in rows.tolist()]
        changed = [augment.perturb(text, rng) for text, rng in zip(texts, rngs, strict=True)]
        drawn = np.stack([augment.draw(rng) for rng in rngs])
        tokens = augment.move(self.text_input.tokenize(changed), drawn)
        # A mask is of the patches that differ from the renderer's own background.
        mask = self.text_input.mask(tokens)
        return augment.shaded(tokens, drawn), mask

    def readable(
        self, step: int, row: int, indices: Sequence[int], rejected: list[tuple[str, str]]
    ) -> tuple[Example, np.ndarray | None]:
        """The example in a row of a batch and its pixels, or another one in the place of a broken one.

        A pair of texts has no pixels.

        Args:
            step, row: of the batch, and in it. They and the seed decide which example takes the place.
            indices: the examples of the batch.
            rejected: gets the key of each broken example and what is wrong with it.

        Raises:
            UserError: one after the other is broken.
        """
        index = indices[row]
        for attempt in range(MAX_ATTEMPTS):
            try:
                example = self.source[index]
                if example.image is None:
                    return example, None
                return example, pixels_of(example, at_least=self.transform_of(step).decode_at_least)
            except BrokenExampleError as error:
                rejected.append((error.key, error.reason))
            rng = generator(self.seed, "instead", step, row, attempt)
            # A batch should not hold an example twice, but a small source may have no other.
            others = (i for i in rng.integers(len(self.source), size=20).tolist() if i not in indices)
            index = next(others, indices[row - 1])
        key, reason = rejected[-1]
        raise UserError(f"{MAX_ATTEMPTS} examples in a row are broken; the last is {key}: {reason}")


def label_of(text: str) -> int:
    """A checksum of 63 bits: two of a million texts share one with a probability of 1e-7."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()) >> 1


def choose(texts: tuple[Text, ...], rng: np.random.Generator) -> str:
    """Draw one of the texts of an example by their weights."""
    bounds = list(accumulate(text.weight for text in texts))
    return texts[bisect(bounds, rng.random() * bounds[-1], hi=len(bounds) - 1)].text


def load(batches: Batches, *, workers: int, pin_memory: bool = False) -> Iterator[Batch]:
    """Give the batches in the order of their steps.

    Args:
        batches: by step.
        workers: processes that make them ahead, up to four each and at most 2 GiB in all, but at least one
            each; 0 makes each when it is asked for.
        pin_memory: copy them to memory from which a GPU reads faster.

    Raises:
        Exception: what went wrong with a batch, when its turn comes.
        UserError: a worker was killed.
    """
    for batch in made_ahead(batches, workers=workers, item_bytes=batches.batch_bytes, pin_memory=pin_memory):
        yield Batch(*batch)


def made_ahead(
    items: Dataset[Item | Exception], *, workers: int, item_bytes: int, pin_memory: bool = False
) -> Iterator[Item]:
    """Give the items of a data set in their order, made in worker processes.

    Args:
        items: gives what went wrong in the place of an item; DataLoader would bury the message of an error in
            a traceback of the worker.
        workers, pin_memory: as of `load`.
        item_bytes: about the size of an item.

    Raises:
        Exception: what went wrong with an item, when its turn comes.
        UserError: a worker was killed.
    """
    loader = DataLoader(
        items,
        batch_size=None,  # an item is a batch already
        num_workers=workers,
        # A fork of a process in which PyTorch has started its threads may hang.
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=prepare_worker if workers else None,
        pin_memory=pin_memory,
        prefetch_factor=prefetched(item_bytes, workers) if workers else None,
    )
    made = iter(loader)
    while True:
        try:
            with worker_deaths_explained():
                item = next(made)
        except StopIteration:
            return
        if isinstance(item, Exception):
            raise item
        yield item


def prefetched(item_bytes: int, workers: int) -> int:
    """How many items each worker makes ahead: one to four, so that all fit into PREFETCHED_BYTES."""
    return max(1, min(4, PREFETCHED_BYTES // (workers * item_bytes)))


@contextmanager
def worker_deaths_explained() -> Iterator[None]:
    """Make one clear error of the death of a worker, which PyTorch raises wherever the program is then.

    Raises:
        UserError: a worker was killed.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        for worker in multiprocessing.active_children():  # the others would complain that nobody listens
            worker.kill()
        raise UserError(f"a worker that reads data ended, as when memory runs out: {error}") from error


def prepare_worker(worker: int) -> None:
    """Leave Ctrl-C to the process that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
