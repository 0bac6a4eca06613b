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
from clippo.evaluation.text_tasks.base import OPINIONS, Labelled, TextTask, part_with
from clippo.files import read_lines
from clippo.seeds import generator

__all__ = ["GLUE", "load_glue"]

MAX_VALIDATION = 1000


@dataclass(frozen=True)
class Layout:
    """What is particular of a task.

    Attributes:
        folder: of the files of its authors.
        columns: numbers of those of the texts in a .tsv file.
        label: number of that of the labels; the last if it is -1.
        width: number of columns; 0 if it differs between the files. Lines of another number are left out,
            of which QQP has some.
        hub_columns: those of the texts on the hub.
        classes: in the order of their numbers on the hub; none of scores.
        metrics: names, the main one first.
        has_header: whether a .tsv file begins with the names of its columns.
        tests: names of the validation files, and what the results of each are named.
        prompts: as of `TextTask`.
    """

    folder: str
    columns: tuple[int, ...]
    label: int
    width: int
    hub_columns: tuple[str, ...]
    classes: tuple[str, ...]
    metrics: tuple[str, ...]
    has_header: bool = True
    tests: tuple[tuple[str, str], ...] = (("", ""),)
    prompts: tuple[str, ...] = ()


PAIR = ("sentence1", "sentence2")
ENTAILED = ("entailment", "not_entailment")
GLUE = {
    "cola": Layout(
        "CoLA", (3,), 1, 4, ("sentence",), ("unacceptable", "acceptable"), ("matthews",), has_header=False
    ),
    "sst2": Layout(
        "SST-2", (0,), 1, 2, ("sentence",), ("negative", "positive"), ("accuracy",),
        prompts=OPINIONS,
    ),
    "mrpc": Layout("MRPC", (3, 4), 0, 5, PAIR, ("not_equivalent", "equivalent"), ("f1", "accuracy")),
    "stsb": Layout("STS-B", (7, 8), -1, 10, PAIR, (), ("spearman", "pearson")),
    "qqp": Layout(
        "QQP", (3, 4), 5, 6, ("question1", "question2"), ("not_duplicate", "duplicate"), ("f1", "accuracy")
    ),
    "mnli": Layout(
        "MNLI", (8, 9), -1, 0, ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"),
        ("accuracy",), tests=(("_matched", "matched"), ("_mismatched", "mismatched")),
    ),
    "qnli": Layout("QNLI", (1, 2), 3, 4, ("question", "sentence"), ENTAILED, ("accuracy",)),
    "rte": Layout("RTE", (1, 2), 3, 4, PAIR, ENTAILED, ("accuracy",)),
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


def read(name: str, layout: Layout, folder: Path, part: str, kind: str) -> list[Labelled]:
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


def from_tsv(file: Path, layout: Layout) -> list[Labelled]:
    """The examples of a file of its authors, in which quotes are characters like others."""
    found = []
    for number, line in enumerate(read_lines(file), start=1):
        if number == 1 and layout.has_header:
            continue
        cells = line.split("\t")
        if len(cells) <= max(layout.columns) or layout.width not in (0, len(cells)):
            if layout.folder == "QQP":
                continue
            raise UserError(f"{file}, line {number} must have {layout.width} columns, got {len(cells)}")
        where = f"{file}, line {number}"
        label = cells[layout.label]
        if layout.classes and label.isdecimal():
            label = class_name(int(label), layout, where)
        found.append(example([cells[column] for column in layout.columns], label, layout, where))
    return found


def from_parquet(file: Path, layout: Layout) -> list[Labelled]:
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


def example(texts: Sequence[str], label: str | float, layout: Layout, where: str) -> Labelled:
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
    return Labelled(first, second, label)
