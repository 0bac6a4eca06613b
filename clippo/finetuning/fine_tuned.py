"""A fine-tuned model: a Clippo, a head on its tower, and what the head predicts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from clippo.data.transform import Transform, TransformConfig
from clippo.errors import UserError
from clippo.evaluation.text_tasks.base import SEPARATOR
from clippo.evaluation.vqa import Position
from clippo.files import atomic_path, check_file, check_manifest, write_manifest, write_text
from clippo.finetuning.heads import MlpHead
from clippo.finetuning.inputs import Inputs
from clippo.finetuning.objectives import Objective
from clippo.finetuning.tasks import Examples, Reads, Task
from clippo.model import Clippo, RenderedText
from clippo.model.checkpoints.safetensors import is_finite
from clippo.model.configs import from_dict, to_dict
from clippo.model.preprocess import rgb_pixels

__all__ = ["About", "FineTuned"]

HEAD_FILE = "head.json"
HEAD_WEIGHTS = "head.safetensors"

BATCH_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class About:
    """Description of a fine-tuned model: its task, and what it reads and predicts.

    Attributes:
        task: name of the task.
        reads: "texts", "pictures", or "questions" that are drawn into pictures.
        objective: what is predicted.
        position: where questions are drawn.
        transform: of pictures with labels.

    Raises:
        UserError: another value of `reads` or `position`.
    """

    task: str
    reads: Reads
    objective: Objective
    position: Position = "top"
    transform: TransformConfig | None = None

    def __post_init__(self) -> None:
        for field, known in (("reads", get_args(Reads)), ("position", get_args(Position))):
            if getattr(self, field) not in known:
                raise UserError(f"{field} must be one of {', '.join(known)}, got {getattr(self, field)!r}")

    @classmethod
    def of(cls, task: Task) -> Self:
        return cls(
            task=task.name,
            reads=task.reads,
            objective=task.objective,
            position=task.position,
            transform=task.transform,
        )


class FineTuned(nn.Module):
    """A Clippo with a head, which predicts classes, scores or answers.

    Args:
        model: whose tower reads.
        about: what the head predicts.
        seed: decides on the first weights of the head.

    Raises:
        UserError: questions for a model that reads text as bytes, into whose pictures nothing can be drawn.
    """

    def __init__(self, model: Clippo, about: About, seed: int = 0) -> None:
        super().__init__()
        if about.reads == "questions" and not isinstance(model.text_input, RenderedText):
            raise UserError("the model must read drawn text for questions in pictures; it reads bytes")
        self.model = model
        self.about = about
        self.head = MlpHead(model.config.width, about.objective.num_outputs, seed).to(model.device)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @cached_property
    def transform(self) -> Transform | None:
        """The transform of pictures with labels."""
        config = self.about.transform
        return None if config is None else config.build(self.model.config.image_size)

    def autocast(self) -> AbstractContextManager[Any]:
        """Context of products in bfloat16, on a GPU."""
        kind = self.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")

    def forward(self, inputs: Inputs, rows: np.ndarray, rng: np.random.Generator | None = None) -> Tensor:
        """The outputs for some inputs: (B, O) float32, with a graph; the arguments are as of `Inputs`."""
        with self.autocast():
            out: Tensor = self.head(inputs.pooled(self.model, rows, rng))
            return out.float()

    @torch.no_grad()
    def outputs_of(self, examples: Examples) -> Tensor:
        """The outputs for examples: (N, O) float32 on the CPU."""
        starts = range(0, len(examples), BATCH_SIZE)
        return torch.cat(
            [self(examples.inputs, examples.rows[start : start + BATCH_SIZE]).cpu() for start in starts]
        )

    @torch.no_grad()
    def features_of(self, inputs: Inputs, rows: np.ndarray) -> Tensor:
        """The pooled tokens of some inputs: (N, D) float32, on the device of the model."""
        with self.autocast():
            starts = range(0, len(rows), BATCH_SIZE)
            parts = [inputs.pooled(self.model, rows[s : s + BATCH_SIZE]).float() for s in starts]
        return torch.cat(parts)

    @torch.no_grad()
    def outputs(
        self,
        texts: Sequence[str] | Sequence[tuple[str, str]] | None = None,
        pictures: Sequence[Any] | None = None,
    ) -> Tensor:
        """Compute what the predictions are made of, such as logits of classes: (B, O) float32 on the CPU.

        Args:
            texts: strings, or pairs of strings for a model of pairs; or the questions about the pictures.
            pictures: PIL images, arrays or tensors of any sizes.

        Raises:
            UserError: not what the model was fine-tuned to read, or another number of questions than of
                pictures.
            TypeError, ValueError: something that is not a picture or a text.
        """
        reads = self.about.reads
        wanted = {"texts": (True, False), "pictures": (False, True), "questions": (True, True)}[reads]
        if (texts is not None, pictures is not None) != wanted:
            named = {"texts": "texts", "pictures": "pictures", "questions": "texts and pictures"}[reads]
            raise UserError(f"this model was fine-tuned for {self.about.task} and takes {named}")
        if texts is not None and pictures is not None and len(texts) != len(pictures):
            raise UserError(f"texts must be as many as pictures, {len(pictures)}, got {len(texts)}")
        count = len(texts if texts is not None else pictures or ())
        if not count:
            return torch.zeros(0, self.about.objective.num_outputs)
        parts = []
        for start in range(0, count, BATCH_SIZE):
            own = slice(start, start + BATCH_SIZE)
            strings = None if texts is None else [joined(text) for text in texts[own]]
            with self.autocast():
                pooled = self.pooled(strings, None if pictures is None else pictures[own])
                parts.append(self.head(pooled).float().cpu())
        return torch.cat(parts)

    def pooled(self, texts: list[str] | None, pictures: Sequence[Any] | None) -> Tensor:
        """Pool texts, pictures, or pictures with questions drawn into them: (B, D)."""
        model = self.model
        if pictures is None:
            assert texts is not None
            return model.pool_texts(model.text_input.tokenize(texts))
        if texts is not None:
            pixels = model.compose(pictures, texts, position=self.about.position)
        elif self.transform is not None:
            pixels = np.stack([self.transform(rgb_pixels(picture)) for picture in pictures])
        else:
            pixels = np.stack([model.preprocess_image(picture) for picture in pictures])
        return model.pool_images(torch.from_numpy(pixels))

    def predict(
        self,
        texts: Sequence[str] | Sequence[tuple[str, str]] | None = None,
        pictures: Sequence[Any] | None = None,
    ) -> list[Any]:
        """Predict the class, score or answer of each text, picture, or question about a picture.

        Args:
            texts, pictures: as of `outputs`.

        Returns:
            B names of classes, scores as floats, or answers.

        Raises:
            UserError, TypeError, ValueError: as of `outputs`.
        """
        return self.about.objective.decided(self.outputs(texts, pictures))

    # Files

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model as `Clippo.save_pretrained` does, and `head.json` and `head.safetensors` beside it.

        So the tower by itself can be loaded by `Clippo.from_pretrained`.

        Raises:
            OSError: a file cannot be written.
        """
        folder = Path(folder)
        self.model.save_pretrained(folder)
        state = {name: value.cpu().contiguous() for name, value in self.head.state_dict().items()}
        with atomic_path(folder / HEAD_WEIGHTS) as path:
            path.write_bytes(save(state))
        write_text(folder / HEAD_FILE, json.dumps(to_dict(self.about), indent=2) + "\n")
        write_manifest(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load what `save_pretrained` wrote, ready to use. Nothing is unpickled.

        Raises:
            UserError: there is no such folder, it is damaged, or it holds no fine-tuned model.
        """
        folder = Path(folder)
        try:
            for name in (HEAD_FILE, HEAD_WEIGHTS):
                check_manifest(folder / name)
                check_file(folder / name)
            about = from_dict(About, json.loads((folder / HEAD_FILE).read_text(encoding="utf-8")))
            state = load((folder / HEAD_WEIGHTS).read_bytes())
            tuned = cls(Clippo.from_pretrained(folder), about)
            shapes = {name: tuple(value.shape) for name, value in tuned.head.state_dict().items()}
            if shapes != {name: tuple(value.shape) for name, value in state.items()}:
                raise ValueError(f"{HEAD_WEIGHTS} does not fit {HEAD_FILE} and the width of the model")
            if not all(is_finite(value) for value in state.values()):
                raise ValueError(f"{HEAD_WEIGHTS} holds values that are not finite")
        except (OSError, ValueError, TypeError, RecursionError, SafetensorError) as error:
            raise UserError(f"cannot read a fine-tuned model from {folder}: {error}") from error
        tuned.head.load_state_dict(state)
        return tuned.eval()


def joined(text: str | tuple[str, str]) -> str:
    return text if isinstance(text, str) else SEPARATOR.join(text)
