"""Visual question answering by drawing the question into the picture, on frozen embeddings."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clippo.data.base import SourceConfig
from clippo.data.made_questions import MadeQuestionsConfig
from clippo.data.questions import Question, Questions, QuestionsConfig
from clippo.data.transform import TransformConfig
from clippo.errors import UserError
from clippo.evaluation.answer_probe import fit_probe
from clippo.evaluation.base import Evaluator, EvaluatorConfig, Metrics
from clippo.evaluation.figures import DPI, picture_of
from clippo.evaluation.intervals import percent
from clippo.evaluation.vqa_accuracy import SoftTargets, answer_vocabulary, vqa_accuracy
from clippo.model import Clippo, RenderedText
from clippo.renderer import Renderer, compose

__all__ = ["Position", "Vqa", "VqaConfig"]

Position = Literal["top", "middle", "bottom"]

BLOCK = 256  # pictures in memory at a time
BLANK = 127  # grey level of the picture of a question alone: the background of rendered text
SHEET_ROWS, SHEET_COLUMNS = 4, 6
CELL_PX, TITLE_PX, GAP_PX = 152, 38, 8
RIGHT, WRONG = "#2ea043", "#cf222e"


@dataclass(frozen=True, kw_only=True)
class VqaConfig(EvaluatorConfig):
    """Accuracy of answers to questions that are drawn into their pictures, by a probe on frozen embeddings.

    Attributes:
        questions: what is asked: questions made from the picture dictionary, or VQA v2 on disk.
        position: where the question is drawn.
        min_count: answers that are the right one of fewer training questions are never given.
        seed: of the probes.
    """

    name: ClassVar[str] = "vqa"
    questions: QuestionsConfig = field(default_factory=MadeQuestionsConfig)
    position: Position = "top"
    min_count: int = 9
    seed: int = 0

    def build(self, data: SourceConfig, transform: TransformConfig, image_size: int) -> Vqa:
        train, held_out = (self.questions.build(split, image_size) for split in ("train", "held_out"))
        return Vqa(train, held_out, position=self.position, min_count=self.min_count, seed=self.seed)


class Vqa(Evaluator):
    """The official accuracy in percent, by model and kind of question: "drawn/colour", and "drawn/all".

    A probe (see `clippo.evaluation.answer_probe`) is trained on each of these embeddings of the training
    questions, and answers those that are held out:

    - drawn: of the picture with the question drawn into it;
    - question_only: of the question drawn into a blank picture;
    - picture_only: of the picture without the question;
    - late_fusion: those of the picture and of the question as a text, one after the other.

    A model that reads text as bytes has the last two alone. "majority" gives the most frequent answer of the
    kind of question in training, and "chance" is what an answer drawn from those of the kind reaches. The
    confidence intervals draw the questions of a picture together.

    Args:
        train: questions that the probes are trained on.
        held_out: questions that are measured.
        position, min_count, seed: as of `VqaConfig`.

    Raises:
        UserError: too few questions, no answer that comes often enough, or a kind of question that is
            measured but never trained.
    """

    headline: ClassVar[Mapping[str, str]] = {
        "drawn/all": "majority/all",
        "late_fusion/all": "majority/all",
        "question_only/all": "majority/all",
        "picture_only/all": "majority/all",
    }

    def __init__(
        self,
        train: Questions,
        held_out: Questions,
        *,
        position: Position = "top",
        min_count: int = 9,
        seed: int = 0,
    ) -> None:
        pictures = {question.picture for question in train.asked}
        if len(pictures) < 2 or not len(held_out):
            raise UserError(
                "there must be questions about two pictures to train on, and one to measure; got "
                f"{len(pictures)} pictures and {len(held_out)} questions"
            )
        self.train, self.held_out = train, held_out
        self.position: Position = position
        self.seed = seed
        self.vocabulary = answer_vocabulary([question.answer for question in train.asked], min_count)
        if not self.vocabulary:
            raise UserError(
                f"min_count must be at most {most_frequent(train.asked)}, how often the most frequent answer "
                f"comes; got {min_count}"
            )
        self.targets = SoftTargets([question.answers for question in train.asked], self.vocabulary)
        self.counts = self.counts_by_kind()
        if missing := {question.kind for question in held_out.asked} - self.counts.keys():
            raise UserError(
                f"questions of the kind {', '.join(sorted(missing))} are measured but never trained"
            )

    def counts_by_kind(self) -> dict[str, np.ndarray]:
        """How many training questions of each kind each of the V answers is right of, in part: (V,)."""
        columns: dict[str, list[int]] = defaultdict(list)
        for index, question in enumerate(self.train.asked):
            start, end = self.targets.ends[index : index + 2]
            columns[question.kind] += self.targets.columns[start:end].tolist()
        V = len(self.vocabulary)
        return {kind: np.bincount(own, minlength=V) for kind, own in columns.items() if own}

    def __call__(self, model: Clippo) -> Metrics:
        names = ["picture_only", "late_fusion"]
        if reads_pixels(model):
            names = ["drawn", "question_only", *names]
        z_train, z_held_out = (
            embed(model, part, self.position, names) for part in (self.train, self.held_out)
        )
        metrics: Metrics = {}
        for name in names:
            metrics |= self.scored(name, self.answered(z_train[name], z_held_out[name]))
        majority = {kind: self.vocabulary[counts.argmax()] for kind, counts in self.counts.items()}
        metrics |= self.scored("majority", [majority[question.kind] for question in self.held_out.asked])
        return metrics | self.chance()

    def answered(self, z_train: Tensor, z_held_out: Tensor) -> list[str]:
        """The answers of a probe to the questions that are held out."""
        pictures = [question.picture for question in self.train.asked]
        probe = fit_probe(z_train, self.targets, pictures, self.seed)
        return [self.vocabulary[number] for number in probe.predict(z_held_out)]

    def scored(self, name: str, answers: Sequence[str]) -> Metrics:
        """The accuracy of answers to all questions that are held out, in all and by kind."""
        asked = self.held_out.asked
        scores = np.array([vqa_accuracy(a, q.answers) for a, q in zip(answers, asked, strict=True)])
        pictures = np.array([question.picture for question in asked])
        return {
            f"{name}/{kind}": percent(scores[rows], pictures[rows])
            for kind, rows in rows_by_kind(asked).items()
        }

    def chance(self) -> Metrics:
        """The accuracy that is expected of an answer drawn from those of the kind of question."""
        asked = self.held_out.asked
        targets = SoftTargets([question.answers for question in asked], self.vocabulary)
        expected = []
        for question, start, end in zip(asked, targets.ends, targets.ends[1:], strict=False):
            is_possible = self.counts[question.kind] > 0
            scores = targets.scores[start:end][is_possible[targets.columns[start:end]]]
            expected.append(scores.sum() / is_possible.sum())
        return {
            f"chance/{kind}": float(100 * np.mean(np.array(expected)[rows]))
            for kind, rows in rows_by_kind(asked).items()
        }

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256((self.train.fingerprint + self.held_out.fingerprint).encode()).hexdigest()

    def picture(self, model: Clippo) -> Image.Image | None:
        """Questions as the model reads them, with its answers, and the right ones where they differ."""
        if not reads_pixels(model):
            return None
        from matplotlib.figure import Figure  # takes half a second

        z_train, z_held_out = (
            embed(model, part, self.position, ["drawn"])["drawn"] for part in (self.train, self.held_out)
        )
        answers, asked = self.answered(z_train, z_held_out), self.held_out.asked
        shown = spread(asked, SHEET_ROWS * SHEET_COLUMNS)
        pixels = compose(
            [self.held_out.image(index) for index in shown],
            [asked[index].text for index in shown],
            renderer_of(model),
            self.position,
        )
        width, height = SHEET_COLUMNS * (CELL_PX + GAP_PX), SHEET_ROWS * (CELL_PX + TITLE_PX)
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        for place, (index, image) in enumerate(zip(shown, pixels, strict=True)):
            row, column = divmod(place, SHEET_COLUMNS)
            x, y = column * (CELL_PX + GAP_PX) + GAP_PX // 2, height - (row + 1) * (CELL_PX + TITLE_PX)
            resized = Image.fromarray(image).resize((CELL_PX, CELL_PX), Image.Resampling.NEAREST)
            figure.figimage(np.asarray(resized), x, y)
            is_right = vqa_accuracy(answers[index], asked[index].answers) > 0
            title = answers[index] if is_right else f"{answers[index]}\n(right: {asked[index].answer})"
            place_of_title = ((x + CELL_PX / 2) / width, (y + CELL_PX + GAP_PX / 2) / height)
            color = RIGHT if is_right else WRONG
            figure.text(*place_of_title, title, ha="center", va="bottom", fontsize=8, color=color)
        return picture_of(figure)


def embed(model: Clippo, questions: Questions, position: Position, names: Sequence[str]) -> dict[str, Tensor]:
    """Embeddings of the questions by name, see `Vqa`: (N, E) float32 each, late_fusion (N, 2 E)."""
    texts = [question.text for question in questions.asked]
    number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    distinct, rows = list(number), [number[text] for text in texts]
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for start in range(0, len(texts), BLOCK):
        images = [questions.image(index) for index in range(start, min(start + BLOCK, len(texts)))]
        if "drawn" in names:
            asked = texts[start : start + BLOCK]
            parts["drawn"].append(model.encode_image_text(images, asked, position=position).cpu())
        if {"picture_only", "late_fusion"} & set(names):
            parts["picture_only"].append(model.encode_image(images).cpu())
    if "question_only" in names:
        blank = np.full((model.config.image_size, model.config.image_size, 3), BLANK, np.uint8)
        for start in range(0, len(distinct), BLOCK):
            asked = distinct[start : start + BLOCK]
            z = model.encode_image_text([blank] * len(asked), asked, position=position)
            parts["question_only"].append(z.cpu())
    out = {name: torch.cat(own) for name, own in parts.items()}
    if "question_only" in names:
        out["question_only"] = out["question_only"][rows]
    if "late_fusion" in names:
        out["late_fusion"] = torch.cat([out["picture_only"], model.encode_text(distinct).cpu()[rows]], dim=1)
    return out


def reads_pixels(model: Clippo) -> bool:
    return isinstance(model.text_input, RenderedText)


def renderer_of(model: Clippo) -> Renderer:
    renderer = model.renderer
    if not isinstance(renderer, Renderer):
        raise TypeError(f"renderer must be a clippo.renderer.Renderer, got {type(renderer).__name__}")
    return renderer


def rows_by_kind(asked: Sequence[Question]) -> dict[str, np.ndarray]:
    """The numbers of all questions, and of those of each kind."""
    kinds = np.array([question.kind for question in asked])
    own = {kind: np.flatnonzero(kinds == kind) for kind in dict.fromkeys(kinds.tolist())}
    return {"all": np.arange(len(asked)), **own}


def most_frequent(asked: Sequence[Question]) -> int:
    return max(Counter(question.answer for question in asked).values())


def spread(asked: Sequence[Question], count: int) -> list[int]:
    """The numbers of up to `count` questions, of each kind about as many."""
    rng = np.random.default_rng(0)
    own = [rng.permutation(rows).tolist() for kind, rows in rows_by_kind(asked).items() if kind != "all"]
    turns = [rows[turn] for turn in range(max(map(len, own))) for rows in own if turn < len(rows)]
    return sorted(turns[:count])
