"""Retrieval: finding images by text and text by images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clippo.data.base import Source, SourceConfig, Split
from clippo.data.decode import read_all
from clippo.data.transform import Transform, TransformConfig
from clippo.evaluation.base import Evaluator, EvaluatorConfig, Metrics
from clippo.evaluation.embedding import embed_images
from clippo.evaluation.sheet import Finding, draw_sheet
from clippo.model import Clippo

__all__ = ["RetrievalConfig", "find_images"]

KS = (1, 5, 10)
DIRECTIONS = ("text_to_image", "image_to_text")
MIN_TEXTS = 20  # in a language; a recall of fewer says little
MAX_DRAWN_LANGUAGES = 8


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(EvaluatorConfig):
    """Recall at 1, 5 and 10 of images by texts and of texts by images, by language.

    Attributes:
        queries: the examples whose text, or image, is looked for.
        candidates: the examples among which they are looked for; must contain the queries.
        data: look at this source, and not at the one that the run trains on.
        merge_equal_texts: what has the same text as the wanted example is right as well.
    """

    name: ClassVar[str] = "retrieval"
    queries: Split = "held_out"
    candidates: Split = "held_out"
    data: SourceConfig | None = None
    merge_equal_texts: bool = False

    def build(self, data: SourceConfig, transform: TransformConfig, image_size: int) -> Retrieval:
        data = self.data or data
        candidates = data.build(self.candidates, image_size=image_size)
        queries = candidates
        if self.queries != self.candidates:
            queries = data.build(self.queries, image_size=image_size)
        merge = self.merge_equal_texts
        return Retrieval(queries, candidates, transform.build(image_size), merge_equal_texts=merge)


class Retrieval(Evaluator):
    """Recall@k in percent, by language and direction: "en/text_to_image/R@10".

    A query is found at k if its own partner is among the k most similar candidates; candidates that tie with
    the partner count as more similar, so that a constant embedding earns nothing. Of the texts of an example
    the first in each language is used. Where not all examples have a text in a language, those that have one
    are looked for among themselves, and languages of fewer than 20 are left out. "en/chance/R@10" is what
    random embeddings reach on average; "chance" and "mean" are means over the languages.

    Args:
        queries: examples to look for; those that cannot be read are left out.
        candidates: examples to look among. The queries are recognised by their keys.
        transform: turns images into pixels.
        merge_equal_texts: as of `RetrievalConfig`.

    Raises:
        ValueError: a query is not among the candidates.
    """

    def __init__(
        self, queries: Source, candidates: Source, transform: Transform, *, merge_equal_texts: bool = False
    ) -> None:
        self.transform = transform
        self.merge_equal_texts = merge_equal_texts
        self.examples = read_all(candidates)
        position = {example.key: index for index, example in enumerate(self.examples)}
        asked = self.examples if queries is candidates else read_all(queries)
        keys = [example.key for example in asked]
        if missing := [key for key in keys if key not in position]:
            raise ValueError(f"queries must be among the candidates, but {missing[0]!r} is not")
        self.queries = np.array([position[key] for key in keys], np.int64)

    def __call__(self, model: Clippo) -> Metrics:
        images = embed_images(model, self.examples, self.transform)
        by_language = {
            language: self.recalls(model, images, texts)
            for language, texts in self.texts_by_language().items()
        }
        metrics: Metrics = {}
        for name in ("chance", *(f"mean/{direction}" for direction in DIRECTIONS)):
            own = [found[name.removeprefix("mean/")] for found in by_language.values()]
            metrics |= {f"{name}/R@{k}": float(np.mean([recall[k] for recall in own])) for k in KS if own}
        for language, found in by_language.items():
            metrics |= {f"{language}/{row}/R@{k}": recall[k] for row, recall in found.items() for k in KS}
        return metrics

    def recalls(self, model: Clippo, images: Tensor, texts: Mapping[int, str]) -> dict[str, dict[int, float]]:
        """The recall of each direction and of chance by k, for the texts of a language by their examples."""
        own = np.fromiter(texts, np.int64)
        queries = torch.from_numpy(np.flatnonzero(np.isin(own, self.queries)))
        groups = torch.arange(len(own))
        if self.merge_equal_texts:
            numbers = {text: number for number, text in enumerate(texts.values())}
            groups = torch.tensor([numbers[text] for text in texts.values()])
        images, z_texts = images[torch.from_numpy(own)], model.encode_text(list(texts.values())).cpu()
        return {
            "chance": chance_at_k(queries, groups),
            "text_to_image": recall_at_k(z_texts[queries], images, queries, groups),
            "image_to_text": recall_at_k(images[queries], z_texts, queries, groups),
        }

    def picture(self, model: Clippo) -> Image.Image:
        """Two queries in each of the first languages, drawn at random, and the five images found for each."""
        rng = np.random.default_rng(0)
        asked = [
            (texts[wanted], wanted)
            for texts in islice(self.texts_by_language().values(), MAX_DRAWN_LANGUAGES)
            for wanted in rng.choice(np.intersect1d(self.queries, list(texts)), 2).tolist()
        ]
        texts = [text for text, _ in asked]
        images = embed_images(model, self.examples, self.transform)
        _, found = find_images(model, images, texts, top=5)
        findings = [Finding(text, f, wanted) for (text, wanted), f in zip(asked, found, strict=True)]
        return draw_sheet(model, self.examples, self.transform, findings)

    def texts_by_language(self) -> dict[str, dict[int, str]]:
        """The first text of each example in each language that is measured, by the number of the example."""
        found: dict[str, dict[int, str]] = {}
        for number, example in enumerate(self.examples):
            for text in example.captions:
                found.setdefault(text.language or "any", {}).setdefault(number, text.text)
        asked = set(self.queries.tolist())
        return {
            language: texts
            for language, texts in found.items()
            if len(texts) >= min(MIN_TEXTS, len(self.examples)) and asked & texts.keys()
        }


def recall_at_k(
    queries: Tensor, candidates: Tensor, partners: Tensor, groups: Tensor | None = None
) -> dict[int, float]:
    """Percent of the queries whose partner is among the k most similar candidates, by k.

    Args:
        queries: (Q, E) embeddings.
        candidates: (N, E) embeddings.
        partners: (Q,) index of each query's partner among the candidates.
        groups: (N,) numbers; any candidate with the number of the partner is right as well.
    """
    if groups is None:
        groups = torch.arange(len(candidates))
    ranks = []
    for rows in torch.arange(len(queries)).split(1024):  # the Q x N similarities need never exist at once
        similarity = queries[rows] @ candidates.T
        is_right = groups[partners[rows], None] == groups
        best = similarity.masked_fill(~is_right, -torch.inf).amax(1, keepdim=True)
        # Candidates that tie with the partner count as more similar, and so does what is not a number.
        ranks.append(1 + (~(similarity < best) & ~is_right).sum(1))
    rank = torch.cat(ranks)
    return {k: 100 * (rank <= k).float().mean().item() for k in KS}


def chance_at_k(partners: Tensor, groups: Tensor) -> dict[int, float]:
    """Percent of the queries that random embeddings find among the k first of N candidates, by k.

    Of a group with m candidates none is among the first k with the probability of drawing k others, the
    product over i < k of (N - m - i) / (N - i).
    """
    N = len(groups)
    m = torch.bincount(groups, minlength=N)[groups[partners]].double()
    chance = {}
    for k in KS:
        missed = torch.ones_like(m)
        for i in range(min(k, N)):
            missed *= ((N - m - i) / (N - i)).clamp(min=0)
        chance[k] = 100 * (1 - missed).mean().item()
    return chance


def find_images(
    model: Clippo, images: Tensor, texts: Sequence[str], top: int
) -> tuple[list[list[float]], list[list[int]]]:
    """The `top` of the embedded images (N, E) nearest to each text, best first: similarities and indices."""
    similarity = model.encode_text(texts).cpu() @ images.T
    nearest = similarity.topk(min(top, len(images)))
    return nearest.values.tolist(), nearest.indices.tolist()
