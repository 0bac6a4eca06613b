"""Tasks on the texts that `clippo data fetch texts` brings; `clippo.data.fetch.texts` describes the files.

Each function takes their folder. No text is in two parts of a task.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clippo.errors import UserError
from clippo.evaluation.text_tasks.base import OPINIONS, PartName, TextExample, TextTask, made, part_of

__all__ = ["domain", "language", "rating", "rows_of", "section", "sentiment"]

CLEAR = 0.5  # a mean rating from here on is positive, and negative from its opposite down
SECTIONS = 20
VALIDATION_ARTICLES, TEST_ARTICLES = range(19, 21), range(21, 31)  # of the 30; the first 18 train


def sentiment(folder: Path) -> TextTask:
    """Is a sentence of a film review positive or negative? Those that people rated near 0 are left out."""
    classes = ("negative", "positive")
    examples = (
        (part, TextExample(text, "", classes[score > 0]))
        for part, text, score in film_reviews(folder)
        if abs(score) >= CLEAR
    )
    return made("sentiment", examples, classes, ("accuracy",), OPINIONS)


def rating(folder: Path) -> TextTask:
    """The mean rating of a sentence of a film review, from -4 to 4."""
    examples = ((part, TextExample(text, "", score)) for part, text, score in film_reviews(folder))
    return made("rating", examples, (), ("spearman", "pearson"))


def domain(folder: Path) -> TextTask:
    """Is a text from a film review, a review of a product, an editorial, or a tweet?"""
    examples = [
        (part_of(row["text"]), TextExample(row["text"], "", row["domain"]))
        for row in rows_of(folder / "ratings.jsonl", "text", "domain")
    ]
    classes = sorted({example.label for _, example in examples if isinstance(example.label, str)})
    prompts = ("a text from {}", "{}", "a sentence about {}")
    return made("domain", examples, classes, ("accuracy", "macro_f1"), prompts)


def language(folder: Path) -> TextTask:
    """Which translation of the Universal Declaration of Human Rights is an article from, of about 500?

    Some are in the same language, in another spelling or for another country. Articles 1 to 20 are for
    training, of which the last two validate; articles 21 to 30 are for testing.
    """
    rows = [row for row in rows_of(folder / "rights.jsonl", "code", "article", "text") if row["article"] > 0]
    articles = Counter(row["code"] for row in rows)
    classes = sorted(code for code, count in articles.items() if count == max(articles.values()))
    whole = set(classes)

    def part(article: int) -> PartName:
        if article in TEST_ARTICLES:
            return "test"
        return "validation" if article in VALIDATION_ARTICLES else "train"

    examples = (
        (part(row["article"]), TextExample(row["text"], "", row["code"]))
        for row in rows
        if row["code"] in whole
    )
    return made("language", examples, classes, ("accuracy",))


def section(folder: Path) -> TextTask:
    """Which of the 20 largest sections of Debian is a package in? Its synopsis is read.

    All packages that are made of one source package are in one part.
    """
    rows = list(rows_of(folder / "packages.jsonl", "source", "section", "synopsis"))
    sections = Counter(row["section"] for row in rows)
    classes = sorted(name for name, _ in sections.most_common(SECTIONS))
    examples = (
        (part_of(row["source"]), TextExample(row["synopsis"]["en"], "", row["section"]))
        for row in rows
        if row["section"] in classes
    )
    prompts = ("a package of the section {}", "{}", "software: {}")
    return made("section", examples, classes, ("accuracy", "macro_f1"), prompts)


def film_reviews(folder: Path) -> Iterator[tuple[PartName, str, float]]:
    """The part, text and rating of each sentence."""
    for row in rows_of(folder / "ratings.jsonl", "text", "rating", "domain"):
        if row["domain"] == "films":
            yield part_of(row["text"]), row["text"], float(row["rating"])


def rows_of(file: Path, *fields: str) -> Iterator[dict[str, Any]]:
    """The rows of a file of JSON Lines, which must have these fields.

    Raises:
        UserError: the file is not there, or a line is not such a row.
    """
    if not file.is_file():
        raise UserError(f"there is no file {file}: `clippo data fetch texts` makes it")
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                missing = [name for name in fields if name not in row]
            except (ValueError, TypeError) as error:
                raise UserError(f"{file}, line {number} is not a row of JSON: {error}") from error
            if missing:
                raise UserError(f"{file}, line {number} has no field {missing[0]!r}")
            yield row
