"""Questions in the layout of VQA v2 (Goyal et al., arXiv 1612.00837), with the photographs of COCO."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Any, ClassVar

import numpy as np

from clippo.data.decode import decode
from clippo.data.questions import Question, Questions, QuestionsConfig, QuestionsSplit
from clippo.errors import UserError

__all__ = ["Vqa2Config"]

SPLITS: dict[QuestionsSplit, str] = {"train": "train2014", "held_out": "val2014"}


@dataclass(frozen=True, kw_only=True)
class Vqa2Config(QuestionsConfig):
    """VQA v2 as it is downloaded: trained on train2014, measured on val2014.

    The kinds of questions are its answer types: yes_no, number and other.

    Attributes:
        root: the folder that holds, for each of train2014 and val2014,
            `v2_OpenEnded_mscoco_train2014_questions.json`, `v2_mscoco_train2014_annotations.json` and
            the photographs `train2014/COCO_train2014_000000000009.jpg`.

    Raises:
        UserError: the root is empty.
    """

    name: ClassVar[str] = "vqa2"
    root: str

    def __post_init__(self) -> None:
        if not self.root:
            raise UserError("questions.root must be the folder of VQA v2, got an empty text")

    def build(self, split: QuestionsSplit, image_size: int) -> Vqa2:
        root, part = Path(self.root), SPLITS[split]
        texts = listed(root / f"v2_OpenEnded_mscoco_{part}_questions.json", "questions")
        annotations = listed(root / f"v2_mscoco_{part}_annotations.json", "annotations")
        try:
            text_of = {entry["question_id"]: entry["question"] for entry in texts}
            asked = [question_of(entry, text_of[entry["question_id"]]) for entry in annotations]
            files = {question.picture: f"COCO_{part}_{int(question.picture):012}.jpg" for question in asked}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"the questions and annotations of {part} in {root} are not in the layout of VQA v2, or an "
                f"annotation lacks its question: {type(error).__name__}: {error}"
            ) from error
        pictures = root / part
        present = set(os.listdir(pictures)) if pictures.is_dir() else set()
        if missing := [file for file in files.values() if file not in present]:
            raise UserError(
                f"{pictures} lacks {len(missing):,} of {len(files):,} photographs, such as {missing[0]}"
            )
        return Vqa2(asked, {picture: str(pictures / file) for picture, file in files.items()})


class Vqa2(Questions):
    """Questions about files.

    Args:
        asked: the questions.
        files: of the photographs, by the names of the pictures.
    """

    def __init__(self, asked: Sequence[Question], files: dict[str, str]) -> None:
        self.asked = asked
        self.files = files

    def image(self, index: int) -> np.ndarray:
        file = self.files[self.asked[index].picture]
        try:
            return decode(Path(file).read_bytes())
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the photograph {file}: {error}") from error


def question_of(annotation: dict[str, Any], text: str) -> Question:
    return Question(
        key=str(annotation["question_id"]),
        picture=str(annotation["image_id"]),
        text=text,
        # Most answers are given to thousands of questions, and are kept in memory once.
        answers=tuple(intern(answer["answer"]) for answer in annotation["answers"]),
        answer=intern(annotation["multiple_choice_answer"]),
        kind=intern(annotation["answer_type"].replace("/", "_")),
    )


def listed(file: Path, name: str) -> list[dict[str, Any]]:
    """The list of a name in a JSON file.

    Raises:
        UserError: the file cannot be read, or has no such list.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}") from error
    found = content.get(name) if isinstance(content, dict) else None
    if not isinstance(found, list) or not found:
        raise UserError(f'{file} must hold {{"{name}": [...]}} with an entry at least')
    return found
