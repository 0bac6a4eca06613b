"""What patch-aligned text is worth: runs of the emoji recipe that differ in their text alone.

    python -m clippo.bench.studies.aligned_text train word/0 cell/0    runs, by name and seed; all by default
    python -m clippo.bench.studies.aligned_text report                 the table, and a file in bench/results

A run is on one thread and has a folder in --out; those that are finished are not run again. All layouts need
as many patches for a text, within 4 %, so equal steps are equal seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch

from clippo.bench.report import RESULTS, write
from clippo.data.base import Example, Source, SourceConfig, Split, Text
from clippo.data.emoji import EmojiConfig
from clippo.model import RenderedTextConfig
from clippo.recipes import emoji
from clippo.renderer import (
    AlignedRenderer,
    AlignedRendererConfig,
    Renderer,
    RendererConfig,
    UnifontRenderer,
    UnifontRendererConfig,
    aligned,
)
from clippo.results import provenance, read_results
from clippo.seeds import generator
from clippo.training.config import TrainConfig
from clippo.training.trainer import train

__all__ = ["RUNS", "main", "table"]

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


BLANK = "\N{BRAILLE PATTERN BLANK}"


class BlankLetters(aligned.CellTable):
    """The blank braille pattern is a letter, which moves the word that it begins by one cell."""

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
    shown = (int(renderer.render([text.text])[1].unfit[0]) for renderer in layouts())
    return [replace(text, text=text.text[: len(text.text) - max(shown)])]


@cache
def layouts() -> Sequence[Renderer]:
    return UnifontRenderer(64), AlignedRenderer(64, align="cell"), AlignedRenderer(64)


def moved(text: Text) -> Sequence[Text]:
    """The text, and four copies in which each word begins, at random, in the first or the second cell."""
    rng = generator(0, "moved", text.text)
    found = [text.text]
    for _ in range(4):
        words = text.text.split(" ")
        found.append(" ".join(BLANK * rng.integers(2) + word for word in words))
    return [replace(text, text=one, weight=text.weight / len(found)) for one in found]


EDITS = {"shortened": shortened, "moved": moved}

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
        print(table(rows))
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


# The table: a language or a mean of languages, among which emoji, and k
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


def row(name: str, run: Run, out: Path) -> dict[str, Any]:
    """The finished seeds of a run: lists of recalls from text to image, and the mean seconds."""
    folders = {seed: out / name / str(seed) for seed in run.seeds}
    folders = {seed: folder for seed, folder in folders.items() if (folder / "results.json").exists()}
    recalls: dict[str, list[float]] = {column: [] for column in COLUMNS}
    seconds = []
    for folder in folders.values():
        values = {
            (row["evaluator"], row["metric"]): row["value"]
            for row in read_results(folder / "results.json").rows
        }
        for column, (evaluator, languages, k) in COLUMNS.items():
            metrics = (f"{language}/text_to_image/R@{k}" for language in languages)
            recalls[column].append(statistics.mean(values[evaluator, metric] for metric in metrics))
        seconds.append(json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["elapsed_s"])
    about = {"run": name, "title": run.title, "seeds": list(folders)}
    return {**about, "seconds": statistics.mean(seconds) if seconds else 0.0, "recalls": recalls}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """In Markdown: means, with the least and the most where there are several seeds."""
    shown = [column for column in COLUMNS if column not in ("Chinese R@10", "held out, other four R@10")]
    lines = [f"| | {' | '.join(shown)} |", f"|---|{'--:|' * len(shown)}"]
    for row in rows:
        cells = []
        for values in (row["recalls"][column] for column in shown):
            spread = f" ({min(values):.1f}-{max(values):.1f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        lines.append(f"| {row['title']} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
