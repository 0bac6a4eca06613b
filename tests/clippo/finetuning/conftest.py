"""A small tower, and a task that it can learn: letters that stand at the beginning of a text."""

import numpy as np
import pytest
import torch

from clippo.evaluation.text_tasks import Part, TextTask
from clippo.finetuning.fine_tuned import About, FineTuned
from clippo.finetuning.tasks import task_of_texts
from clippo.model import Clippo, ClippoConfig, RenderedTextConfig
from clippo.renderer import AlignedRendererConfig
from clippo.seeds import generator

SIZES = {
    "width": 32, "depth": 1, "mlp_dim": 64, "num_heads": 2, "patch_size": 16, "image_size": 48,
    "embed_dim": 32,
}  # fmt: skip


@pytest.fixture
def model() -> Clippo:
    torch.manual_seed(0)
    config = ClippoConfig(**SIZES, text=RenderedTextConfig(tokens="inked"))
    return Clippo(config, AlignedRendererConfig().build(48)).eval()


def part_of_words(count: int, seed: int, words: tuple[str, ...]) -> Part:
    """Texts of a word, by which the class is known, and of random letters."""
    rng = generator(seed, "words")
    labels = rng.integers(0, len(words), count)
    letters = rng.choice([*"abcdefgh"], (count, 4))
    texts = tuple(f"{words[n]} {''.join(own)}" for n, own in zip(labels.tolist(), letters, strict=True))
    return Part(texts, (), labels.astype(np.int64))


@pytest.fixture(scope="session")
def easy_texts() -> TextTask:
    """Which of two words does a text begin with?"""
    train, dev, test = (part_of_words(n, seed, ("mmmm", "iiii")) for n, seed in ((256, 0), (64, 1), (64, 2)))
    return TextTask("easy", train, dev, {"": test}, ("wide", "narrow"), ("accuracy",))


@pytest.fixture
def easy(easy_texts):
    return task_of_texts(easy_texts)


@pytest.fixture
def tuned_for(model):
    """Makes a model with a new head for a task."""
    return lambda task, seed=0: FineTuned(model, About.of(task), seed)
