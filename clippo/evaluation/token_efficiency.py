"""Tokens that a text takes: inked patches against bytes and byte-pair encoding, in hundreds of languages.

A model of rendered text reads as many tokens as there are patches with ink, whatever the script, where a
tokenizer that was trained on English needs many more for other languages. The texts are articles of the
Universal Declaration of Human Rights, which say the same in every language.
"""

from __future__ import annotations

import hashlib
import importlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from clippo.data.base import SourceConfig
from clippo.data.remote import cache_folder
from clippo.data.transform import TransformConfig
from clippo.errors import UserError, first_line
from clippo.evaluation.base import Evaluator, EvaluatorConfig, Metrics
from clippo.evaluation.figures import new_figure, picture_of
from clippo.evaluation.intervals import bootstrap, mean_estimate, percent
from clippo.evaluation.text_tasks import rows_of
from clippo.model import Clippo, RenderedText
from clippo.renderer import Renderer, inked_patches
from clippo.renderer.code_points import code_points_of, scripts

__all__ = ["TokenEfficiencyConfig"]

ENGLISH = "eng"  # its code among the declarations
FIRST_MEASURED = 21  # articles from this one on are measured; the tokenizer of all languages has the others
MAX_CHARS = 2000  # of a text; the canvas below holds twice as many full-width characters
CANVAS_ROWS = 64  # of text, on a canvas from which no text is cut
BATCH = 16  # texts that are drawn at a time
ENGLISH_TEXTS = 20_000  # descriptions of packages for the English tokenizer, 8 million characters
MIN_LANGUAGES = 2  # of a script that is listed by itself
LABELS = {
    "patches": "inked patches",
    "bytes": "UTF-8 bytes",
    "bpe_en": "BPE, English",
    "bpe_all": "BPE, all languages",
}

OTHERS = ("bytes", "bpe_en", "bpe_all")


@dataclass(frozen=True, kw_only=True)
class TokenEfficiencyConfig(EvaluatorConfig):
    """Tokens that texts take in hundreds of languages: inked patches, bytes, and byte-pair encoding.

    Attributes:
        path: the folder that `clippo data fetch texts` makes; by default the one in the user's cache.
        vocab_size: largest vocabulary of the two tokenizers, which are trained on the texts of the folder;
            32,000 is that of the baselines of the paper (arXiv 2212.08045).

    Raises:
        UserError: a vocabulary that does not hold the 256 bytes.
    """

    name: ClassVar[str] = "token_efficiency"
    path: str = ""
    vocab_size: int = 32_000

    def __post_init__(self) -> None:
        if self.vocab_size < 300:
            raise UserError(f"vocab_size must be at least 300, got {self.vocab_size}")

    def build(self, data: SourceConfig, transform: TransformConfig, image_size: int) -> TokenEfficiency:
        if find_spec("sentencepiece") is None:
            raise UserError("token_efficiency needs sentencepiece: pip install 'clippo-kernels[tokenizers]'")
        return TokenEfficiency(Path(self.path or cache_folder("texts")), self.vocab_size)


class TokenEfficiency(Evaluator):
    """Tokens of articles 21 to 30 of the declaration, by language and kind of token.

    The kinds are "patches", those with ink in the layout of the model's renderer on a canvas from which
    nothing is cut; "bytes" of UTF-8; "bpe_en" and "bpe_all", byte-pair encodings of SentencePiece with
    bytes for what is not in their vocabularies, trained on English descriptions of Debian's packages, and on
    the preamble and articles 1 to 20 of the declaration in all languages. Of a model that does not render its
    text there are no patches.

    - "english/KIND" and "mean/KIND": tokens of a text in English, and in the mean over the languages.
    - "median_ratio/KIND", "worst_ratio/KIND": tokens of a language over those of the same articles in
      English, in the median and in the worst language; "script/Cyrl/KIND": the median of those written in a
      script; "ratio/deu_1996/KIND": of a language.
    - "fewer_patches/KIND": percent of the languages whose texts take fewer patches than tokens of this kind.
    - "canvas/patches": patches that an image of the model holds; "canvas/texts_cut": percent of the texts
      that do not fit into one.

    Args:
        folder: what `clippo data fetch texts` has made.
        vocab_size: of the tokenizers.

    Raises:
        UserError: a file is not there, or lacks English texts.
    """

    headline: ClassVar[Mapping[str, str]] = {
        "median_ratio/patches": "",
        "median_ratio/bpe_en": "",
        "worst_ratio/patches": "",
        "worst_ratio/bpe_en": "",
        "fewer_patches/bpe_en": "",
        "fewer_patches/bytes": "",
    }

    def __init__(self, folder: Path, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        rows = list(rows_of(folder / "rights.jsonl", "code", "article", "text"))
        wanted = [row for row in rows if row["article"] >= FIRST_MEASURED and len(row["text"]) <= MAX_CHARS]
        place = {row["article"]: row for row in wanted if row["code"] == ENGLISH}
        measured = [row for row in wanted if row["article"] in place]
        self.codes = list(dict.fromkeys(row["code"] for row in measured))
        if len(self.codes) < 2:
            raise UserError(f"{folder}/rights.jsonl must hold articles from {FIRST_MEASURED} in {ENGLISH}")
        self.texts = [row["text"] for row in measured]
        self.language = np.array([self.codes.index(row["code"]) for row in measured])
        # The number of the English text of the same article.
        english = {row["article"]: number for number, row in enumerate(measured) if row["code"] == ENGLISH}
        self.partner = np.array([english[row["article"]] for row in measured])
        packages = islice(rows_of(folder / "packages.jsonl", "synopsis", "description"), ENGLISH_TEXTS)
        self.trained = {
            "bpe_en": [f"{p['synopsis'].get('en')}. {p['description'].get('en')}" for p in packages],
            "bpe_all": [row["text"] for row in rows if row["article"] < FIRST_MEASURED],
        }
        self.scripts = self.scripts_of_languages()

    @property
    def fingerprint(self) -> str:
        texts = chain(self.texts, *self.trained.values())
        return hashlib.sha256("\0".join(texts).encode()).hexdigest()

    def __call__(self, model: Clippo) -> Metrics:
        counts = self.counts_of(model)
        is_english = self.language == self.codes.index(ENGLISH)
        means = {kind: self.sums(own) / self.sums(np.ones_like(own)) for kind, own in counts.items()}
        ratios = {kind: self.ratios(own) for kind, own in counts.items()}
        metrics: Metrics = {f"english/{kind}": mean_estimate(own[is_english]) for kind, own in counts.items()}
        metrics |= {f"mean/{kind}": mean_estimate(own) for kind, own in means.items()}
        metrics |= {f"median_ratio/{kind}": bootstrap(median, own) for kind, own in ratios.items()}
        metrics |= {f"worst_ratio/{kind}": float(own.max()) for kind, own in ratios.items()}
        if "patches" in counts:
            for kind in OTHERS:
                metrics[f"fewer_patches/{kind}"] = percent(means["patches"] < means[kind])
            metrics |= self.canvas(model)
        for script, is_own in self.scripts.items():
            metrics |= {f"script/{script}/{kind}": median(own[is_own]) for kind, own in ratios.items()}
        for number, code in enumerate(self.codes):
            metrics |= {f"ratio/{code}/{kind}": float(own[number]) for kind, own in ratios.items()}
        return metrics

    def counts_of(self, model: Clippo) -> dict[str, np.ndarray]:
        """(T,) tokens of each text, by kind."""
        if not isinstance(model.text_input, RenderedText):
            return self.other_counts
        patches = inked_patches_of(self.texts, renderer_of(model), model.config.patch_size)
        return {"patches": patches, **self.other_counts}

    @cached_property
    def other_counts(self) -> dict[str, np.ndarray]:
        """(T,) tokens of each text, of the kinds that do not depend on the model."""
        counts = {"bytes": np.array([len(text.encode()) for text in self.texts])}
        for kind, texts in self.trained.items():
            encoded = trained_bpe(texts, self.vocab_size).encode(self.texts)
            counts[kind] = np.array([len(tokens) for tokens in encoded])
        return counts

    def sums(self, counts: np.ndarray) -> np.ndarray:
        """(L,) sums over the texts of each language."""
        return np.bincount(self.language, weights=counts)

    def ratios(self, counts: np.ndarray) -> np.ndarray:
        """(L,) tokens of each language over those of the same articles in English."""
        ratios: np.ndarray = self.sums(counts) / self.sums(counts[self.partner])
        return ratios

    def canvas(self, model: Clippo) -> Metrics:
        """What an image of the model holds."""
        cut = []
        for texts in batches(self.texts):
            _, report = renderer_of(model).render(texts, patch_size=model.config.patch_size)
            cut.append(report.unfit > 0)
        share = percent(np.concatenate(cut), self.language)
        return {"canvas/patches": float(model.config.num_patches), "canvas/texts_cut": share}

    def scripts_of_languages(self) -> dict[str, np.ndarray]:
        """(L,) bool, the languages written in each script that several have, the most frequent one first."""
        code_point, lengths = code_points_of(self.texts)
        names, script_of = scripts()
        language = np.repeat(self.language, lengths)
        pairs = np.bincount(
            language * len(names) + script_of[code_point], minlength=len(self.codes) * len(names)
        ).reshape(-1, len(names))
        pairs[:, names.index("")] = 0  # spaces and signs
        main = pairs.argmax(1)
        frequent = Counter(main.tolist()).most_common()
        return {names[script]: main == script for script, count in frequent if count >= MIN_LANGUAGES}

    def picture(self, model: Clippo) -> Image.Image:
        """The tokens of the languages relative to English, sorted, and their medians by script."""
        figure = new_figure(1200, 600)
        left, right = figure.subplots(1, 2)
        rows = range(len(self.scripts))
        for kind, counts in self.counts_of(model).items():
            ratios = self.ratios(counts)
            left.plot(np.sort(ratios), label=LABELS[kind])
            right.plot([median(ratios[is_own]) for is_own in self.scripts.values()], rows, "o")
        left.set_xlabel(f"{len(self.codes)} languages, sorted for each kind of token")
        left.set_ylabel("tokens relative to English")
        left.axhline(1, color="0.6", zorder=0)
        left.legend()
        right.set_xlabel("tokens relative to English, median of the languages of a script")
        right.set_yticks(rows, [f"{script} ({is_own.sum()})" for script, is_own in self.scripts.items()])
        right.axvline(1, color="0.6", zorder=0)
        right.invert_yaxis()
        right.grid(axis="y", alpha=0.25)
        left.set_yscale("log")
        right.set_xscale("log")
        for axis in (left.yaxis, right.xaxis):
            axis.get_major_locator().set_params(subs=(1, 2, 5))
            axis.set_major_formatter("{x:g}")
        return picture_of(figure)


def trained_bpe(texts: Sequence[str], vocab_size: int) -> Any:
    """A byte-pair encoding of SentencePiece (arXiv 1808.06226), with bytes for unknown characters.

    Where the texts do not give so many merges, its vocabulary is smaller.

    Raises:
        UserError: the vocabulary does not even hold the characters of the texts.
    """
    sentencepiece = importlib.import_module("sentencepiece")
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(" ".join(text.split()) for text in texts),
            model_writer=written,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            byte_fallback=True,
            max_sentence_length=2**20,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(f"vocab_size {vocab_size} does not fit the texts: {first_line(error)}") from error
    return sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())


def renderer_of(model: Clippo) -> Renderer:
    renderer = model.renderer
    if not isinstance(renderer, Renderer):
        raise UserError(f"token_efficiency needs a clippo.renderer.Renderer, got {type(renderer).__name__}")
    return renderer


def inked_patches_of(texts: Sequence[str], renderer: Renderer, patch_size: int) -> np.ndarray:
    """(T,) patches with ink of each text, on a canvas of the same layout from which nothing is cut."""
    config: Any = renderer.config
    side = -(-CANVAS_ROWS * renderer.row_height // patch_size) * patch_size
    large = replace(config, max_chars=MAX_CHARS).build(side)
    return np.concatenate(
        [inked_patches(large(part), patch_size, large.background).sum((1, 2)) for part in batches(texts)]
    )


def batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))


def median(x: np.ndarray) -> float:
    return float(np.median(x))
