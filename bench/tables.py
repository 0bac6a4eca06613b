"""Writes the measured tables of README.md, docs/*.md and the model cards from the files in bench/results.

    python -m clippo.bench.tables            rewrite the pages
    python -m clippo.bench.tables --check    change nothing, and fail where a page differs from the results

In a page, a table stands between `<!-- table: NAME -->` and `<!-- end -->`, where NAME is a key of TABLES.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from clippo.bench.report import markdown
from clippo.bench.studies import (
    aligned_text,
    claims_report,
    compare_training,
    dictionary_model,
    miniature,
    sentence_pairs,
)
from clippo.results import ROOT, Row, read_results

__all__ = ["main"]

# The files in bench/results that the tables show. To show new results, name their file here.
RENDERERS = "amd-epyc/2026-11-26-328e283.json"
STEPS = "amd-epyc/2026-11-25-0f0e138.json"
DESCRIPTIONS = "amd-epyc/2026-11-28-622c4ba-sentence-pairs.json"
PAIRS_OF_SENTENCES = "amd-epyc/2026-11-27-a417b16.json"
RECIPE = "amd-epyc/2026-11-25-86d2b34-training-recipe.json"
PATCH_EMBED = "amd-epyc/2026-11-24-5e3cec3.json"
HOST = "amd-epyc/2026-11-28-b44e8d9.json"
CONTRASTIVE = "amd-epyc/2026-11-24-7d1f62b.json"
CANVAS = "amd-epyc/2026-11-24-51efd68-training-tokens.json"
EMOJI = "amd-epyc/2026-11-26-3a6856b-training-emoji.json"
DICTIONARY = "amd-epyc/2026-11-26-612ec50-training-dictionary.json"
SENTENCES = "amd-epyc/2026-11-26-023fef9-sentence-pairs.json"
DATA = "amd-epyc/2026-11-26-770488f.json"
ALIGNED = "amd-epyc/2026-11-26-151249a-aligned-text.json"
CLAIMS = "amd-epyc/2026-11-27-fd8be06-claims.json"
DICTIONARY_MODEL = "amd-epyc/2026-11-28-2af9485-dictionary-model.json"
MINIATURE = "intel-r-xeon-r-processor/2026-11-27-60e79f4-miniature.json"

PLACE = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

CONTESTANTS = {
    "UnifontRenderer": "`UnifontRenderer`",
    "ParagraphRenderer": "`ParagraphRenderer`",
    "AlignedRenderer": "`AlignedRenderer`",
    "AlignedRenderer, packed": "`AlignedRenderer`, packed",
    "AlignedParagraphRenderer": "`AlignedParagraphRenderer`",
    "AlignedParagraphRenderer, packed": "`AlignedParagraphRenderer`, packed",
    "drawSimpleText": "Skia, `drawSimpleText` a line, unshaped",
    "Pillow": "Pillow, same font",
    "Pillow raqm": "Pillow, raqm",
}
LANGUAGES = {"en": "English", "de": "German", "es": "Spanish", "fr": "French", "zh": "Chinese"}
# A language for each script, and some of the larger ones in Latin letters.
DICTIONARY_LANGUAGES = {
    "en": "English", "de": "German", "fr": "French", "es": "Spanish", "pt": "Portuguese (Brazil)",
    "pl": "Polish", "fi": "Finnish", "tr": "Turkish", "vi": "Vietnamese", "id": "Indonesian",
    "sw": "Swahili", "ru": "Russian", "el": "Greek", "ka": "Georgian", "hy": "Armenian",
    "he": "Hebrew", "ar": "Arabic", "hi": "Hindi",
    "ta": "Tamil", "am": "Amharic", "km": "Khmer", "ko": "Korean", "ja": "Japanese", "zh": "Chinese",
}  # fmt: skip
UNSEEN_LANGUAGES = {
    "af": "Afrikaans", "ca": "Catalan", "da": "Danish", "eu": "Basque", "mk": "Macedonian", "ms": "Malay",
    "ne": "Nepali", "sk": "Slovak", "th": "Thai", "uk": "Ukrainian",
}  # fmt: skip
DIRECTIONS = {"text_to_image": "text->image", "image_to_text": "image->text"}
KS = (1, 5, 10)
# Captions of the tables, by evaluator of the emoji recipe; the number is the count of candidates.
EVALUATORS = {
    "trained": "Trained concepts among the {:,} trained ones",
    "held_out": "Held-out compositions among the {:,} held-out ones",
    "held_out_among_all": "Held-out compositions among all {:,} concepts",
}


def thousands_per_second(rows: Sequence[Row]) -> str:
    """Thousand strings per second that renderers draw of text that is new to them."""

    def thousands(rate: int) -> str:
        return f"{rate / 1e3:.0f}" if rate >= 10_000 else f"{rate / 1e3:.1f}"

    rates = by_group_and_name(rows, "strings_per_s")
    kinds = kinds_of_text(rows, "unseen")
    lines = [
        [label, *(thousands(rates[f"{kind}, unseen", name]) for kind in kinds)]
        for name, label in CONTESTANTS.items()
    ]
    return markdown(["thousand strings/s", *kinds], lines)


def strings_per_second(rows: Sequence[Row]) -> str:
    """Strings per second that renderers draw of text that is new to them, or that they draw again."""
    rates = by_group_and_name(rows, "strings_per_s")
    kinds = kinds_of_text(rows, "unseen")
    lines = []
    for name, label in CONTESTANTS.items():
        lines.append([label, *(f"{rates[f'{kind}, unseen', name]:,}" for kind in kinds)])
        if (f"{kinds[0]}, repeated", name) in rates:  # peers remember nothing, so they draw new text alone
            lines.append([f"{label}, repeated", *(f"{rates[f'{kind}, repeated', name]:,}" for kind in kinds)])
    return markdown(["strings/s", *kinds], lines)


def strings_per_second_of_pools(rows: Sequence[Row]) -> str:
    """Strings per second that come out of pools of one and of two processes."""
    rates = by_group_and_name(rows, "strings_per_s")
    kinds = kinds_of_text(rows, "processes")
    lines = []
    for name in ("UnifontRenderer", "ParagraphRenderer"):
        one = [rates[f"{kind}, processes", f"{name}, 1 worker"] for kind in kinds]
        two = [rates[f"{kind}, processes", f"{name}, 2 workers"] for kind in kinds]
        lines.append([f"`{name}`, 1 worker", *(f"{rate:,}" for rate in one)])
        lines.append(["2 workers", *(f"{b:,} ({b / a:.2f}x)" for a, b in zip(one, two, strict=True))])
    return markdown(["strings/s", *kinds], lines)


def pages(rows: Sequence[Row]) -> str:
    """Milliseconds of a page, and words per second."""
    rows = [row for row in rows if "ms_per_page" in row]
    words = round(rows[0]["words_per_s"] * rows[0]["ms_per_page"] / 1e3, -1)
    lines = [[row["name"], f"{row['ms_per_page']:.1f}", f"{row['words_per_s']:,}"] for row in rows]
    return markdown([f"pages of {words:.0f} words", "ms/page", "words/s"], lines)


DATA_GROUPS = {
    "read": "read pairs from tars in random order, one core",
    "decode": "decode a JPEG of 640 x 480 px and resize it to 224, one core",
    "loader": "load such pairs into batches, two cores",
    "order": "order of examples, one core",
}


def data_rates(rows: Sequence[Row]) -> str:
    """Examples a second of the parts of the way of data; times the peer, where a group has one; and how many
    grey levels a pixel of a decoded picture is from Pillow's on average.
    """
    lines = []
    for group, title in DATA_GROUPS.items():
        own = {row["name"]: row for row in rows if row["group"] == group}
        peer = next((row["per_s"] for name, row in own.items() if not name.startswith("clippo")), None)
        for name, row in own.items():
            times = f"{row['per_s'] / peer:.1f}" if peer else ""
            difference = f"{row['difference']:.2f}" if "difference" in row else ""
            lines.append([f"{title}: {name}", f"{row['per_s']:,}", times, difference])
    return markdown(["", "examples/s", "times the peer", "grey levels from Pillow"], lines)


def kinds_of_text(rows: Sequence[Row], suffix: str) -> list[str]:
    """The kinds of text that groups of this suffix measure, in the order of the file."""
    groups = dict.fromkeys(row["group"] for row in rows)
    return [group.removesuffix(f", {suffix}") for group in groups if group.endswith(f", {suffix}")]


def training_steps(rows: Sequence[Row]) -> str:
    """Pairs per second of optimizer steps, by the patches that are read and the size of the canvas."""
    rates = by_group_and_name(rows, "pairs_per_s")
    canvases = ["64 px", "96 px", "128 px", "160 px"]
    lines = []
    for label, suffix in (("", ""), ("half of each photograph, ", ", half of each photograph")):
        groups = [f"training step, {canvas}{suffix}" for canvas in canvases]
        every = [rates[group, "all"] for group in groups]
        inked = [rates[group, "inked"] for group in groups]
        lines.append([f"{label}all", *map(str, every)])
        lines.append([f"{label}inked", *(f"{b} ({b / a:.2f}x)" for a, b in zip(every, inked, strict=True))])
    return markdown(["pairs/s", *canvases], lines)


def pairs_of_sentences(rows: Sequence[Row]) -> str:
    """Patches of a pair; steps and batches, times those of pictures alone; the same of a B/16 by FLOPs."""
    header = [
        "", "patches a pair", "a step", "by FLOPs", "a batch", "B/16, inked: patches a pair", "by FLOPs",
    ]  # fmt: skip
    batches = {row["name"]: row for row in rows if row["test"] == "test_batch_of_sentences"}
    lines = []
    for row in (row for row in rows if row["test"] == "test_pairs_of_sentences"):
        name = row["name"]
        lines.append(
            [
                name,
                f"{row['patches']:.1f}",
                times(row),
                f"{row['flops_ratio']:.2f}",
                times(batches[name]) if name in batches else "",
                f"{row['b16_inked_patches']:.0f}",
                f"{row['b16_inked_flops_ratio']:.2f}",
            ]
        )
    return markdown(header, lines)


def times(row: Row) -> str:
    """A ratio with its interval."""
    return f"{row['ratio']:.2f} ({row['ratio_low']:.2f}-{row['ratio_high']:.2f})"


def recipe_by_text_tokens(rows: Sequence[Row]) -> str:
    """The recipe with all patches of a text, and with those that hold ink."""
    return compare_training.table([row for row in rows if row["name"] not in ("1T", "two towers")])


def short_runs_at_96_px(rows: Sequence[Row]) -> str:
    """Short runs on the larger canvas, with all patches of a text, and with those that hold ink."""
    return compare_training.table([row for row in rows if not row["name"].startswith("64 px")])


def patch_embed_times(rows: Sequence[Row]) -> str:
    """Milliseconds of patch embedding, and how many times as long the peers take."""
    times = by_group_and_name(rows, "median_us")
    shares = by_group_and_name(rows, "share_of_roofline")
    lines = []
    for group in dict.fromkeys(row["group"] for row in rows):
        ours = times[group, "clippo"]
        best_peer = min(time for (of, name), time in times.items() if of == group and name != "clippo")
        lines.append(
            [
                group.removeprefix("patch_embed, "),
                f"{ours / 1e3:.1f}",
                f"{times[group, 'conv'] / ours:.2f}x",
                f"{best_peer / ours:.2f}x",
                f"{shares[group, 'clippo']:.0%}",
            ]
        )
    return markdown(["", "clippo, ms", "eager convolution / clippo", "best peer / clippo", "roofline"], lines)


def contrastive_times(rows: Sequence[Row]) -> str:
    """Milliseconds of the contrastive loss with its gradients, how many times as long the peers take, MiB."""
    times = by_group_and_name(rows, "median_us")
    memory = by_group_and_name(rows, "peak_mib")
    peers = ("explicit", "explicit-compiled", "open_clip", "checkpointed")
    lines = []
    for group in dict.fromkeys(row["group"] for row in rows if row["group"].startswith("contrastive, both")):
        ours = times[group, "clippo"]
        lines.append(
            [
                group.removeprefix("contrastive, both, ").replace("channels", "features"),
                f"{ours / 1e3:,.0f}",
                *(f"{times[group, peer] / ours:.2f}x" for peer in peers),
                *(f"{memory[group, name]:,.0f}" for name in ("clippo", "explicit")),
            ]
        )
    ratios = [f"{peer.removeprefix('explicit-')} / clippo" for peer in peers]
    return markdown(["", "clippo, ms", *ratios, "clippo, MiB", "explicit, MiB"], lines)


def host_times(rows: Sequence[Row]) -> str:
    """Microseconds of the host for a call of attention and of PyTorch's: median, quartiles, the fastest."""
    lines = []
    for row in rows:
        cells = [
            f"{row[f'{of}median_us']:.0f} ({row[f'{of}low_us']:.0f}-{row[f'{of}high_us']:.0f}), "
            f"{row[f'{of}least_us']:.0f}"
            for of in ("", "sdpa_")
        ]
        label = "forward" if row["group"].endswith("forward") else "forward and backward"
        lines.append([label, *cells, f"{row['median_us'] / row['sdpa_median_us']:.1f}x"])
    header = [
        "median (quartiles), fastest, us",
        "clippo, launching nothing",
        "SDPA of one token",
        "clippo / SDPA",
    ]
    return markdown(header, lines)


def emoji_recalls(rows: Sequence[Row]) -> str:
    """R@1 and R@10 of images by text: a line a language, means over the seeds, and chance."""
    header, chances = ["language"], ["*chance*"]
    lines = {language: [name] for language, name in LANGUAGES.items()}
    labels = ["trained, among {:,}: R@1", "held out, among {:,}: R@1", "held out, among all {:,}: R@1"]
    for evaluator, label in zip(EVALUATORS, labels, strict=True):
        values = values_of(rows, evaluator)
        candidates, chance = chance_of(values)
        header += [label.format(candidates), "R@10"]
        chances += [f"*{chance[k]:.2f}*" for k in (1, 10)]
        for language, line in lines.items():
            line += [f"{statistics.mean(values[f'{language}/text_to_image/R@{k}']):.1f}" for k in (1, 10)]
    return markdown(header, [*lines.values(), chances])


def emoji_recalls_of_seeds(rows: Sequence[Row], evaluator: str) -> str:
    """All recalls of an evaluator below a caption: a line a language, mean (least-most) of the seeds."""
    values = values_of(rows, evaluator)
    candidates, chance = chance_of(values)
    chances = ", ".join(f"R@{k} {chance[k]:.2f}" for k in KS)
    caption = f"**{EVALUATORS[evaluator].format(candidates)}** (chance: {chances} %)"
    header = [f"{label} R@1" if k == 1 else f"R@{k}" for label in DIRECTIONS.values() for k in KS]
    lines = [
        [name, *(spread(values[f"{language}/{direction}/R@{k}"]) for direction in DIRECTIONS for k in KS)]
        for language, name in LANGUAGES.items()
    ]
    return f"{caption}\n\n{markdown(['language', *header], lines)}"


def values_of(rows: Sequence[Row], evaluator: str, recipe: str = "emoji") -> dict[str, list[float]]:
    """Percent of each seed by metric, of the models that a recipe trained."""
    return {
        row["metric"]: row["values"]
        for row in rows
        if (row.get("recipe"), row.get("evaluator")) == (recipe, evaluator)
    }


def recalls_and_chance(rows: Sequence[Row], evaluator: str, language: str) -> list[str]:
    """R@1 and R@10 of images by text, and chance at 10; of "mean", the mean over the languages."""
    values = values_of(rows, evaluator, "dictionary")
    chance = "chance" if language == "mean" else f"{language}/chance"
    names = [f"{language}/text_to_image/R@1", f"{language}/text_to_image/R@10", f"{chance}/R@10"]
    return [f"{statistics.mean(values[name]):.1f}" if name in values else "" for name in names]


def languages_of(rows: Sequence[Row], evaluator: str) -> list[str]:
    """The languages that an evaluator has measured."""
    found = (metric.partition("/") for metric in values_of(rows, evaluator, "dictionary"))
    return [language for language, _, rest in found if rest == "chance/R@10"]


def dictionary_languages(rows: Sequence[Row]) -> str:
    """Images by the names of the picture dictionary, of trained and of held-out pictures, by language."""
    header = ["", "trained R@1", "R@10", "*chance*", "held-out pictures R@1", "R@10", "*chance*"]
    counts = [len(languages_of(rows, evaluator)) for evaluator in ("trained", "held_out")]
    shown = {"mean": "mean of {} and {} languages".format(*counts), **DICTIONARY_LANGUAGES}
    lines = []
    for language, name in shown.items():
        parts = (recalls_and_chance(rows, evaluator, language) for evaluator in ("trained", "held_out"))
        lines.append([name, *(part for own in parts for part in own)])
    return markdown(header, lines)


def dictionary_unseen(rows: Sequence[Row]) -> str:
    """Images by names in languages that were not trained, and pictures in styles that were not."""
    evaluator = "unseen_languages"
    lines = [
        [UNSEEN_LANGUAGES[language], *recalls_and_chance(rows, evaluator, language)]
        for language in languages_of(rows, evaluator)
    ]
    for style, name in {"openmoji": "OpenMoji", "fluent": "Fluent"}.items():
        evaluator = f"unseen_style_{style}"
        count = len(languages_of(rows, evaluator))
        for language, label in {"en": "English", "mean": f"mean of {count} languages"}.items():
            lines.append([f"{name}, {label}", *recalls_and_chance(rows, evaluator, language)])
    return markdown(["", "R@1", "R@10", "*chance*"], lines)


def chance_of(values: dict[str, list[float]]) -> tuple[int, dict[int, float]]:
    """How many candidates there were, and what recall guessing among them reaches, in percent by k."""
    first = values["chance/R@1"][0]
    return round(100 / first), {k: k * first for k in KS}


def spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def by_group_and_name(rows: Sequence[Row], figure: str) -> dict[tuple[str, str], Any]:
    return {(row["group"], row["name"]): row[figure] for row in rows if figure in row}


@dataclass(frozen=True)
class Table:
    """A table of the pages: the file in bench/results that it shows, and what makes Markdown of its rows."""

    file: str
    make: Callable[[Sequence[Row]], str]


TABLES = {
    "thousands_per_second": Table(RENDERERS, thousands_per_second),
    "strings_per_second": Table(RENDERERS, strings_per_second),
    "strings_per_second_of_pools": Table(RENDERERS, strings_per_second_of_pools),
    "patch_embed_times": Table(PATCH_EMBED, patch_embed_times),
    "host_times": Table(HOST, host_times),
    "contrastive_times": Table(CONTRASTIVE, contrastive_times),
    "training_steps": Table(STEPS, training_steps),
    "pairs_of_sentences": Table(PAIRS_OF_SENTENCES, pairs_of_sentences),
    "recipe_by_text_tokens": Table(RECIPE, recipe_by_text_tokens),
    "recipe_and_baselines": Table(RECIPE, compare_training.table),
    "short_runs_at_96_px": Table(CANVAS, short_runs_at_96_px),
    "emoji_recalls": Table(EMOJI, emoji_recalls),
    "aligned_text": Table(ALIGNED, aligned_text.table),
    "aligned_patches": Table(ALIGNED, aligned_text.table_of_patches),
    "aligned_scripts": Table(ALIGNED, partial(aligned_text.table, of_scripts=True)),
    "dictionary_languages": Table(DICTIONARY, dictionary_languages),
    "dictionary_unseen": Table(DICTIONARY, dictionary_unseen),
    "sentence_pairs": Table(SENTENCES, sentence_pairs.table),
    "sentence_pairs_descriptions": Table(DESCRIPTIONS, sentence_pairs.table),
    "miniature": Table(MINIATURE, miniature.table),
    "dictionary_model": Table(DICTIONARY_MODEL, dictionary_model.styles),
    "dictionary_model_scripts": Table(DICTIONARY_MODEL, dictionary_model.scripts_table),
    "dictionary_model_languages": Table(DICTIONARY_MODEL, dictionary_model.languages),
    **{f"claims_{table.__name__}": Table(CLAIMS, table) for table in claims_report.TABLES},
    "claims_languages": Table(
        CLAIMS, partial(claims_report.languages, names=DICTIONARY_LANGUAGES | UNSEEN_LANGUAGES)
    ),
    "pages": Table(RENDERERS, pages),
    "data_rates": Table(DATA, data_rates),
    **{f"emoji_{name}": Table(EMOJI, partial(emoji_recalls_of_seeds, evaluator=name)) for name in EVALUATORS},
}


def rewrite(text: str, page: Path) -> tuple[str, list[str]]:
    """Renew the tables in the text of a page, and list the names of those that were out of date.

    Args:
        page: the file that the text is of, below ROOT. Links lead from its folder to the results.

    Raises:
        ValueError: a mark has no partner, or names no table.
    """
    outdated = []

    def renew(place: re.Match[str]) -> str:
        begin, name, old, end = place.groups()
        if name not in TABLES:
            raise ValueError(f"{page}: expected one of the tables {', '.join(TABLES)}, got {name!r}")
        new = f"\n{block(TABLES[name], page)}\n\n"
        if new != old:
            outdated.append(name)
        return begin + new + end

    places = PLACE.findall(text)
    begins, ends = text.count("<!-- table:"), text.count("<!-- end -->")
    if not begins == ends == len(places):
        raise ValueError(
            f'{page}: expected pairs of "<!-- table: NAME -->" and "<!-- end -->" on lines of their own, '
            f"got {begins} of the first and {ends} of the second, {len(places)} of them in pairs"
        )
    return PLACE.sub(renew, text), outdated


def block(table: Table, page: Path) -> str:
    """Markdown of a table, and below it where it was measured, with a link to the results."""
    path = ROOT / "bench" / "results" / table.file
    results = read_results(path)
    link = Path(os.path.relpath(path, page.parent)).as_posix()
    device, date = results.provenance["device"], results.provenance["date"][:10]
    source = f"({device}, {date}: [figures and versions]({link}))"
    return f"{table.make(results.rows)}\n\n{source}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m clippo.bench.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit with 1 where a page differs"
    )
    arguments = parser.parse_args()
    differs = False
    cards = (ROOT / "model" / "pretrained").glob("*/README.md")
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(cards)]:
        text, outdated = rewrite(page.read_text(encoding="utf-8"), page)
        if not outdated:
            continue
        differs = True
        print(f"{page.relative_to(ROOT)}: {', '.join(outdated)}")
        if not arguments.check:
            page.write_text(text, encoding="utf-8")
    if arguments.check and differs:
        print("These tables differ from bench/results; `python -m clippo.bench.tables` rewrites them.")
    return int(arguments.check and differs)


if __name__ == "__main__":
    sys.exit(main())
