"""The tasks of GLUE (arXiv 1804.07461), from files that a user has.

They are read as their authors gave them out (`CoLA/train.tsv`, `MNLI/dev_matched.tsv`) or in the layout of
the Hugging Face hub (`cola/train-00000-of-00001.parquet`), which needs pyarrow. The labels of the published
test parts are secret, so the published validation parts are measured on, as is usual. Settings are chosen by
a tenth of the training part, at most 1,000 examples. WNLI is left out, as in the paper of CLIPPO.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clippo.errors import UserError
from clippo.evaluation.text_tasks.base import OPINIONS, TextExample, TextTask, part_with
from clippo.files import read_lines
from clippo.seeds import generator

__all__ = ["GLUE", "load_glue"]

MAX_VALIDATION = 1000


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What is particular of a task.

    Attributes:
        folder: of the files of its authors.
        columns: numbers of those of the texts in a .tsv file.
        label: number of that of the label; the last if it is -1.
        width: number of columns; 0 if it differs between the files.
        has_header: whether a .tsv file begins with the names of its columns.
        has_broken_lines: whether lines with another number of columns are to be left out.
        hub_columns: those of the texts on the hub.
        classes: in the order of their numbers on the hub; none of scores.
        metrics: names, the main one first.
        tests: what the names of the validation files end in, and what the results of each are named.
        prompts: as of `TextTask`.
    """

    folder: str
    columns: tuple[int, ...]
    label: int
    width: int
    has_header: bool = True
    has_broken_lines: bool = False
    hub_columns: tuple[str, ...] = ("sentence1", "sentence2")
    classes: tuple[str, ...] = ("entailment", "not_entailment")
    metrics: tuple[str, ...] = ("accuracy",)
    tests: tuple[tuple[str, str], ...] = (("", ""),)
    prompts: tuple[str, ...] = ()


GLUE = {
    "cola": Layout(
        folder="CoLA", columns=(3,), label=1, width=4, has_header=False, hub_columns=("sentence",),
        classes=("unacceptable", "acceptable"), metrics=("matthews",),
    ),
    "sst2": Layout(
        folder="SST-2", columns=(0,), label=1, width=2, hub_columns=("sentence",),
        classes=("negative", "positive"), prompts=OPINIONS,
    ),
    "mrpc": Layout(
        folder="MRPC", columns=(3, 4), label=0, width=5, classes=("not_equivalent", "equivalent"),
        metrics=("f1", "accuracy"),
    ),
    "stsb": Layout(
        folder="STS-B", columns=(7, 8), label=9, width=10, classes=(), metrics=("spearman", "pearson")
    ),
    "qqp": Layout(
        folder="QQP", columns=(3, 4), label=5, width=6, has_broken_lines=True,
        hub_columns=("question1", "question2"), classes=("not_duplicate", "duplicate"),
        metrics=("f1", "accuracy"),
    ),
    "mnli": Layout(
        folder="MNLI", columns=(8, 9), label=-1, width=0, hub_columns=("premise", "hypothesis"),
        classes=("entailment", "neutral", "contradiction"),
        tests=(("_matched", "matched"), ("_mismatched", "mismatched")),
    ),
    "qnli": Layout(
        folder="QNLI", columns=(1, 2), label=3, width=4, hub_columns=("question", "sentence")
    ),
    "rte": Layout(folder="RTE", columns=(1, 2), label=3, width=4),
}  # fmt: skip


def load_glue(name: str, folder: Path) -> TextTask:
    """Read a task of `GLUE` from the folder that holds those of all tasks.

    Raises:
        UserError: its files are not there, or have another layout.
    """
    layout = GLUE[name]
    trained = read(name, layout, folder, "train", "")
    tests = {title: read(name, layout, folder, "validation", kind) for kind, title in layout.tests}
    order = generator(0, "glue", name).permutation(len(trained)).tolist()
    validating = set(order[: min(MAX_VALIDATION, max(1, len(trained) // 10))])
    parts = (
        [example for row, example in enumerate(trained) if (row in validating) == wanted]
        for wanted in (False, True)
    )
    train, validation = (part_with(part, layout.classes) for part in parts)
    measured = {title: part_with(examples, layout.classes) for title, examples in tests.items()}
    return TextTask(
        f"glue/{name}", train, validation, measured, layout.classes, layout.metrics, layout.prompts
    )


def read(name: str, layout: Layout, folder: Path, part: str, kind: str) -> list[TextExample]:
    """The examples of a file.

    Args:
        name: of the task.
        layout: its own.
        folder: that of all tasks.
        part: "train" or "validation".
        kind: what the name of its file has more, such as "_matched".

    Raises:
        UserError: there is no file, or none with an example.
    """
    tsv = folder / layout.folder / f"{'dev' if part == 'validation' else part}{kind}.tsv"
    hub = sorted((folder / name).glob(f"{part}{kind}-*-of-*.parquet"))
    if tsv.is_file():
        found = from_tsv(tsv, layout)
    elif hub:
        found = [example for file in hub for example in from_parquet(file, layout)]
    else:
        raise UserError(f"there is neither {tsv} nor {folder / name}/{part}{kind}-00000-of-00001.parquet")
    if not found:
        raise UserError(f"{tsv if tsv.is_file() else hub[0]} holds no example with a label")
    return found


def from_tsv(file: Path, layout: Layout) -> list[TextExample]:
    """The examples of a file of its authors, in which quotes are characters like others."""
    found = []
    for number, line in enumerate(read_lines(file), start=1):
        if number == 1 and layout.has_header:
            continue
        cells = line.split("\t")
        if len(cells) <= max(layout.columns) or layout.width not in (0, len(cells)):
            if layout.has_broken_lines:
                continue
            wanted = layout.width or f"at least {max(layout.columns) + 1}"
            raise UserError(f"{file}, line {number} must have {wanted} columns, got {len(cells)}")
        where = f"{file}, line {number}"
        label = cells[layout.label]
        if layout.classes and label.isdecimal():
            label = class_name(int(label), layout, where)
        found.append(example([cells[column] for column in layout.columns], label, layout, where))
    return found


def from_parquet(file: Path, layout: Layout) -> list[TextExample]:
    """The examples of a file of the hub; those whose label is secret, -1, are left out."""
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError(f"{file} needs pyarrow: pip install 'clippo-kernels[parquet]'") from error
    columns = [*layout.hub_columns, "label"]
    try:
        rows = parquet.read_table(file, columns=columns).to_pylist()
    except (ValueError, OSError) as error:  # those of pyarrow are among them
        raise UserError(f"{file} must have the columns {', '.join(columns)}: {error}") from error
    found = []
    for number, row in enumerate(rows):
        label, where = row["label"], f"{file}, row {number}"
        if layout.classes:
            if label == -1:
                continue
            label = class_name(label, layout, where)
        found.append(example([row[column] for column in layout.hub_columns], label, layout, where))
    return found


def class_name(number: int, layout: Layout, where: str) -> str:
    if number not in range(len(layout.classes)):
        raise UserError(f"{where} has the label {number}, expected 0 to {len(layout.classes) - 1}")
    return layout.classes[number]


def example(texts: Sequence[str], label: str | float, layout: Layout, where: str) -> TextExample:
    """An example whose label is checked.

    Raises:
        UserError: it is no class, or no number.
    """
    if layout.classes and label not in layout.classes:
        raise UserError(f"{where} has the label {label!r}, expected one of {', '.join(layout.classes)}")
    if not layout.classes:
        try:
            label = float(label)
        except ValueError as error:
            raise UserError(f"{where} has the score {label!r}, expected a number") from error
    first, second = (*texts, "")[:2]
    return TextExample(first, second, label)
