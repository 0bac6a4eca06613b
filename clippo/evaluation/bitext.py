"""Bitext retrieval: finding the translation of a text among those of others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from fontTools.unicodedata import script

from clippo.data.base import SourceConfig
from clippo.data.remote import cache_folder
from clippo.data.transform import TransformConfig
from clippo.errors import UserError
from clippo.evaluation.base import Evaluator, EvaluatorConfig, Metrics
from clippo.evaluation.embedding import embed_texts
from clippo.evaluation.intervals import percent
from clippo.evaluation.text_tasks import checksum_of, rows_of
from clippo.model import Clippo
from clippo.seeds import generator

__all__ = ["Bitext", "BitextConfig", "Translation", "script_of"]

DIRECTIONS = ("from_english", "to_english")
MIN_PAIRS = 20  # in a language; an accuracy among fewer says little
ENGLISH = {"rights": "eng", "packages": "en"}
TIE = 1e-6  # of cosines; the same picture in another batch differs by about 1e-7


class Translation(NamedTuple):
    english: str
    other: str


@dataclass(frozen=True, kw_only=True)
class BitextConfig(EvaluatorConfig):
    """Translations to and from English, on the texts that `clippo data fetch texts` brings.

    Attributes:
        data: "rights", the 30 articles of the Universal Declaration of Human Rights in about 500 languages
            of 40 scripts, or "packages", one-line synopses of Debian's packages in 16 languages.
        path: folder of the texts, by default the one in the user's cache.
        languages_per_script: number of languages of a script at most, drawn at random but always the same
            ones; 0 takes all.
        max_pairs: number of texts of a language at most; the more there are, the harder it is.

    Raises:
        UserError: unknown data, or a number out of range.
    """

    name: ClassVar[str] = "bitext"
    data: Literal["rights", "packages"] = "rights"
    path: str = ""
    languages_per_script: int = 4
    max_pairs: int = 500

    def __post_init__(self) -> None:
        if self.data not in ENGLISH:
            raise UserError(f"data must be {' or '.join(ENGLISH)}, got {self.data!r}")
        if self.languages_per_script < 0:
            raise UserError(f"languages_per_script must be at least 0, got {self.languages_per_script}")
        if self.max_pairs < MIN_PAIRS:
            raise UserError(f"max_pairs must be at least {MIN_PAIRS}, got {self.max_pairs}")

    def build(self, data: SourceConfig, transform: TransformConfig, image_size: int) -> Bitext:
        folder, english = Path(self.path or cache_folder("texts")), ENGLISH[self.data]
        texts = (rights if self.data == "rights" else synopses)(folder)
        pairs: dict[str, list[Translation]] = defaultdict(list)
        for translations in texts:
            if english in translations:
                for code, text in translations.items():
                    pairs[code].append(Translation(translations[english], text))
        pairs.pop(english, None)
        kept = {code: drawn(code, own, self.max_pairs) for code, own in sorted(pairs.items())}
        whole = {code: own for code, own in kept.items() if len(own) >= MIN_PAIRS}
        if not whole:
            raise UserError(f"no language in {folder} has {MIN_PAIRS} texts that are translated")
        return Bitext(self.some(whole))

    def some(self, pairs: Mapping[str, list[Translation]]) -> dict[str, list[Translation]]:
        """The languages that are measured."""
        if not self.languages_per_script:
            return dict(pairs)
        counts: Counter[str] = Counter()
        chosen = set()
        for code in generator(0, "languages").permutation(sorted(pairs)).tolist():
            own = script_of(other for _, other in pairs[code])
            counts[own] += 1
            if counts[own] <= self.languages_per_script:
                chosen.add(code)
        return {code: own for code, own in pairs.items() if code in chosen}


class Bitext(Evaluator):
    """Share of the texts, in percent, whose translation is the most similar text of the other language.

    A text is looked for among all translations of its language: "Cyrl/rus/to_english/R@1" finds the English
    of Russian texts, "from_english" the Russian of English ones. "Cyrl/mean/..." is the mean over all
    texts in a script, by its code in ISO 15924, and "mean/..." that over all texts in all languages.
    What is as similar as the translation counts as more similar, so that a constant embedding earns nothing.
    "chance" is what random embeddings reach. Confidence intervals of means draw English texts, with all their
    translations.

    Args:
        pairs: by the code of the language, in which no text is twice.
    """

    headline: ClassVar[Mapping[str, str]] = {
        "mean/to_english/R@1": "mean/chance/R@1",
        "mean/from_english/R@1": "mean/chance/R@1",
    }

    def __init__(self, pairs: Mapping[str, Sequence[Translation]]) -> None:
        self.pairs = pairs
        self.scripts: dict[str, list[str]] = defaultdict(list)  # codes of the languages of each
        for code, own in pairs.items():
            self.scripts[script_of(other for _, other in own)].append(code)
        self.english = {
            text: row for row, text in enumerate(sorted({e for p in pairs.values() for e, _ in p}))
        }

    @property
    def fingerprint(self) -> str:
        return checksum_of(text for code, own in self.pairs.items() for pair in own for text in (code, *pair))

    def __call__(self, model: Clippo) -> Metrics:
        english = embed_texts(model, list(self.english))
        found = {}
        for code, own in self.pairs.items():
            similarity = english[self.rows(code)] @ embed_texts(model, [other for _, other in own]).T
            for direction, scores in zip(DIRECTIONS, (similarity, similarity.T), strict=True):
                found[code, direction] = first_is_own(scores)
        metrics = self.means("mean", list(self.pairs), found)
        for name, codes in sorted(self.scripts.items()):
            metrics |= self.means(f"{name}/mean", codes, found)
            for code in codes:
                metrics[f"{name}/{code}/chance/R@1"] = 100 / len(self.pairs[code])
                for direction in DIRECTIONS:
                    metrics[f"{name}/{code}/{direction}/R@1"] = percent(found[code, direction])
        return metrics

    def means(self, name: str, codes: Sequence[str], found: Mapping[tuple[str, str], np.ndarray]) -> Metrics:
        """The means over all texts of some languages."""
        texts = np.concatenate([self.rows(code) for code in codes])
        chances = np.concatenate([np.full(len(self.pairs[c]), 100 / len(self.pairs[c])) for c in codes])
        metrics: Metrics = {f"{name}/chance/R@1": float(chances.mean())}
        for direction in DIRECTIONS:
            hits = np.concatenate([found[code, direction] for code in codes])
            metrics[f"{name}/{direction}/R@1"] = percent(hits, texts)
        return metrics

    def rows(self, code: str) -> np.ndarray:
        """The numbers of the English texts of a language."""
        return np.array([self.english[text] for text, _ in self.pairs[code]])


def first_is_own(similarity: np.ndarray) -> np.ndarray:
    """(N,) bool: the rows of (N, N) whose entry on the diagonal is above all others."""
    is_below: np.ndarray = similarity < np.diag(similarity)[:, None] - TIE  # what is not a number is not
    np.fill_diagonal(is_below, True)
    out: np.ndarray = np.all(is_below, axis=1)
    return out


def rights(folder: Path) -> Iterable[dict[str, str]]:
    """The articles, each by the code of the translation. The preamble, of many lines, is left out."""
    articles: dict[int, dict[str, str]] = defaultdict(dict)
    for row in rows_of(folder / "rights.jsonl", "code", "article", "text"):
        if row["article"]:
            articles[row["article"]][row["code"]] = row["text"]
    return articles.values()


def synopses(folder: Path) -> Iterable[dict[str, str]]:
    return (row["synopsis"] for row in rows_of(folder / "packages.jsonl", "synopsis"))


def drawn(code: str, pairs: Sequence[Translation], count: int) -> list[Translation]:
    """So many of the pairs of a language at most, always the same ones.

    Texts that are not translated are left out, and those that came before, in either language.
    """
    seen: set[str] = set()
    chosen: list[Translation] = []
    for row in generator(0, "bitext", code).permutation(len(pairs)).tolist():
        english, other = pairs[row]
        if len(chosen) < count and english != other and not {english, other} & seen:
            seen |= {english, other}
            chosen.append(pairs[row])
    return chosen


def script_of(texts: Iterable[str]) -> str:
    """The code in ISO 15924 of the script of most letters, such as "Latn"; "Zyyy" if there is no letter."""
    counts = Counter(script(letter) for text in texts for letter in text if letter.isalpha())
    return counts.most_common(1)[0][0] if counts else "Zyyy"
