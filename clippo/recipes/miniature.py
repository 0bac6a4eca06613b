"""The published mixtures of images and sentences in miniature: emoji, and Debian's package descriptions."""

from __future__ import annotations

from clippo.data.base import SourceConfig
from clippo.data.emoji import EmojiConfig
from clippo.data.mixture import MixtureConfig
from clippo.data.packages import PackagesConfig
from clippo.data.transform import PlaceConfig
from clippo.errors import UserError
from clippo.evaluation.retrieval import RetrievalConfig
from clippo.model import ClippoConfig, RenderedTextConfig
from clippo.renderer import AlignedRendererConfig
from clippo.training.config import TrainConfig
from clippo.training.losses import SoftmaxLossConfig
from clippo.training.optimizers import AdamWConfig

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
    steps = round(450 * min(2.0, 1 / max(0.5, 1 - sentence_share)))
    return TrainConfig(
        model=ClippoConfig(
            width=96,
            depth=3,
            mlp_dim=384,
            num_heads=3,
            patch_size=16,
            image_size=96,  # room for 36 patches, or 72 letters, of a sentence
            embed_dim=128,
            text=RenderedTextConfig(tokens="inked"),
        ),
        renderer=AlignedRendererConfig(),
        data=data,
        transform=PlaceConfig(strength=0.25),
        loss=SoftmaxLossConfig(),
        optimizer=AdamWConfig(weight_decay=0.05, beta2=0.98),
        evaluators={
            "images": RetrievalConfig(data=images, captions="first"),
            "sentences": RetrievalConfig(data=sentences),
        },
        batch_size=128,
        steps=steps,
        learning_rate=2e-3,
        warmup_steps=steps // 3,
        residual_scale=0.2,
        workers=0,
    )
