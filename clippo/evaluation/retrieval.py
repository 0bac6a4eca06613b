"""Retrieval: finding images by text and text by images."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clippo.data.base import Source, SourceConfig, Split
from clippo.data.decode import read_all
from clippo.data.transform import Transform, TransformConfig
from clippo.errors import UserError
from clippo.evaluation.base import Evaluator, EvaluatorConfig, Metrics
from clippo.evaluation.embedding import embed_images
from clippo.evaluation.intervals import bootstrap, percent, percent_of_means
from clippo.evaluation.ranking import RightCandidates, rank_candidates
from clippo.evaluation.sheet import Finding, draw_sheet
from clippo.model import Clippo

__all__ = ["RetrievalConfig", "chance_of", "find_images"]

KS = (1, 5, 10)
DIRECTIONS = ("text_to_image", "image_to_text")
CHANCE = {"text_to_image": "chance", "image_to_text": "chance/image_to_text"}
MIN_EXAMPLES = 20  # in a language; a recall of fewer says little
MAX_DRAWN_LANGUAGES = 8
ROUNDING = 1e-9  # of probabilities


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(EvaluatorConfig):
    """Retrieval of images by texts and of texts by images, by language: recall, mAP and median rank.

    Attributes:
        queries: the examples whose texts, or image, are looked for.
        candidates: the examples among which they are looked for; must contain the queries.
        data: look at this source, and not at the one that the run trains on.
        captions: take all texts of an example in a language, or only the first.
        merge_equal_texts: what has the same text as the wanted example is right as well.
    """

    name: ClassVar[str] = "retrieval"
    queries: Split = "held_out"
    candidates: Split = "held_out"
    data: SourceConfig | None = None
    captions: Literal["all", "first"] = "all"
    merge_equal_texts: bool = False

    def build(self, data: SourceConfig, transform: TransformConfig, image_size: int) -> Retrieval:
        data = self.data or data
        candidates = data.build(self.candidates, image_size=image_size)
        queries = candidates
        if self.queries != self.candidates:
            queries = data.build(self.queries, image_size=image_size)
        return Retrieval(
            queries,
            candidates,
            transform.build(image_size),
            captions=self.captions,
            merge_equal_texts=self.merge_equal_texts,
        )


class Retrieval(Evaluator):
    """Retrieval by language and direction: "en/text_to_image/R@10" and others.

    "R@k" is the percentage of the queries that have a right candidate among the k most similar, "mAP" is the
    mean over the queries of the average precision of all their right candidates, in percent, and "MedR" is
    the median rank of the first right candidate. Every text is a query of images, and is right if it finds
    its own; an image is right if it finds any of its texts. Candidates that tie with a right one count as
    more similar, so that a constant embedding earns nothing.

    Where not all examples have a text in a language, those that have one are looked for among themselves, and
    languages of fewer than 20 examples are left out. "en/chance/R@10" is what random embeddings reach on
    average in finding images, and "en/chance/image_to_text/R@10" in finding texts; "chance" and "mean" are
    means over the languages. The texts of an example are drawn together for the confidence intervals, and for
    those of the means also its texts in several languages.

    Args:
        queries: examples to look for; those that cannot be read are left out.
        candidates: examples to look among. The queries are recognised by their keys.
        transform: turns images into pixels.
        captions, merge_equal_texts: as of `RetrievalConfig`.

    Raises:
        UserError: no example can be read.
        ValueError: a query is not among the candidates.
    """

    headline: ClassVar[Mapping[str, str]] = {
        "mean/text_to_image/R@1": "chance/R@1",
        "mean/text_to_image/R@10": "chance/R@10",
        "mean/image_to_text/R@1": "chance/image_to_text/R@1",
        "mean/image_to_text/R@10": "chance/image_to_text/R@10",
    }

    def __init__(
        self,
        queries: Source,
        candidates: Source,
        transform: Transform,
        *,
        captions: Literal["all", "first"] = "all",
        merge_equal_texts: bool = False,
    ) -> None:
        self.transform = transform
        self.captions = captions
        self.merge_equal_texts = merge_equal_texts
        self.checksum = candidates.fingerprint
        self.examples = read_all(candidates)
        if not self.examples:
            raise UserError("retrieval needs at least one example that can be read, got none")
        position = {example.key: index for index, example in enumerate(self.examples)}
        asked = self.examples if queries is candidates else read_all(queries)
        keys = [example.key for example in asked]
        if missing := [key for key in keys if key not in position]:
            raise ValueError(f"queries must be among the candidates, but {missing[0]!r} is not")
        self.queries = np.array([position[key] for key in keys], np.int64)

    @property
    def fingerprint(self) -> str:
        return self.checksum

    def __call__(self, model: Clippo) -> Metrics:
        images = embed_images(model, self.examples, self.transform)
        found = {
            language: self.ranked(model, images, texts)
            for language, texts in self.texts_by_language().items()
        }
        metrics: Metrics = {}
        for direction in DIRECTIONS if found else ():
            own = [by_direction[direction].chance() for by_direction in found.values()]
            metrics |= {
                f"{CHANCE[direction]}/{name}": float(np.mean([c[name] for c in own])) for name in own[0]
            }
        for direction in DIRECTIONS if found else ():
            means = means_of([by_direction[direction] for by_direction in found.values()])
            metrics |= {f"mean/{direction}/{name}": value for name, value in means.items()}
        for language, by_direction in found.items():
            rows = {CHANCE[direction]: ranked.chance() for direction, ranked in by_direction.items()}
            rows |= {direction: ranked.metrics() for direction, ranked in by_direction.items()}
            metrics |= {f"{language}/{row}/{name}": v for row, own in rows.items() for name, v in own.items()}
        return metrics

    def ranked(self, model: Clippo, images: Tensor, texts: Mapping[int, Sequence[str]]) -> dict[str, Ranked]:
        """The ranks in each direction, for the texts of a language by their examples."""
        examples = np.fromiter(texts, np.int64)
        flat = [text for own in texts.values() for text in own]
        owners = np.repeat(np.arange(len(examples)), [len(own) for own in texts.values()])
        seen: dict[str, int] = {}
        numbers = [
            seen.setdefault(text, len(seen)) if self.merge_equal_texts else number
            for number, text in enumerate(flat)
        ]
        of_images: list[list[int]] = [[] for _ in examples]
        for owner, number in zip(owners, numbers, strict=True):
            of_images[owner].append(number)
        embeddings = {"image": images[torch.from_numpy(examples)], "text": model.encode_text(flat).cpu()}
        keys = {"image": of_images, "text": [[number] for number in numbers]}
        example_of = {"image": examples, "text": examples[owners]}
        found = {}
        for direction in DIRECTIONS:
            query, _, candidate = direction.partition("_to_")
            asked = np.flatnonzero(np.isin(example_of[query], self.queries))
            right = RightCandidates.of_keys([keys[query][i] for i in asked], keys[candidate])
            ranks = rank_candidates(embeddings[query][torch.from_numpy(asked)], embeddings[candidate], right)
            found[direction] = Ranked(
                example_of[query][asked],
                ranks.best.numpy(),
                ranks.average_precision.numpy(),
                right.counts.numpy(),
                len(embeddings[candidate]),
            )
        return found

    def picture(self, model: Clippo) -> Image.Image | None:
        """Two queries in each of the first languages, drawn at random, and the five images found for each.

        Where no language is measured, there is nothing to draw.
        """
        rng = np.random.default_rng(0)
        asked = [
            (texts[wanted][0], wanted)
            for texts in islice(self.texts_by_language().values(), MAX_DRAWN_LANGUAGES)
            for wanted in rng.choice(np.intersect1d(self.queries, list(texts)), 2).tolist()
        ]
        if not asked:
            return None
        texts = [text for text, _ in asked]
        images = embed_images(model, self.examples, self.transform)
        _, found = find_images(model, images, texts, top=5)
        findings = [Finding(text, f, wanted) for (text, wanted), f in zip(asked, found, strict=True)]
        return draw_sheet(model, self.examples, self.transform, findings)

    def texts_by_language(self) -> dict[str, dict[int, list[str]]]:
        """The texts of each example in each language that is measured, by the number of the example."""
        found: dict[str, dict[int, list[str]]] = {}
        for number, example in enumerate(self.examples):
            for text in example.captions:
                own = found.setdefault(text.language or "any", {}).setdefault(number, [])
                if self.captions == "all" or not own:
                    own.append(text.text)
        asked = set(self.queries.tolist())
        return {
            language: texts
            for language, texts in found.items()
            if len(texts) >= min(MIN_EXAMPLES, len(self.examples)) and asked & texts.keys()
        }


@dataclass(frozen=True)
class Ranked:
    """Where the right candidates of the queries of a language and direction are.

    Attributes:
        examples: (Q,) number of the example of each query.
        best, average_precision: (Q,) as of `Ranks`.
        counts: (Q,) how many candidates are right.
        num_candidates: N.
    """

    examples: np.ndarray
    best: np.ndarray
    average_precision: np.ndarray
    counts: np.ndarray
    num_candidates: int

    def scores(self) -> dict[str, np.ndarray]:
        """(Q,) from 0 to 1, of each query, for the metrics that are means."""
        hits = {f"R@{k}": (self.best <= k).astype(np.float64) for k in KS}
        return hits | {"mAP": self.average_precision}

    def metrics(self) -> Metrics:
        clusters = self.examples if len(np.unique(self.examples)) < len(self.examples) else None
        means = {name: percent(scores, clusters) for name, scores in self.scores().items()}
        return {**means, "MedR": bootstrap(np.median, self.best, clusters=clusters)}

    def chance(self) -> Metrics:
        """Metrics of random embeddings, on average."""
        return chance_of(self.counts, self.num_candidates)


def means_of(ranked: Sequence[Ranked]) -> Metrics:
    """The means over languages of their metrics."""
    groups = np.repeat(np.arange(len(ranked)), [len(one.examples) for one in ranked])
    clusters = np.concatenate([one.examples for one in ranked])
    scores = [one.scores() for one in ranked]
    means = {
        name: percent_of_means(np.concatenate([own[name] for own in scores]), groups, clusters)
        for name in scores[0]
    }
    return {**means, "MedR": float(np.mean([np.median(one.best) for one in ranked]))}


def chance_of(counts: np.ndarray, num_candidates: int) -> Metrics:
    """The metrics of a random order of the candidates, on average; of the median rank, the middle rank.

    Args:
        counts: (Q,) how many candidates are right for each query.
        num_candidates: N.
    """
    N = num_candidates
    m, times = np.unique(counts, return_counts=True)

    def missed(k: int) -> float:
        """Probability that no right one of m is among the first k of N: C(N - m, k) / C(N, k)."""
        k = min(k, N)
        left, right = (torch.lgamma(torch.from_numpy(N - m - x + 1.0)).numpy() for x in (0, k))
        logarithm = left - right + math.lgamma(N - k + 1) - math.lgamma(N + 1)
        possible = m + k <= N
        return float(
            np.average(np.where(possible, np.exp(np.where(possible, logarithm, 0)), 0), weights=times)
        )

    # The mean over k of P(k is right) times the precision at k, given that k is right.
    harmonic = float((1 / np.arange(1, N + 1)).sum())
    precision = (harmonic + (m - 1) / max(1, N - 1) * (N - harmonic)) / N
    low, high = (
        1 + bisect_left(range(1, N + 1), True, key=lambda k: missed(k) < 0.5 + rounding)
        for rounding in (ROUNDING, -ROUNDING)
    )
    recalls = {f"R@{k}": 100 * (1 - missed(k)) for k in KS}
    mean_precision = 100 * float(np.average(precision, weights=times))
    return {**recalls, "mAP": mean_precision, "MedR": (low + high) / 2}


def find_images(
    model: Clippo, images: Tensor, texts: Sequence[str], top: int
) -> tuple[list[list[float]], list[list[int]]]:
    """The `top` of the embedded images (N, E) nearest to each text, best first: similarities and indices."""
    similarity = model.encode_text(texts).cpu() @ images.T
    nearest = similarity.topk(min(top, len(images)))
    return nearest.values.tolist(), nearest.indices.tolist()
