"""A small CLIPPO on the picture dictionary: names in 158 languages, ten more unseen."""

from __future__ import annotations

from clippo.data.dictionary import HELD_OUT_LANGUAGES, DictionaryConfig
from clippo.data.transform import PlaceConfig
from clippo.evaluation.retrieval import RetrievalConfig
from clippo.model import ClippoConfig, RenderedTextConfig
from clippo.renderer import AlignedRendererConfig
from clippo.training.config import TrainConfig
from clippo.training.losses import SoftmaxLossConfig
from clippo.training.optimizers import AdamWConfig

__all__ = ["recipe"]


def recipe(languages: str = "") -> TrainConfig:
    """A small CLIPPO on the picture dictionary: names in 158 languages, ten more unseen.

    Command: `clippo data fetch dictionary`, then `OMP_NUM_THREADS=1 clippo train dictionary`. With one thread
        for the tower, the other of two cores is left to the worker, which is faster. `--languages en,de`
        trains and measures names in these languages alone, besides the ten that are never trained.
    Hardware: two cores of an AMD EPYC, about 20 minutes.
    Result: the tables of docs/training.md.
    """
    codes = tuple(languages.split(",")) if languages else ()
    unseen_languages = DictionaryConfig(languages=HELD_OUT_LANGUAGES)

    def style(name: str) -> RetrievalConfig:
        data = DictionaryConfig(collections=(name,), languages=codes)
        return RetrievalConfig(queries="all", candidates="all", data=data, merge_equal_texts=True)

    return TrainConfig(
        model=ClippoConfig(
            width=96,
            depth=3,
            mlp_dim=384,
            num_heads=3,
            patch_size=16,
            image_size=64,
            embed_dim=128,
            text=RenderedTextConfig(tokens="inked"),
        ),
        renderer=AlignedRendererConfig(),
        data=DictionaryConfig(languages=codes),
        transform=PlaceConfig(strength=0.25),
        loss=SoftmaxLossConfig(),
        optimizer=AdamWConfig(weight_decay=0.05, beta2=0.98),
        evaluators={
            "trained": RetrievalConfig(queries="train", candidates="train", merge_equal_texts=True),
            "held_out": RetrievalConfig(merge_equal_texts=True),
            "unseen_languages": RetrievalConfig(
                queries="train", candidates="train", data=unseen_languages, merge_equal_texts=True
            ),
            "unseen_style_openmoji": style("openmoji"),
            "unseen_style_fluent": style("fluent"),
        },
        batch_size=128,
        merge_equal_texts=True,
        steps=5000,
        learning_rate=2e-3,
        warmup_steps=1500,
        residual_scale=0.2,
        eval_every=5000,  # it takes minutes, of hundreds of thousands of names
    )
