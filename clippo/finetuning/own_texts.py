"""A task of a user's own texts: a table with a text and a class, or a score, in each row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clippo.data.table import rows_of
from clippo.errors import UserError
from clippo.evaluation.text_tasks import TextTask
from clippo.evaluation.text_tasks.base import TextExample, made, part_of

__all__ = ["own_texts"]


def own_texts(file: str) -> TextTask:
    """Read a .csv, .tsv or .jsonl with the columns `text`, for pairs `second`, and `label` or `score`.

    A tenth of the texts validates and a fifth tests; the checksum of a text decides, so that it keeps its
    part when others are added. Of equal rows the first is kept.

    Raises:
        UserError: the file cannot be read, lacks a column or has a row without a text, a class or a number;
            there are fewer than two classes, or none of them in some part.
    """
    examples: list[TextExample] = []
    is_scored = False
    for number, row in rows_of(file):
        where = f"{file}, line {number}"
        if not examples:
            is_scored = "score" in row
            if "text" not in row or ("label" in row) == is_scored:
                raise UserError(
                    f"{file} must have the columns text, for pairs second, and either label or score; got "
                    f"{', '.join(map(str, row))}"
                )
        text = str(row.get("text") or "").strip()
        if not text:
            raise UserError(f"{where} has no text")
        label = score_of(row, where) if is_scored else label_of(row, where)
        examples.append(TextExample(text, str(row.get("second") or "").strip(), label))
    if len({bool(example.second) for example in examples}) == 2:
        raise UserError(f"{file}: either all rows must have a second text, or none")
    classes = () if is_scored else sorted({str(example.label) for example in examples})
    if not is_scored and len(classes) < 2:
        raise UserError(f"{file} must have labels of two classes or more, got {', '.join(classes) or 'none'}")
    metrics = ("spearman", "pearson") if is_scored else ("accuracy", "macro_f1")
    return made(Path(file).stem, ((part_of(e.text), e) for e in examples), classes, metrics)


def label_of(row: Mapping[str, Any], where: str) -> str:
    label = row.get("label")
    if label is None or not str(label).strip():
        raise UserError(f"{where} has no label")
    return str(label).strip()


def score_of(row: Mapping[str, Any], where: str) -> float:
    try:
        score = float(row["score"])
    except (KeyError, TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise UserError(f"{where} must have a number as its score, got {row.get('score')!r}")
    return score
