"""What patch-aligned text is worth: runs of the emoji recipe that differ in their text alone.

    python -m clippo.bench.studies.aligned_text train word/0 cell/0    runs, by name and seed; all by default
    python -m clippo.bench.studies.aligned_text report                 the table, and a file in bench/results

A run is on one thread and has a folder in --out; those that are finished are not run again. At 64 px all
layouts need about as many patches for a text, so equal steps take about equal seconds.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from clippo.bench.captions import CLDR
from clippo.bench.report import RESULTS, write
from clippo.data.base import Example, Source, SourceConfig, Split, Text
from clippo.data.emoji import EmojiConfig
from clippo.evaluation import suite
from clippo.model import RenderedTextConfig
from clippo.recipes import emoji
from clippo.renderer import (
    AlignedParagraphRendererConfig,
    AlignedRenderer,
    AlignedRendererConfig,
    ParagraphRendererConfig,
    Renderer,
    RendererConfig,
    UnifontRenderer,
    UnifontRendererConfig,
    aligned,
    inked_patches,
)
from clippo.renderer.paragraph import UNIFONT
from clippo.results import provenance, read_results
from clippo.seeds import generator
from clippo.training.config import TrainConfig
from clippo.training.run_folder import RunFolder, load_model
from clippo.training.trainer import train

__all__ = ["RUNS", "main", "table", "table_of_patches"]

SCRIPTS = {"ar": "Arabic", "hi": "Hindi", "th": "Thai"}

# Layouts that the renderer does not offer


class WideSpaces(aligned.CellTable):
    """White space takes a cell before a word is aligned, so a blank patch follows a word of even length."""

    def __init__(self, renderer: AlignedRenderer) -> None:
        super().__init__(renderer)
        self.space_width = 1


class WholeWords(aligned.CellTable):
    """A word is everything between two spaces, with the punctuation before and within it."""

    def kind_of(self, code_point: int) -> int:
        kind = super().kind_of(code_point)
        return aligned.WORD if kind == aligned.OTHER else kind


BLANK = "\N{FIGURE SPACE}"


class BlankLetters(aligned.CellTable):
    """The figure space is a letter, which moves the word that it begins by one cell."""

    def kind_of(self, code_point: int) -> int:
        return aligned.WORD if chr(code_point) == BLANK else super().kind_of(code_point)


TABLES = {table.__name__: table for table in (WideSpaces, WholeWords, BlankLetters)}


@dataclass(frozen=True, kw_only=True)
class VariantConfig(AlignedRendererConfig):
    """Words laid out by another table, named by its class."""

    name: ClassVar[str] = "study-variant"
    table: str

    def build(self, size: int) -> Variant:
        return Variant(size, **vars(self))


class Variant(AlignedRenderer):
    Config = VariantConfig
    table: str

    def _make_table(self) -> aligned.CellTable:
        return TABLES[self.table](self)


# Changes of the texts


@dataclass(frozen=True, kw_only=True)
class EditedConfig(SourceConfig):
    """The emoji with other texts: "shortened" or "moved", see the functions of these names."""

    name: ClassVar[str] = "study-edited"
    edit: str

    def build(self, split: Split, *, image_size: int) -> Edited:
        return Edited(EmojiConfig().build(split, image_size=image_size), EDITS[self.edit])


class Edited(Source):
    def __init__(self, source: Source, edit: Callable[[Text], Sequence[Text]]) -> None:
        self.source = source
        examples = (source[index] for index in range(len(source)))
        self.texts = [tuple(edited for text in one.texts for edited in edit(text)) for one in examples]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        return replace(self.source[index], texts=self.texts[index])

    @property
    def weights(self) -> Any:
        return self.source.weights


def shortened(text: Text) -> Sequence[Text]:
    """The text as far as all three layouts show it at 64 px."""
    shown = (int(renderer.render([text.text])[1].unfit[0]) for renderer in layouts(64))
    return [replace(text, text=text.text[: len(text.text) - max(shown)])]


@cache
def layouts(size: int) -> Sequence[Renderer]:
    return UnifontRenderer(size), AlignedRenderer(size, align="cell"), AlignedRenderer(size)


def moved(text: Text) -> Sequence[Text]:
    """The text, and four copies in which each word begins, at random, in the first or the second cell."""
    rng = generator(0, "moved", text.text)
    found = [text.text]
    for _ in range(4):
        words = text.text.split(" ")
        found.append(" ".join(BLANK * rng.integers(2) + word for word in words))
    return [replace(text, text=one, weight=text.weight / len(found)) for one in found]


def mistyped(text: Text) -> Sequence[Text]:
    """The text with a slip in one of its words: two letters swapped, one left out, doubled or replaced."""
    rng = generator(0, "mistyped", text.text)
    starts = [match.start() for match in re.finditer(r"(?=\w\w)", text.text)]
    if not starts:
        return [text]
    at = int(rng.choice(starts))
    one, two = text.text[at], text.text[at + 1]
    other = "abcdefghijklmnopqrstuvwxyz"[rng.integers(26)]
    slip = (two + one, two, one + one + two, other + two)[rng.integers(4)]
    return [replace(text, text=text.text[:at] + slip + text.text[at + 2 :])]


def without_diacritics(text: Text) -> Sequence[Text]:
    """The text as typed on a keyboard that has no letters with accents."""
    decomposed = unicodedata.normalize("NFD", text.text)
    return [replace(text, text="".join(one for one in decomposed if not unicodedata.combining(one)))]


EDITS = {
    "shortened": shortened,
    "moved": moved,
    "mistyped": mistyped,
    "without diacritics": without_diacritics,
}


class Scripts(Source):
    """The emoji that Unicode CLDR names in Arabic, Hindi and Thai (Debian's package unicode-cldr-core).

    A text in five is in each of these, the others are English.
    """

    def __init__(self, source: Source) -> None:
        names = {code: cldr_names(code) for code in SCRIPTS}
        self.source = source
        self.examples: list[Example] = []
        self.kept: list[int] = []
        for index in range(len(source)):
            example = source[index]
            key = example.key.replace("\ufe0f", "")
            if all(key in names[code] for code in SCRIPTS):
                english = [replace(text, weight=0.4 * text.weight) for text in example.texts]
                others = [Text(names[code][key], code, 0.2) for code in SCRIPTS]
                self.examples.append(replace(example, texts=(*english, *others)))
                self.kept.append(index)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]

    @property
    def weights(self) -> Any:
        weights = self.source.weights
        assert weights is not None
        return weights[self.kept]


@dataclass(frozen=True, kw_only=True)
class ScriptsConfig(SourceConfig):
    name: ClassVar[str] = "study-scripts"

    def build(self, split: Split, *, image_size: int) -> Scripts:
        return Scripts(EmojiConfig(languages=("en",)).build(split, image_size=image_size))


def cldr_names(code: str) -> dict[str, str]:
    """Emoji, without variation selectors, and their names in a language."""
    found = {}
    for folder in ("annotations", "annotationsDerived"):
        root = ElementTree.parse(CLDR / folder / f"{code}.xml").getroot()  # noqa: S314 - the system's file
        for element in root.iter("annotation"):
            if element.attrib.get("type") == "tts":
                found[element.attrib["cp"].replace("\ufe0f", "")] = element.text or ""
    return found


# Runs

NONE, CELL, WORD = UnifontRendererConfig(), AlignedRendererConfig(align="cell"), AlignedRendererConfig()


@dataclass(frozen=True)
class Run:
    """One row of the table: what it is in words, its change of the recipe, and its seeds."""

    title: str
    change: Callable[[TrainConfig], TrainConfig]
    seeds: Sequence[int] = (0,)


def drawn_by(renderer: RendererConfig, **others: Any) -> Callable[[TrainConfig], TrainConfig]:
    return lambda config: replace(config, renderer=renderer, **others)


def at_96_px(renderer: RendererConfig) -> Callable[[TrainConfig], TrainConfig]:
    return lambda config: replace(
        config, renderer=renderer, patch_dropout=0.5, model=replace(config.model, image_size=96)
    )


def all_patches(renderer: RendererConfig) -> Callable[[TrainConfig], TrainConfig]:
    return lambda config: replace(
        config, renderer=renderer, model=replace(config.model, text=RenderedTextConfig(tokens="all"))
    )


NOTO = (
    "NotoSans-Regular.ttf", "NotoSansArabic-Regular.ttf", "NotoSansDevanagari-Regular.ttf",
    "NotoSansThai-Regular.ttf", *UNIFONT,
)  # fmt: skip


def scripts(renderer: RendererConfig) -> Callable[[TrainConfig], TrainConfig]:
    return lambda config: replace(config, renderer=renderer, data=ScriptsConfig())


SHORTENED = EditedConfig(edit="shortened")
RUNS = {
    "none": Run("published layout", drawn_by(NONE), seeds=(0, 1, 2)),
    "cell": Run("cells", drawn_by(CELL), seeds=(0, 1, 2)),
    "word": Run("words", drawn_by(WORD), seeds=(0, 1, 2)),
    "word-blank": Run("words, always a blank between two", drawn_by(VariantConfig(table="WideSpaces"))),
    "word-whole": Run("words, split at spaces alone", drawn_by(VariantConfig(table="WholeWords"))),
    "word-moved": Run(
        "words, four in five texts with words moved",
        drawn_by(VariantConfig(table="BlankLetters"), data=EditedConfig(edit="moved")),
    ),
    "none-same": Run("published layout, only the text that all show", drawn_by(NONE, data=SHORTENED)),
    "cell-same": Run("cells, only the text that all show", drawn_by(CELL, data=SHORTENED)),
    "word-same": Run("words, only the text that all show", drawn_by(WORD, data=SHORTENED)),
    "none-96": Run("published layout, 96 px, half of each picture", at_96_px(NONE)),
    "word-96": Run("words, 96 px, half of each picture", at_96_px(WORD)),
    "none-all": Run("published layout, all patches", all_patches(NONE)),
    "word-all": Run("words, all patches", all_patches(WORD)),
    "scripts-none": Run("published layout", scripts(NONE)),
    "scripts-word": Run("words", scripts(WORD)),
    "scripts-paragraph": Run(
        "shaped lines, Noto fonts", scripts(ParagraphRendererConfig(fonts=NOTO, font_size=12))
    ),
    "scripts-aligned": Run(
        "shaped words, Noto fonts", scripts(AlignedParagraphRendererConfig(fonts=NOTO, font_size=12))
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m clippo.bench.studies.aligned_text",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", choices=("train", "report"))
    parser.add_argument("runs", nargs="*", help="such as word/0")
    parser.add_argument("--out", type=Path, default=Path("runs/aligned_text"))
    arguments = parser.parse_args()
    known = [f"{name}/{seed}" for name, run in RUNS.items() for seed in run.seeds]
    if unknown := set(arguments.runs) - set(known):
        parser.error(f"runs must be among {', '.join(known)}; got {', '.join(sorted(unknown))}")
    if arguments.verb == "report":
        rows = [row(name, run, arguments.out) for name, run in RUNS.items()]
        rows = [row for row in rows if row["seeds"]]
        patches = distinct_patches()
        for row_of_layout in (row for row in rows if row["run"] in patches):
            name = row_of_layout["run"]
            row_of_layout |= {"asked": robustness(arguments.out / name / "0"), "patches": patches[name]}
        print("\n\n".join([table(rows), table(rows, of_scripts=True), table_of_patches(rows)]))
        print(f"\nwritten to {write(RESULTS, provenance(threads=1), rows, '-aligned-text')}")
        return 0
    torch.set_num_threads(1)
    wanted = arguments.runs or known
    for one in wanted:
        name, _, seed = one.partition("/")
        if (arguments.out / one / "results.json").exists():
            continue
        if len(wanted) > 1:  # a process of its own, because data and glyphs are cached
            command = [sys.executable, "-m", __spec__.name, "train", one, "--out", str(arguments.out)]
            subprocess.run(command, check=True)
        else:
            train(replace(RUNS[name].change(emoji.recipe()), seed=int(seed)), arguments.out / one)
    return 0


# The tables: a language or a mean of languages, among which emoji, and k
SCRIPTS_COLUMNS = {
    f"{title}{name} R@10": (evaluator, (code,), 10)
    for evaluator, title in (("trained", ""), ("held_out", "held out, "))
    for code, name in {"en": "English", **SCRIPTS}.items()
}
COLUMNS = {
    "English R@1": ("trained", ("en",), 1),
    "English R@10": ("trained", ("en",), 10),
    "other four R@10": ("trained", ("de", "es", "fr", "zh"), 10),
    "Chinese R@10": ("trained", ("zh",), 10),
    "held out R@1": ("held_out", ("en",), 1),
    "held out R@10": ("held_out", ("en",), 10),
    "held out, other four R@10": ("held_out", ("de", "es", "fr", "zh"), 10),
    "held out among all R@1": ("held_out_among_all", ("en",), 1),
    "held out among all R@10": ("held_out_among_all", ("en",), 10),
}


# Edits of the texts that a trained model is asked with, and the languages whose mean R@10 is shown.
ASKED = {"mistyped": ("en",), "without diacritics": ("de", "es", "fr")}


def robustness(folder: Path) -> dict[str, float]:
    """R@10 of a run as it was measured at its end, and with each edit of the texts, in percent."""
    model = load_model(folder)
    config = RunFolder(folder).config()
    measured = {
        row["metric"]: row["value"]
        for row in read_results(folder / "results.json").rows
        if row["evaluator"] == "trained"
    }
    found = {}
    for edit, languages in ASKED.items():
        evaluators = suite.build(
            {"trained": config.evaluators["trained"]},
            EditedConfig(edit=edit),
            config.transform,
            config.model.image_size,
        )
        edited = {row["metric"]: row["value"] for row in suite.evaluate(model, evaluators)}
        for title, values in ((f"not {edit}", measured), (edit, edited)):
            found[title] = statistics.mean(values[f"{one}/text_to_image/R@10"] for one in languages)
    return found


def distinct_patches() -> dict[str, dict[str, float]]:
    """Count the patches that the English names of the emoji give at 224 px, by layout.

    Returns:
        For each layout the number of different patches, the mean number of patches in a name, and the
        different patches per 1,000 different words.
    """
    source = EmojiConfig().build("all", image_size=64)
    names = [source[index].texts[0].text for index in range(len(source))]
    words = len({word for name in names for word in name.split()})
    found = {}
    for name, renderer in zip(("none", "cell", "word"), layouts(224), strict=True):
        images = renderer(names)
        is_inked = inked_patches(images, 16, renderer.background)
        patches = images.reshape(len(names), 14, 16, 14, 16).swapaxes(2, 3)[is_inked]
        distinct = len(np.unique(patches.reshape(-1, 256), axis=0))
        found[name] = {
            "distinct": distinct,
            "a name": len(patches) / len(names),
            "per 1,000 words": 1000 * distinct / words,
        }
    return found


def row(name: str, run: Run, out: Path) -> dict[str, Any]:
    """The finished seeds of a run: lists of recalls from text to image, and the mean seconds."""
    folders = {seed: out / name / str(seed) for seed in run.seeds}
    folders = {seed: folder for seed, folder in folders.items() if (folder / "results.json").exists()}
    columns = SCRIPTS_COLUMNS if name.startswith("scripts-") else COLUMNS
    recalls: dict[str, list[float]] = {column: [] for column in columns}
    seconds = []
    for folder in folders.values():
        values = {
            (row["evaluator"], row["metric"]): row["value"]
            for row in read_results(folder / "results.json").rows
        }
        for column, (evaluator, languages, k) in columns.items():
            metrics = (f"{language}/text_to_image/R@{k}" for language in languages)
            recalls[column].append(statistics.mean(values[evaluator, metric] for metric in metrics))
        seconds.append(json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["elapsed_s"])
    about = {"run": name, "title": run.title, "seeds": list(folders)}
    return {**about, "seconds": statistics.mean(seconds) if seconds else 0.0, "recalls": recalls}


def table(rows: Sequence[dict[str, Any]], of_scripts: bool = False) -> str:
    """In Markdown: means, with the least and the most where there are several seeds.

    Args:
        rows: as of `row`.
        of_scripts: show the runs on Arabic, Hindi and Thai, and not the others.
    """
    shown = [column for column in COLUMNS if column not in ("Chinese R@10", "held out, other four R@10")]
    if of_scripts:
        shown = list(SCRIPTS_COLUMNS)
    rows = [row for row in rows if row["run"].startswith("scripts-") == of_scripts]
    lines = [f"| | {' | '.join(shown)} |", f"|---|{'--:|' * len(shown)}"]
    for row in rows:
        cells = []
        for values in (row["recalls"][column] for column in shown):
            spread = f" ({min(values):.1f}-{max(values):.1f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        lines.append(f"| {row['title']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table_of_patches(rows: Sequence[dict[str, Any]]) -> str:
    """In Markdown: recall of seed 0 with slips and without diacritics, and how many patches there are."""
    rows = [row for row in rows if "asked" in row]
    lines = [
        "| | English R@10 | mistyped | de, es, fr R@10 | without diacritics | patches a name "
        "| different patches per 1,000 words |",
        f"|---|{'--:|' * 6}",
    ]
    for row in rows:
        asked, patches = " | ".join(f"{value:.1f}" for value in row["asked"].values()), row["patches"]
        lines.append(
            f"| {row['title']} | {asked} | {patches['a name']:.1f} | {patches['per 1,000 words']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
