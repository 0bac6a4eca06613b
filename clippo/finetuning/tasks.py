"""Tasks to fine-tune for: what is read, what is predicted, and the examples to train, choose and test on.

Texts, questions and labelled pictures all become a `Task`, for which there is one trainer. A new kind of
data needs a function here that makes a task of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from tqdm import tqdm

from clippo.data.base import BrokenExampleError, SourceConfig
from clippo.data.decode import pixels_of
from clippo.data.made_questions import MadeQuestionsConfig
from clippo.data.questions import Questions
from clippo.data.transform import TransformConfig
from clippo.data.vqa2 import Vqa2Config
from clippo.errors import UserError
from clippo.evaluation.labelled import Labelled, classes_of, joint_fingerprint, labelled
from clippo.evaluation.text_tasks import TASKS, TextTask, checksum_of, load_task
from clippo.evaluation.vqa import Position
from clippo.evaluation.vqa_accuracy import SoftTargets, answer_vocabulary
from clippo.finetuning.inputs import Inputs, LabelledPictures, QuestionsInPictures, Texts
from clippo.finetuning.objectives import (
    Answers,
    Asked,
    Classification,
    Objective,
    Regression,
    most_frequent_by_kind,
)
from clippo.finetuning.own_texts import own_texts
from clippo.seeds import generator

__all__ = [
    "TASK_NAMES",
    "Examples",
    "Reads",
    "Task",
    "load_named_task",
    "task_of_labels",
    "task_of_questions",
    "task_of_texts",
]

Reads = Literal["texts", "pictures", "questions"]

TASK_NAMES = (*TASKS, "vqa", "labels", "texts")

DEV = 0.1  # share of what is trained on, where the data have no part of their own for it
MAX_DEV = 2000  # more would take longer to measure than they would help to choose
MIN_COUNT = 9  # of an answer among the questions to train on, so that it is ever given


@dataclass(frozen=True)
class Examples:
    """Some of the examples of a collection.

    Attributes:
        inputs: of the whole collection.
        targets: of the whole collection, as the objective takes them.
        rows: (N,) the numbers of these examples in it.
    """

    inputs: Inputs
    targets: Any
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def drawn(self, most: int, *path: str) -> Examples:
        """So many of them at most, drawn at random; the same ones at every call of the same path."""
        if len(self) <= most:
            return self
        chosen = generator(0, "finetuning", *path).permutation(len(self))[:most]
        return replace(self, rows=self.rows[np.sort(chosen)])


@dataclass(frozen=True)
class Task:
    """A task to fine-tune for: its examples and its objective.

    Attributes:
        name: of the task.
        objective: what is predicted.
        reads: what the examples are; of "questions", those that are drawn into pictures.
        train: examples to train on.
        dev: examples by which weights and learning rates are chosen.
        tests: examples to measure on, by name; the name is "" where there is one set of them.
        fingerprint: checksum of the data.
        position: where questions are drawn.
        transform: of pictures with labels.
    """

    name: str
    objective: Objective
    reads: Reads
    train: Examples
    dev: Examples
    tests: Mapping[str, Examples]
    fingerprint: str
    position: Position = "top"
    transform: TransformConfig | None = None


def load_named_task(
    name: str,
    *,
    root: str = "",
    data: SourceConfig | str | None = None,
    transform: TransformConfig,
    image_size: int,
    position: Position = "top",
    max_train: int | None = None,
    max_test: int | None = None,
) -> Task:
    """Read a task.

    Args:
        name: in `TASK_NAMES`: a task on texts as of `clippo.evaluation.text_tasks`, "vqa", "labels" for the
            labelled pictures of `data`, or "texts" for the table `data`.
        root: folder of the texts that are fetched, by default that in the user's cache; of GLUE; or of VQA
            v2, without which the questions are made from the picture dictionary.
        data: the source of "labels", or the file of "texts".
        transform: of pictures with labels.
        image_size: side in px of the images of the model.
        position: where questions are drawn.
        max_train, max_test: examples at most, drawn at random, always the same ones; by default all. Of texts
            they are the examples of `TextTask.capped`, which probes are measured on.

    Raises:
        UserError: there is no such task, or its data are not there or not what they should be; a number
            below 1; data for a task that brings its own, or none for one that does not.
    """
    if name not in TASK_NAMES:
        raise UserError(f"the task must be one of {', '.join(TASK_NAMES)}, or glue; got {name!r}")
    for argument, value in (("max_train", max_train), ("max_test", max_test)):
        if value is not None and value < 1:
            raise UserError(f"{argument} must be at least 1, got {value}")
    if (data is None) == (name in ("labels", "texts")):
        needed = (
            "needs data: folder:photos for labels, reviews.csv for texts" if data is None else "takes no data"
        )
        raise UserError(f"the task {name} {needed}")
    if position not in get_args(Position):
        raise UserError(f"position must be one of {', '.join(get_args(Position))}, got {position!r}")
    if name == "labels":
        assert isinstance(data, SourceConfig)
        task = task_of_labels(data, transform, image_size)
    elif name == "vqa":
        questions = Vqa2Config(root=root) if root else MadeQuestionsConfig()
        train, held_out = (questions.build(split, image_size) for split in ("train", "held_out"))
        task = task_of_questions(train, held_out, position)
    else:
        read = own_texts(str(data)) if name == "texts" else load_task(name, root)
        most = len(read.train) if max_train is None else max_train
        if max_train is not None or max_test is not None:
            largest = max(map(len, read.tests.values()))
            read = read.capped(most, largest if max_test is None else max_test)
        return task_of_texts(read)
    return capped(task, max_train, max_test)


def capped(task: Task, max_train: int | None, max_test: int | None) -> Task:
    """A task with so many examples at most to train on, and to test on in each set."""
    if max_train is not None:
        dev = task.dev.drawn(max(1, max_train // 4), "dev")
        task = replace(task, train=task.train.drawn(max_train, "train"), dev=dev)
    if max_test is not None:
        tests = {name: part.drawn(max_test, "test", name) for name, part in task.tests.items()}
        task = replace(task, tests=tests)
    counts = [len(part) for part in (task.train, task.dev, *task.tests.values())]
    return replace(task, fingerprint=checksum_of([task.fingerprint, repr(counts)]))


def task_of_texts(task: TextTask) -> Task:
    """Make a task of texts, or of pairs of texts, which are drawn into one image with " [SEP] " between them.

    Raises:
        UserError: a part without examples; scores to train on that are all equal.
    """
    parts = {"train": task.train, "validation": task.validation, **task.tests}
    if empty := [name for name, part in parts.items() if not len(part)]:
        raise UserError(f"the task {task.name} has no example in its part {empty[0]}: take more examples")
    labels = task.train.labels
    objective: Objective
    if task.classes:
        objective = Classification(classes=task.classes, measures=task.metrics)
    else:
        objective = Regression(mean=float(labels.mean()), std=float(labels.std()), measures=task.metrics)
    train, dev, *tests = (
        Examples(Texts(part.inputs), part.labels, np.arange(len(part)))
        for part in (task.train, task.validation, *task.tests.values())
    )
    return Task(
        task.name, objective, "texts", train, dev.drawn(MAX_DEV, "dev"),
        dict(zip(task.tests, tests, strict=True)), task.fingerprint,
    )  # fmt: skip


def task_of_questions(
    train: Questions, held_out: Questions, position: Position = "top", min_count: int = MIN_COUNT
) -> Task:
    """Make a task of questions about pictures; a tenth of the pictures to train on is for choosing.

    Args:
        train: questions to train on.
        held_out: questions to test on.
        position: where the question is drawn.
        min_count: answers that are the right one of fewer training questions are never given.

    Raises:
        UserError: questions about fewer than two pictures, none to test on, or fewer than two answers that
            come often enough.
    """
    pictures, numbers = np.unique([question.picture for question in train.asked], return_inverse=True)
    if len(pictures) < 2 or not len(held_out):
        raise UserError(
            "there must be questions about two pictures to train on, and one to test on; got "
            f"{len(pictures)} pictures and {len(held_out)} questions"
        )
    vocabulary = answer_vocabulary([question.answer for question in train.asked], min_count)
    if len(vocabulary) < 2:
        raise UserError(
            f"two answers must each be the right one of {min_count} questions to train on, got "
            f"{len(vocabulary)} such answers"
        )
    is_dev = np.isin(numbers, dev_of(len(pictures), "pictures"))
    objective = Answers(vocabulary=tuple(vocabulary), majority=most_frequent_by_kind(train.asked))

    def examples(questions: Questions, rows: np.ndarray) -> Examples:
        soft = SoftTargets([question.answers for question in questions.asked], vocabulary)
        return Examples(QuestionsInPictures(questions, position), Asked(questions.asked, soft), rows)

    own = examples(train, np.flatnonzero(~is_dev))
    dev = replace(own, rows=np.flatnonzero(is_dev)).drawn(MAX_DEV, "dev")
    fingerprint = checksum_of([train.fingerprint, held_out.fingerprint, position, str(min_count)])
    tests = {"": examples(held_out, np.arange(len(held_out)))}
    return Task("vqa", objective, "questions", own, dev, tests, fingerprint, position=position)


def task_of_labels(data: SourceConfig, transform: TransformConfig, image_size: int) -> Task:
    """Make a task of pictures with labels, of which those that the source holds out are tested.

    A tenth of the others is for choosing. Of several labels of a picture the first counts. Pictures that
    cannot be read are left out, with a warning.

    Args:
        data: the pictures.
        transform: turns them into pixels, with random changes in training.
        image_size: side in px of the images of the model.

    Raises:
        UserError: there are no labels, fewer than two classes, or too few pictures.
    """
    sources = [data.build(split, image_size=image_size) for split in ("train", "held_out")]
    classes = classes_of(source.described(row) for source in sources for row in range(len(source)))
    train, test = (readable(labelled(source, classes)) for source in sources)
    if len(train) < 2:
        raise UserError(f"there must be two pictures with labels to train on, got {len(train)}")
    pixels = transform.build(image_size)
    labels = train.labels[:, 0].astype(np.int64)
    is_dev = np.isin(np.arange(len(train)), dev_of(len(train), "pictures"))
    objective = Classification(classes=tuple(classes), measures=("accuracy", "macro_f1"))
    own = Examples(LabelledPictures(train, pixels), labels, np.flatnonzero(~is_dev))
    dev = replace(own, rows=np.flatnonzero(is_dev)).drawn(MAX_DEV, "dev")
    test_labels = test.labels[:, 0].astype(np.int64)
    tests = {"": Examples(LabelledPictures(test, pixels), test_labels, np.arange(len(test)))}
    fingerprint = joint_fingerprint(train, test)
    return Task("labels", objective, "pictures", own, dev, tests, fingerprint, transform=transform)


def readable(found: Labelled) -> Labelled:
    """The examples whose pictures can be read, with one warning if some cannot.

    Raises:
        UserError: none can.
    """
    kept, broken = [], []
    for number, row in enumerate(tqdm(found.rows.tolist(), desc="check pictures", leave=False)):
        try:
            pixels_of(found.source[row])
            kept.append(number)
        except BrokenExampleError as error:
            broken.append(error)
    if not kept:
        raise UserError(f"none of {len(found):,} pictures can be read, such as {broken[0]}")
    if broken:
        warnings.warn(
            f"{len(broken)} of {len(found):,} pictures cannot be read and are left out, such as {broken[0]}",
            stacklevel=2,
        )
    return found.take(np.array(kept))


def dev_of(count: int, kind: str) -> Sequence[int]:
    """The numbers of the tenth of so many things that is for choosing, one at least."""
    order = generator(0, "finetuning", "dev", kind).permutation(count)
    chosen: list[int] = order[: max(1, round(DEV * count))].tolist()
    return chosen
