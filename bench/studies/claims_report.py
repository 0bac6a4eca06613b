"""The tables and the picture of docs/claims.md, from the rows of the study `claims`.

    python -m clippo.bench.studies.claims_report bench/results/DEVICE/DATE-COMMIT-claims.json

It draws docs/img/claims.png; `python -m clippo.bench.tables` writes the tables.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from clippo.bench.report import markdown
from clippo.bench.studies.claims import CLAIMS, MIXTURES, RUNS, TEXT_TASKS
from clippo.evaluation.figures import new_figure, picture_of
from clippo.files import atomic_path
from clippo.results import ROOT, Row, read_results

__all__ = ["TABLES", "languages", "trade_off"]

Metric = tuple[str, str]  # names of an evaluator and of its metric

IMAGES = ("images", "mean/text_to_image/R@10")
SENTENCES = ("sentences", "mean/text_to_image/R@10")
SIMILARITY = ("similarity", "cosine/spearman")
PROBES = [(f"text_{task}", "probe/accuracy") for task in TEXT_TASKS]
TASKS = {
    "sentiment": "sentiment of a film review",
    "domain": "domain of a text",
    "section": "section of a package",
    "noun_class": "class of a noun",
    "is_a": "is-a, two words",
    "words_in_context": "a word in two sentences",
}
COLUMNS = ("untrained", "pixels-000", "pixels-025", "pixels-050", "pixels-075", "pixels-100", "bytes-050")
READERS = {
    "drawn": "the question drawn into the picture",
    "late_fusion": "picture and question embedded apart",
    "question_only": "the question alone",
    "picture_only": "the picture alone",
}
CHANGES = {
    "typos/0.1": "one letter in ten mistyped",
    "typos/0.3": "three in ten",
    "upper_case/1": "upper case",
    "no_diacritics/1": "no diacritics",
    "look_alikes/0.3": "three in ten replaced by letters of other scripts that look alike",
    "look_alikes/1": "all that can be",
}
GAPS = {"gap": "distance of the means", "linear/accuracy": "told apart by a linear model, %"}


def found(rows: Sequence[Row], run: str, metric: Metric) -> list[Row]:
    """The rows of a metric of a run, one a seed."""
    return [row for row in rows if row["run"] == run and (row["evaluator"], row["metric"]) == metric]


def cell(rows: Sequence[Row]) -> str:
    """The mean of several seeds with the least and the most; the value of one, with its 95 % interval."""
    if not rows:
        return ""
    values = [row["value"] for row in rows]
    digits = 1 if max(map(abs, values)) >= 1.5 else 2
    low, high = (min(values), max(values)) if len(values) > 1 else (rows[0].get("low"), rows[0].get("high"))
    brackets = "[]" if len(values) > 1 else "()"
    between = "" if low is None else "-" if low >= 0 else " to "
    spread = "" if low is None else f" {brackets[0]}{low:.{digits}f}{between}{high:.{digits}f}{brackets[1]}"
    return f"{statistics.mean(values):.{digits}f}{spread}"


def mean_of_tasks(rows: Sequence[Row], run: str, metrics: Iterable[Metric]) -> list[Row]:
    """The mean over tasks, a row a seed."""
    of_tasks = [found(rows, run, metric) for metric in metrics]
    return [{"value": statistics.mean(row["value"] for row in own)} for own in zip(*of_tasks, strict=True)]


def guess(rows: Sequence[Row], metric: Metric) -> float:
    return float(found(rows, "untrained", metric)[0]["guessing"])


def mixtures(rows: Sequence[Row]) -> str:
    """A line a model: how well it finds images and sentences, and the mean accuracy of probes on texts."""
    lines = []
    for run in MIXTURES:
        images = found(rows, run, IMAGES)
        lines.append([
            RUNS[run].title, str(images[0]["steps"]), cell(images), cell(found(rows, run, SENTENCES)),
            cell(mean_of_tasks(rows, run, PROBES)), cell(found(rows, run, SIMILARITY)),
        ])  # fmt: skip
    for run, title in (("words", "TF-IDF of words"), ("letters", "TF-IDF of one to three letters")):
        lines.append([title, "", "", cell(found(rows, run, SENTENCES)), "", ""])
    ngrams = mean_of_tasks(rows, "untrained", [(task, "n-grams/accuracy") for task, _ in PROBES])
    similar = found(rows, "untrained", ("similarity", "n-grams/spearman"))[:1]
    lines.append(["n-grams of one to four letters", "", "", "", cell(ngrams), cell(similar)])
    majority = statistics.mean(guess(rows, metric) for metric in PROBES)
    guesses = (guess(rows, IMAGES), guess(rows, SENTENCES), majority, 0.0)
    lines.append(["guessing", "", *(f"{one:.1f}" for one in guesses)])
    return markdown(["", "steps", "images, R@10", "sentences, R@10", "texts, accuracy", "similarity"], lines)


def tasks(rows: Sequence[Row]) -> str:
    """A line a task on texts: the accuracy of probes, of n-grams and of the most frequent class."""
    lines = []
    for task, title in TASKS.items():
        evaluator = f"text_{task}"
        probes = [cell(found(rows, run, (evaluator, "probe/accuracy"))) for run in COLUMNS]
        ngrams = cell(found(rows, "untrained", (evaluator, "n-grams/accuracy")))
        majority = guess(rows, (evaluator, "probe/accuracy"))
        lines.append([title, *probes, ngrams, f"{majority:.1f}"])
    return markdown(["", *(RUNS[run].title for run in COLUMNS), "n-grams", "majority"], lines)


def few_labels(rows: Sequence[Row]) -> str:
    """A line a task on texts: accuracy without labels, and with ten of each class."""
    columns = ("untrained", "pixels-000", "pixels-050", "pixels-100")
    header, lines = ["", *(f"zero-shot, {RUNS[run].title}" for run in columns[1:])], []
    header += [*(f"10 a class, {RUNS[run].title}" for run in columns), "n-grams, 10 a class", "majority"]
    for task, title in TASKS.items():
        zero_shot, ten, ngrams = (
            (f"text_{task}", f"{method}/accuracy") for method in ("zero_shot", "10_shot", "n-grams_10_shot")
        )
        cells = [cell(found(rows, run, zero_shot)) for run in columns[1:]]
        cells += [cell(found(rows, run, ten)) for run in columns]
        lines.append([title, *cells, cell(found(rows, "untrained", ngrams)), f"{guess(rows, ten):.1f}"])
    return markdown(header, lines)


def questions(rows: Sequence[Row]) -> str:
    """A line a way of reading questions about pictures: the official accuracy."""
    columns = [run for run in RUNS if any(row["run"] == run and row["evaluator"] == "vqa" for row in rows)]
    lines = [
        [title, *(cell(found(rows, run, ("vqa", f"{reader}/all"))) for run in columns)]
        for reader, title in READERS.items()
    ]
    majority = f"{guess(rows, ('vqa', 'drawn/all')):.1f}"
    lines.append(["the most frequent answer of the kind", *[majority] * len(columns)])
    return markdown(["", *(RUNS[run].title for run in columns)], lines)


def inside(rows: Sequence[Row]) -> str:
    """A line a model: the gap between the embeddings of images and of texts."""
    lines = [
        [RUNS[run].title, *(cell(found(rows, run, ("modality_gap", metric))) for metric in GAPS)]
        for run in MIXTURES
    ]
    return markdown(["", *GAPS.values()], lines)


def spelling(rows: Sequence[Row]) -> str:
    """A line a change of the letters of names: how many points of recall at 10 it takes away."""
    runs = CLAIMS["spelling"].runs
    clean = [cell(found(rows, run, ("robustness", "clean/R@10"))) for run in runs]
    lines = [["names as they are, R@10", *clean]]
    for change, title in CHANGES.items():
        metric = ("robustness", f"{change}/difference/R@10")
        lines.append([title, *(cell(found(rows, run, metric)) for run in runs)])
    return markdown(["", *(RUNS[run].title for run in runs)], lines)


def languages(rows: Sequence[Row], names: Mapping[str, str]) -> str:
    """A line a language: how well pixels and bytes find images by names, of trained images and of others.

    Args:
        rows: of the study.
        names: of the languages by their codes; others are left out.
    """
    measured = {row["run"] for row in rows}
    runs = [run for run in ("languages-pixels", "languages-bytes") if run in measured]
    parts = {"trained": "trained", "held_out": "held out", "unseen_languages": "language unseen"}
    header = ["", *(f"{title}, {RUNS[run].title}" for title in parts.values() for run in runs)]
    lines = []
    for language, name in {"mean": "mean of all", **names}.items():
        metric = f"{language}/text_to_image/R@10"
        own = [found(rows, run, (part, metric)) for part in parts for run in runs]
        if any(own):
            cells = [f"{one[0]['value']:.1f}" if one and language != "mean" else cell(one) for one in own]
            lines.append([name, *cells])
    guesses = [found(rows, run, (part, "chance/R@10")) for part in parts for run in runs]
    lines.append(["guessing", *(f"{one[0]['value']:.1f}" if one else "" for one in guesses)])
    return markdown(header, lines)


TABLES = (mixtures, tasks, few_labels, questions, spelling, inside)


def trade_off(rows: Sequence[Row]) -> Image.Image:
    """A picture of the mixtures: how well images are found against what probes tell of texts."""
    figure = new_figure(900, 500)
    axes = figure.subplots()
    for run in MIXTURES:
        images, texts = found(rows, run, IMAGES), mean_of_tasks(rows, run, PROBES)
        x, y = ([row["value"] for row in own] for own in (images, texts))
        color = "#0969da" if "pixels" in run else "#57606a" if run == "untrained" else "#cf222e"
        axes.plot(x, y, "o", color=color, alpha=0.35, markersize=6)
        axes.plot(statistics.mean(x), statistics.mean(y), "o", color=color, markersize=9)
        # Points far right have their labels on the left, where there is room.
        offset, side = ((-7, 5), "right") if statistics.mean(x) > 30 else ((7, 5), "left")
        axes.annotate(
            RUNS[run].title, (statistics.mean(x), statistics.mean(y)), xytext=offset,
            textcoords="offset points", fontsize=8, horizontalalignment=side,
        )  # fmt: skip
    axes.set_xlabel("images found by their names, R@10, %")
    axes.set_ylabel("mean accuracy of probes on texts, %")
    axes.margins(0.15)
    axes.grid(alpha=0.3)
    return picture_of(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m clippo.bench.studies.claims_report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path, help="what the study has written")
    rows = read_results(parser.parse_args().results).rows
    with atomic_path(ROOT / "docs" / "img" / "claims.png") as file:
        trade_off(rows).save(file)


if __name__ == "__main__":
    main()
