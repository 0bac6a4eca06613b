"""Semantic textual similarity: does the cosine of two texts agree with the score that they were given?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from clippo.data.base import SourceConfig
from clippo.data.transform import TransformConfig
from clippo.errors import UserError
from clippo.evaluation.base import Evaluator, EvaluatorConfig, Metrics
from clippo.evaluation.embedding import embed_texts
from clippo.evaluation.metrics import measured
from clippo.evaluation.ngrams import TfIdf, cosines, ngrams
from clippo.evaluation.text_tasks import Part, load_task
from clippo.model import Clippo

__all__ = ["SimilarityConfig", "TextSimilarity"]

METRICS = ("spearman", "pearson")


@dataclass(frozen=True, kw_only=True)
class SimilarityConfig(EvaluatorConfig):
    """Correlation of the cosines of pairs of texts with their scores.

    Attributes:
        task: "glue/stsb", which people scored, or "relatedness", which is generated from WordNet; see
            `clippo.evaluation.text_tasks`.
        path: folder of GLUE, or of the texts that are fetched.
        max_pairs: number of pairs at most; more are drawn from, always the same ones.

    Raises:
        UserError: max_pairs is below 2.
    """

    name: ClassVar[str] = "similarity"
    task: str = "relatedness"
    path: str = ""
    max_pairs: int = 2000

    def __post_init__(self) -> None:
        if self.max_pairs < 2:
            raise UserError(f"max_pairs must be at least 2, got {self.max_pairs}")

    def build(self, data: SourceConfig, transform: TransformConfig, image_size: int) -> TextSimilarity:
        task = load_task(self.task, self.path)
        if task.classes or not task.validation.seconds:
            raise UserError(f"task must be one of pairs of texts with scores, got {self.task!r}")
        return TextSimilarity(task.capped(self.max_pairs, self.max_pairs).tests[""])


class TextSimilarity(Evaluator):
    """Spearman's and Pearson's correlation, "cosine/spearman", in percent from -100 to 100.

    "n-grams" is a baseline without a model, the cosine of TF-IDF of character n-grams.

    Args:
        pairs: texts and their scores.
    """

    headline: ClassVar[Mapping[str, str]] = {
        "cosine/spearman": "chance/spearman",
        "n-grams/spearman": "chance/spearman",
    }

    def __init__(self, pairs: Part) -> None:
        self.pairs = pairs

    @property
    def fingerprint(self) -> str:
        return self.pairs.fingerprint

    def __call__(self, model: Clippo) -> Metrics:
        first, second = (embed_texts(model, side) for side in (self.pairs.texts, self.pairs.seconds))
        similarities = {"cosine": np.einsum("ne,ne->n", first, second), "n-grams": self.by_ngrams}
        metrics: Metrics = {}
        for method, similarity in similarities.items():
            metrics |= {f"{method}/{m}": measured(m, similarity, self.pairs.labels) for m in METRICS}
        return metrics | {f"chance/{metric}": 0.0 for metric in METRICS}

    @cached_property
    def by_ngrams(self) -> np.ndarray:
        """(N,) the cosines of TF-IDF, whose frequencies are those in all of the texts."""
        first, second = ([ngrams(text) for text in side] for side in (self.pairs.texts, self.pairs.seconds))
        vectors = TfIdf([*first, *second])
        return np.diag(cosines(vectors(first), vectors(second)))
