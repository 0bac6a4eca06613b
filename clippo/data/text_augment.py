"""Random changes of the texts in training: of their letters, and of how they are drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from clippo.data.perturbations import Perturbation
from clippo.errors import UserError
from clippo.model.packing import PackedPatches
from clippo.model.text_input import RenderedText, TextInput
from clippo.renderer import inked_patches

__all__ = ["TextAugment", "TextAugmentConfig"]

MAX_SHADE = 255


@dataclass(frozen=True, kw_only=True)
class TextAugmentConfig:
    """Random changes of the texts in training; none by default. Pairs of equal texts stay equal texts.

    Attributes:
        spelling: perturbations of the letters, one after the other: "NAME=RATE", such as "typos=0.05", see
            `Perturbation`.
        shift: a drawn text as a whole is moved to the right and down by up to so many patches, as far as
            there is room for it.
        shade: ink and background of a drawn text are each up to so many grey levels lighter or darker.

    Raises:
        UserError: a perturbation that there is not, or a number out of range.
    """

    spelling: tuple[str, ...] = ()
    shift: int = 0
    shade: int = 0

    def __post_init__(self) -> None:
        for specification in self.spelling:
            Perturbation.of(specification)
        if self.shift < 0:
            raise UserError(f"text_augment.shift must not be negative, got {self.shift}")
        if not 0 <= self.shade <= MAX_SHADE:
            raise UserError(f"text_augment.shade must be from 0 to {MAX_SHADE}, got {self.shade}")

    @property
    def is_drawn(self) -> bool:
        """Whether the pixels of drawn text change."""
        return bool(self.shift or self.shade)

    def build(self, text_input: TextInput) -> TextAugment | None:
        """Make the augmentation of the texts of a model; None if nothing changes.

        Raises:
            UserError: pixels are to change, and the text input draws none, or hardly any contrast would be
                left between its ink and its background.
        """
        return TextAugment(self, text_input) if self.spelling or self.is_drawn else None


class TextAugment:
    """See `TextAugmentConfig`. It is sent to worker processes, so it must be picklable.

    Args:
        config: the changes.
        text_input: what the texts enter the model by.

    Raises:
        UserError: as of `TextAugmentConfig.build`.
    """

    # Of arrays, B counts texts, T packed patches, R and C the rows and columns of the patches of an image.

    def __init__(self, config: TextAugmentConfig, text_input: TextInput) -> None:
        self.shift, self.shade = config.shift, config.shade
        self.perturbations = [Perturbation.of(specification) for specification in config.spelling]
        if not config.is_drawn:
            return
        if not isinstance(text_input, RenderedText):
            raise UserError("text_augment.shift and shade must be 0 for a model that reads text as bytes")
        self.patch_size = text_input.patch_size
        self.num_columns = text_input.image_size // text_input.patch_size
        self.background = text_input.background
        self.ink = int(getattr(text_input.renderer, "ink", 0))
        if self.shade and 2 * self.shade >= abs(self.ink - self.background):
            raise UserError(
                "text_augment.shade must be less than half of what the renderer's ink and background differ "
                f"by, which are {self.ink} and {self.background}; got {self.shade}"
            )

    def perturb(self, text: str, rng: np.random.Generator) -> str:
        """Change the letters of a text."""
        for perturbation in self.perturbations:
            text = perturbation(text, rng).text
        return text

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """(4,) random numbers from 0 to 1 for the pixels of a text, which `move` and `shaded` take."""
        return rng.random(4)

    def move(self, texts: Tensor | PackedPatches, drawn: np.ndarray) -> Tensor | PackedPatches:
        """Move texts by whole patches.

        Args:
            texts: B texts, as the text input gave them.
            drawn: (B, 4) of `draw`.
        """
        if not (self.shift and len(texts)):
            return texts
        if isinstance(texts, PackedPatches):
            starts = texts.varlen.cu_seqlens.numpy()
            row_T, column_T = np.divmod(texts.positions.numpy(), self.num_columns)
            last_B2 = np.stack([np.maximum.reduceat(x, starts[:-1]) for x in (row_T, column_T)], axis=1)
            step_B2 = self.steps(last_B2, drawn)
            moved_B = step_B2 @ np.array([self.num_columns, 1])
            positions = texts.positions + torch.from_numpy(moved_B.repeat(np.diff(starts))).int()
            return replace(texts, positions=positions)
        images = texts.numpy()
        inked_BRC = inked_patches(images, self.patch_size, self.background)
        last_B2 = np.stack([last_of(inked_BRC.any(axis)) for axis in (2, 1)], axis=1)
        pixels_B2 = self.steps(last_B2, drawn) * self.patch_size
        # The pixels that np.roll carries from one edge to the other are blank.
        moved = [
            np.roll(image, tuple(by), (0, 1)) for image, by in zip(images, pixels_B2.tolist(), strict=True)
        ]
        return torch.from_numpy(np.stack(moved))

    def steps(self, last_B2: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """(B, 2) patches down and to the right, for texts whose last row and column with ink are given."""
        room_B2 = np.minimum(self.shift, self.num_columns - 1 - last_B2)
        steps_B2: np.ndarray = (drawn[:, :2] * (room_B2 + 1)).astype(np.int64)
        return steps_B2

    def shaded(self, texts: Tensor | PackedPatches, drawn: np.ndarray) -> Tensor | PackedPatches:
        """Give texts other grey levels. Of packed patches, those that hold no ink are not there to change.

        Args:
            texts, drawn: as of `move`.
        """
        if not (self.shade and len(texts)):
            return texts
        ends_B2 = np.array([self.background, self.ink]) + self.shade * (2 * drawn[:, 2:] - 1)
        background_B1, ink_B1 = np.split(ends_B2.clip(0, 255), 2, axis=1)
        coverage = (np.arange(256) - self.background) / (self.ink - self.background)
        levels = (background_B1 + (ink_B1 - background_B1) * coverage).round().clip(0, 255).astype(np.uint8)
        if isinstance(texts, PackedPatches):
            text_T = np.arange(len(levels)).repeat(np.diff(texts.varlen.cu_seqlens.numpy()))
            pixels = levels[text_T[:, None, None], texts.pixels.numpy()]
            return replace(texts, pixels=torch.from_numpy(pixels))
        return torch.from_numpy(levels[np.arange(len(levels))[:, None, None], texts.numpy()])


def last_of(is_inked_BN: np.ndarray) -> np.ndarray:
    """(B,) index of the last True of each row; 0 where there is none."""
    N = is_inked_BN.shape[1]
    out: np.ndarray = np.where(is_inked_BN.any(1), N - 1 - is_inked_BN[:, ::-1].argmax(1), 0)
    return out
