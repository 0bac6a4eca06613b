"""The published mixtures of images and sentences in miniature: emoji, and Debian's package descriptions."""

from __future__ import annotations

import dataclasses

from clippo.data.base import SourceConfig
from clippo.data.emoji import EmojiConfig
from clippo.data.mixture import MixtureConfig
from clippo.data.packages import PackagesConfig
from clippo.errors import UserError
from clippo.evaluation.retrieval import RetrievalConfig
from clippo.recipes import emoji
from clippo.training.config import TrainConfig

__all__ = ["recipe"]


def recipe(sentence_share: float = 0.5) -> TrainConfig:
    """The published mixtures of images and sentences in miniature: emoji, and Debian's package descriptions.

    Command: `clippo data fetch texts`, then `OMP_NUM_THREADS=1 clippo train miniature --sentence-share 0.25`,
        with 0, 0.25, 0.5, 0.75 or 1 for the share of each batch that is pairs of consecutive sentences. As
        published, the run is longer with sentences, so that it sees as many images, at most twice as long;
        one on sentences alone is as long as those.
    Hardware: one core, five to ten minutes.
    Result: the tables of docs/claims.md.
    """
    if not 0 <= sentence_share <= 1:
        raise UserError(f"sentence_share must be from 0 to 1, got {sentence_share}")
    images, sentences = EmojiConfig(), PackagesConfig(languages=("en",))
    data: SourceConfig = (
        MixtureConfig(sources=(images, sentences), shares=(1 - sentence_share, sentence_share))
        if 0 < sentence_share < 1
        else (sentences if sentence_share else images)
    )
    steps = round(450 / max(0.5, 1 - sentence_share))
    own = emoji.recipe()
    return dataclasses.replace(
        own,
        # Room for 36 patches, or 72 letters, of a sentence.
        model=dataclasses.replace(own.model, image_size=96),
        data=data,
        evaluators={
            "images": RetrievalConfig(data=images, captions="first"),
            "sentences": RetrievalConfig(data=sentences),
        },
        steps=steps,
        warmup_steps=steps // 3,
    )
