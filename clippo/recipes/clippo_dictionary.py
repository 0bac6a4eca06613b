"""A small CLIPPO on emoji and flags, by their names and keywords in 229 languages."""

from __future__ import annotations

from clippo.data.dictionary import DictionaryConfig
from clippo.data.open_dictionary import OpenDictionaryConfig
from clippo.data.transform import PlaceConfig
from clippo.evaluation.retrieval import RetrievalConfig
from clippo.model import ClippoConfig, RenderedTextConfig
from clippo.renderer import AlignedRendererConfig
from clippo.training.config import TrainConfig
from clippo.training.losses import SoftmaxLossConfig
from clippo.training.optimizers import AdamWConfig

__all__ = ["recipe"]


def recipe() -> TrainConfig:
    """A small CLIPPO on emoji and flags, by their names and keywords in 229 languages.

    Command: `clippo data fetch dictionary`, then `OMP_NUM_THREADS=1 clippo train clippo_dictionary`.
    Hardware: two cores of an AMD EPYC, 95 minutes beside other work.
    Result: the model clippo-dictionary of this package; model/pretrained/clippo-dictionary/README.md has the
        tables. English names find their picture first in 83 %, and those never trained in 47 % of the cases.
        Two runs of depth 3 with a strength of 0.5 and half of the patches dropped stayed on the plateau of
        log(batch size) for their first 1,000 and 400 steps; this one left it after 400.
    """

    def unseen(*collections: str) -> RetrievalConfig:
        data = DictionaryConfig(collections=collections)
        return RetrievalConfig(queries="all", candidates="all", data=data, merge_equal_texts=True)

    return TrainConfig(
        model=ClippoConfig(
            width=192,
            depth=2,
            mlp_dim=768,
            num_heads=6,
            patch_size=16,
            image_size=64,
            embed_dim=128,
            text=RenderedTextConfig(tokens="inked"),
            resize="bicubic",
        ),
        renderer=AlignedRendererConfig(),
        data=OpenDictionaryConfig(english_share=0.3),
        transform=PlaceConfig(strength=0.1),
        loss=SoftmaxLossConfig(),
        optimizer=AdamWConfig(weight_decay=0.05, beta2=0.98),
        evaluators={
            "all_names": RetrievalConfig(
                queries="all", candidates="all", captions="first", merge_equal_texts=True
            ),
            "held_out_names": RetrievalConfig(merge_equal_texts=True),
            "openmoji": unseen("openmoji"),
            "fluent": unseen("fluent"),
            "stamps": unseen("stamps"),
            "drawings": unseen("drawings"),
        },
        batch_size=128,
        merge_equal_texts=True,
        steps=10_000,
        learning_rate=1e-3,
        warmup_steps=1200,
        residual_scale=0.2,
        eval_every=10_000,  # it takes minutes, of hundreds of thousands of names
    )
