"""Robustness of reading: are pictures still found by texts whose letters have been changed?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from clippo.data.base import Source, SourceConfig, Split
from clippo.data.decode import read_all
from clippo.data.perturbations import Perturbation
from clippo.data.transform import Transform, TransformConfig
from clippo.errors import UserError
from clippo.evaluation.base import Evaluator, EvaluatorConfig, Metrics
from clippo.evaluation.embedding import embed_images
from clippo.evaluation.figures import new_figure, picture_of
from clippo.evaluation.intervals import difference_in_percent, percent
from clippo.evaluation.ranking import RightCandidates, rank_candidates
from clippo.evaluation.retrieval import chance_of
from clippo.model import Clippo
from clippo.seeds import generator, generators

__all__ = ["RobustnessConfig"]

MEASURED = ("typos", "upper_case", "no_diacritics", "look_alikes", "leet", "full_width")
RATES = (0.1, 0.3, 1.0)  # ascending; at the last one, all letters that a perturbation can change are
KS = (1, 10)
MIN_QUERIES = 20  # that a perturbation changes; a recall of fewer says little
MAX_QUERIES = 2000  # each is embedded up to 19 times


@dataclass(frozen=True, kw_only=True)
class RobustnessConfig(EvaluatorConfig):
    """Retrieval of images by texts with typos, in upper case, without diacritics, in look-alike letters.

    Attributes:
        split: the examples whose images are looked for among one another, by the first text in each language.
        data: look at this source, and not at the one that the run trains on.
    """

    name: ClassVar[str] = "robustness"
    split: Split = "held_out"
    data: SourceConfig | None = None

    def build(self, data: SourceConfig, transform: TransformConfig, image_size: int) -> Robustness:
        source = (self.data or data).build(self.split, image_size=image_size)
        return Robustness(source, transform.build(image_size))


class Robustness(Evaluator):
    """Recall of images by changed texts, and by the same texts as they were.

    Every text is a query of images; whatever has the same text as the wanted image is right as well. Of a
    perturbation, see `Perturbation`, the queries are those that it can change: at a rate of 1, the strongest,
    it does. They are the same ones at every rate.

    - "typos/clean/R@10": percentage of these queries that find a right image among the 10 most similar,
      unchanged. "typos/0.1/R@10": where one in ten of the letters is changed that can be.
      "typos/0.1/difference/R@10": the second minus the first, in points. The intervals draw the texts of an
      image together, and of the difference each query with both of its outcomes.
    - "typos/0.1/letters_changed": percentage of the letters of these queries; "typos/clean/queries": the
      queries, in percent of all.
    - "clean/R@10" and "chance/R@10": of all queries, and of random embeddings on average.

    The perturbations are typos (of all four kinds), upper case, missing diacritics, look-alike letters of
    other scripts, digits for letters ("leet"), and full-width letters. One that changes fewer than 20 queries
    is left out: Chinese has no diacritics.

    Args:
        source: examples; those that cannot be read, and pairs of texts, are left out. Of more than 2,000
            texts so many are drawn, always the same ones; all images are candidates.
        transform: turns images into pixels.

    Raises:
        UserError: fewer than 20 texts.
    """

    headline: ClassVar[Mapping[str, str]] = {
        "clean/R@1": "chance/R@1",
        "clean/R@10": "chance/R@10",
        "typos/0.1/R@10": "chance/R@10",
        "typos/0.1/difference/R@10": "",
        "typos/0.3/difference/R@10": "",
        "look_alikes/0.3/difference/R@10": "",
        "look_alikes/1/difference/R@10": "",
        "upper_case/1/difference/R@10": "",
        "no_diacritics/1/difference/R@10": "",
    }

    def __init__(self, source: Source, transform: Transform) -> None:
        self.checksum = source.fingerprint
        self.transform = transform
        self.examples = [example for example in read_all(source) if example.image is not None]
        asked = [
            (text, owner)
            for owner, example in enumerate(self.examples)
            for text in {text.language: text.text for text in reversed(example.texts)}.values()
        ]
        if len(asked) < MIN_QUERIES:
            raise UserError(f"robustness needs at least {MIN_QUERIES} texts of images, got {len(asked)}")
        drawn = np.sort(generator(0, "queries").permutation(len(asked))[:MAX_QUERIES]).tolist()
        self.texts = [asked[row][0] for row in drawn]
        self.owners = np.array([asked[row][1] for row in drawn])

    @property
    def fingerprint(self) -> str:
        return self.checksum

    @cached_property
    def changed(self) -> dict[str, list[Changed]]:
        """The texts at each of the rates, by the perturbation."""
        found = {}
        for name in MEASURED:
            rows = [changed_texts(self.texts, Perturbation(name, rate)) for rate in RATES]
            if rows[-1].is_changed.sum() >= MIN_QUERIES:
                found[name] = rows
        return found

    @cached_property
    def right(self) -> RightCandidates:
        """The images that have the text of each query."""
        number = {text: number for number, text in enumerate(dict.fromkeys(self.texts))}
        own = [[number[t.text] for t in example.texts if t.text in number] for example in self.examples]
        return RightCandidates.of_keys([[number[text]] for text in self.texts], own)

    def __call__(self, model: Clippo) -> Metrics:
        clean, ranks = self.ranks(model)
        chance = chance_of(self.right.counts.numpy(), len(self.examples))
        metrics: Metrics = {f"chance/R@{k}": chance[f"R@{k}"] for k in KS}
        metrics |= {f"clean/R@{k}": self.recall(clean <= k, self.owners) for k in KS}
        for name, by_rate in ranks.items():
            queries = np.flatnonzero(self.changed[name][-1].is_changed)
            owners, before = self.owners[queries], clean[queries]
            metrics[f"{name}/clean/queries"] = 100 * len(queries) / len(self.texts)
            metrics |= {f"{name}/clean/R@{k}": self.recall(before <= k, owners) for k in KS}
            for rate, after, changed in zip(RATES, by_rate, self.changed[name], strict=True):
                cell = f"{name}/{rate:g}"
                metrics[f"{cell}/letters_changed"] = changed.share(queries)
                metrics |= {f"{cell}/R@{k}": self.recall(after[queries] <= k, owners) for k in KS}
                metrics |= {
                    f"{cell}/difference/R@{k}": difference_in_percent(
                        after[queries] <= k, before <= k, owners
                    )
                    for k in KS
                }
        return metrics

    def recall(self, is_found: np.ndarray, owners: np.ndarray) -> float:
        return percent(is_found, owners if len(np.unique(owners)) < len(owners) else None)

    def ranks(self, model: Clippo) -> tuple[np.ndarray, dict[str, list[np.ndarray]]]:
        """Rank of the first right image for each text, (Q,), unchanged, and changed by perturbation and rate.

        A text that a perturbation leaves as it is has its own rank.
        """
        different = dict.fromkeys(self.texts)
        for by_rate in self.changed.values():
            for changed in by_rate:
                different |= dict.fromkeys(changed.texts)
        place = {text: number for number, text in enumerate(different)}
        images = embed_images(model, self.examples, self.transform)
        # Equal texts are embedded once: most of the rates leave many as they are.
        embedded = model.encode_text(list(different)).cpu()

        def ranks_of(texts: Sequence[str]) -> np.ndarray:
            queries = embedded[torch.tensor([place[text] for text in texts])]
            return rank_candidates(queries, images, self.right).best.numpy()

        found = {name: [ranks_of(one.texts) for one in rows] for name, rows in self.changed.items()}
        return ranks_of(self.texts), found

    def picture(self, model: Clippo) -> Image.Image:
        """Recall against the share of the letters that are changed, a line for each perturbation."""
        clean, ranks = self.ranks(model)
        chance = chance_of(self.right.counts.numpy(), len(self.examples))
        figure = new_figure(1000, 480)
        for axes, k in zip(figure.subplots(1, 2), KS, strict=True):
            for name, by_rate in ranks.items():
                queries = np.flatnonzero(self.changed[name][-1].is_changed)
                shares = [0.0, *(one.share(queries) for one in self.changed[name])]
                recalls = [100 * (own[queries] <= k).mean() for own in (clean, *by_rate)]
                axes.plot(shares, recalls, "o-", markersize=4, label=name.replace("_", " "))
            axes.axhline(chance[f"R@{k}"], color="0.6", linewidth=1, zorder=0)
            axes.set_xlabel("% of the letters that are changed; grey: chance")
            axes.set_ylabel(f"text->image R@{k}, %")
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
        return picture_of(figure)


@dataclass(frozen=True)
class Changed:
    """Q texts after a perturbation.

    Attributes:
        texts: the strings.
        is_changed: (Q,) bool, whether each differs from what it was.
        num_changed, num_letters: (Q,) as of `Perturbed`.
    """

    texts: Sequence[str]
    is_changed: np.ndarray
    num_changed: np.ndarray
    num_letters: np.ndarray

    def share(self, queries: np.ndarray) -> float:
        """Percentage of the letters of some of the texts that are changed."""
        return 100 * float(self.num_changed[queries].sum() / self.num_letters[queries].sum())


def changed_texts(texts: Sequence[str], perturbation: Perturbation) -> Changed:
    """Perturb texts, the same way at every call. A higher rate hits the letters that a lower one does."""
    rngs = generators(0, "robustness", perturbation.name, count=len(texts))
    found = [perturbation(text, rng) for text, rng in zip(texts, rngs, strict=True)]
    is_changed = [one.text != text for one, text in zip(found, texts, strict=True)]
    counts = np.array([(one.num_changed, one.num_letters) for one in found])
    return Changed([one.text for one in found], np.array(is_changed), *counts.T)
