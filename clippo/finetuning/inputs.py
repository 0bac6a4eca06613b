"""Inputs of the tower from the examples of a task: texts, pictures, pictures with a question, or features.

Shapes: B examples, D width of the tower, S side of its images in px.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from clippo.data.decode import pixels_of
from clippo.data.questions import Questions
from clippo.data.transform import Transform
from clippo.evaluation.labelled import Labelled
from clippo.evaluation.vqa import Position
from clippo.model import Clippo

__all__ = ["Features", "Inputs", "LabelledPictures", "QuestionsInPictures", "Texts"]


class Inputs(ABC):
    """N things that a tower reads."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def pooled(self, model: Clippo, rows: np.ndarray, rng: np.random.Generator | None = None) -> Tensor:
        """Pool what the tower makes of some of them: (B, D), on the device of the model, with a graph.

        Args:
            model: whose tower reads.
            rows: (B,) their numbers.
            rng: decides on random changes of pictures, in training; without it there are none.

        Raises:
            UserError: a picture cannot be read.
        """


class Texts(Inputs):
    """Texts, as they are drawn or as bytes.

    Args:
        strings: N of them; the two of a pair are one string with " [SEP] " in it.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self.strings = strings

    def __len__(self) -> int:
        return len(self.strings)

    def pooled(self, model: Clippo, rows: np.ndarray, rng: np.random.Generator | None = None) -> Tensor:
        return model.pool_texts(model.text_input.tokenize([self.strings[row] for row in rows.tolist()]))

    def num_cut(self, model: Clippo, rows: np.ndarray) -> int:
        """How many of some texts are too long for a model, which reads their beginnings."""
        before = model.text_input.num_cut
        model.text_input.tokenize([self.strings[row] for row in rows.tolist()])
        return model.text_input.num_cut - before


class QuestionsInPictures(Inputs):
    """Pictures, each with a question drawn into it.

    Args:
        questions: N of them, with their pictures.
        position: where the question is drawn.
    """

    def __init__(self, questions: Questions, position: Position) -> None:
        self.questions = questions
        self.position: Position = position

    def __len__(self) -> int:
        return len(self.questions)

    def pooled(self, model: Clippo, rows: np.ndarray, rng: np.random.Generator | None = None) -> Tensor:
        images = [self.questions.image(row) for row in rows.tolist()]
        texts = [self.questions.asked[row].text for row in rows.tolist()]
        return model.pool_images(torch.from_numpy(model.compose(images, texts, position=self.position)))


class LabelledPictures(Inputs):
    """Pictures of a source.

    Args:
        labelled: N examples, all of which can be read.
        transform: turns a picture into (S, S, 3) uint8 pixels.
    """

    def __init__(self, labelled: Labelled, transform: Transform) -> None:
        self.labelled = labelled
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labelled)

    def pooled(self, model: Clippo, rows: np.ndarray, rng: np.random.Generator | None = None) -> Tensor:
        source, indices = self.labelled.source, self.labelled.rows[rows].tolist()
        pixels = [self.transform(pixels_of(source[index]), rng) for index in indices]
        return model.pool_images(torch.from_numpy(np.stack(pixels)))


class Features(Inputs):
    """Pooled tokens that a frozen tower has computed already.

    Args:
        features: (M, D) pooled tokens.
        rows: (M,) the numbers of their inputs, by which they are asked for.
    """

    def __init__(self, features: Tensor, rows: np.ndarray) -> None:
        self.features = features
        self.place = np.full(int(rows.max(initial=-1)) + 1, -1)
        self.place[rows] = np.arange(len(rows))

    def __len__(self) -> int:
        return len(self.features)

    def pooled(self, model: Clippo, rows: np.ndarray, rng: np.random.Generator | None = None) -> Tensor:
        return self.features[torch.from_numpy(self.place[rows]).to(self.features.device)]
