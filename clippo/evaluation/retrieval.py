"""Retrieval: finding images by text and text by images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clippo.data.base import Example, Source, SourceConfig, Split
from clippo.data.decode import pixels_of, read_all
from clippo.data.transform import Transform, TransformConfig
from clippo.evaluation.base import Evaluator, EvaluatorConfig, Metrics
from clippo.evaluation.sheet import Finding, draw_sheet
from clippo.model import Clippo

__all__ = ["RetrievalConfig", "embed_images", "find_images"]

KS = (1, 5, 10)


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(EvaluatorConfig):
    """Recall at 1, 5 and 10 of images by texts and of texts by images, by language.

    Attributes:
        queries: the examples whose text, or image, is looked for.
        candidates: the examples among which they are looked for; must contain the queries.
    """

    name: ClassVar[str] = "retrieval"
    queries: Split = "held_out"
    candidates: Split = "held_out"

    def build(self, data: SourceConfig, transform: TransformConfig, image_size: int) -> Retrieval:
        candidates = data.build(self.candidates, image_size=image_size)
        queries = candidates
        if self.queries != self.candidates:
            queries = data.build(self.queries, image_size=image_size)
        return Retrieval(queries, candidates, transform.build(image_size))


class Retrieval(Evaluator):
    """Recall@k in percent, by language and direction: "en/text_to_image/R@10".

    A query is found at k if its own partner is among the k most similar candidates; candidates that tie with
    the partner count as more similar, so that a constant embedding earns nothing. Of the texts of an example
    the first in each language is used. "chance/R@10" is what random embeddings reach on average.

    Args:
        queries: examples to look for; those that cannot be read are left out.
        candidates: examples to look among. The queries are recognised by their keys.
        transform: turns images into pixels.

    Raises:
        ValueError: a query is not among the candidates.
    """

    def __init__(self, queries: Source, candidates: Source, transform: Transform) -> None:
        self.transform = transform
        self.examples = read_all(candidates)
        position = {example.key: index for index, example in enumerate(self.examples)}
        asked = self.examples if queries is candidates else read_all(queries)
        keys = [example.key for example in asked]
        if missing := [key for key in keys if key not in position]:
            raise ValueError(f"queries must be among the candidates, but {missing[0]!r} is not")
        self.queries = np.array([position[key] for key in keys], np.int64)

    def __call__(self, model: Clippo) -> Metrics:
        images = embed_images(model, self.examples, self.transform)
        metrics = {f"chance/R@{k}": 100 * min(1.0, k / len(self.examples)) for k in KS}
        for language, texts in self.texts_by_language().items():
            z_texts = model.encode_text(texts).cpu()
            queries = torch.from_numpy(self.queries)
            for direction, of, among in (
                ("text_to_image", z_texts, images),
                ("image_to_text", images, z_texts),
            ):
                recall = recall_at_k(of[queries], among, queries)
                metrics |= {f"{language}/{direction}/R@{k}": recall[k] for k in KS}
        return metrics

    def picture(self, model: Clippo) -> Image.Image:
        """Two queries in each language, drawn at random, and the five images found for each."""
        rng = np.random.default_rng(0)
        asked = [
            (texts[wanted], wanted)
            for texts in self.texts_by_language().values()
            for wanted in rng.choice(self.queries, 2).tolist()
        ]
        texts = [text for text, _ in asked]
        images = embed_images(model, self.examples, self.transform)
        _, found = find_images(model, images, texts, top=5)
        findings = [Finding(text, f, wanted) for (text, wanted), f in zip(asked, found, strict=True)]
        return draw_sheet(model, self.examples, self.transform, findings)

    def texts_by_language(self) -> dict[str, list[str]]:
        """The first text of every candidate in each language that all of them have."""
        found: dict[str, list[str]] = {}
        for number, example in enumerate(self.examples):
            for text in example.texts:
                texts = found.setdefault(text.language or "any", [])
                if len(texts) == number:
                    texts.append(text.text)
        return {language: texts for language, texts in found.items() if len(texts) == len(self.examples)}


def recall_at_k(queries: Tensor, candidates: Tensor, partners: Tensor) -> dict[int, float]:
    """Percent of the queries whose partner is among the k most similar candidates, by k.

    Args:
        queries: (Q, E) embeddings.
        candidates: (N, E) embeddings.
        partners: (Q,) index of each query's partner among the candidates.
    """
    ranks = []
    for rows in torch.arange(len(queries)).split(1024):  # the Q x N similarities need never exist at once
        similarity = queries[rows] @ candidates.T
        own = similarity.gather(1, partners[rows, None])
        # Candidates that tie with the partner count as more similar, and so does what is not a number.
        ranks.append((~(similarity < own)).sum(1))
    rank = torch.cat(ranks)
    return {k: 100 * (rank <= k).float().mean().item() for k in KS}


def embed_images(
    model: Clippo, examples: Sequence[Example], transform: Transform, batch_size: int = 256
) -> Tensor:
    """Embed the images of examples, without random changes: (N, E), on the CPU."""
    parts = []
    for start in range(0, len(examples), batch_size):
        pixels = [transform(pixels_of(example)) for example in examples[start : start + batch_size]]
        parts.append(model.encode_image(torch.from_numpy(np.stack(pixels))).cpu())
    return torch.cat(parts)


def find_images(
    model: Clippo, images: Tensor, texts: Sequence[str], top: int
) -> tuple[list[list[float]], list[list[int]]]:
    """The `top` of the embedded images (N, E) nearest to each text, best first: similarities and indices."""
    similarity = model.encode_text(texts).cpu() @ images.T
    nearest = similarity.topk(min(top, len(images)))
    return nearest.values.tolist(), nearest.indices.tolist()
