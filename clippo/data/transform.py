"""Transforms: the image of an example to the pixels that the tower takes, with random changes in training."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from clippo.errors import UserError
from clippo.model.preprocess import Resize, resized
from clippo.renderer import import_skia
from clippo.seeds import generator

__all__ = ["CropConfig", "PlaceConfig", "SquashConfig", "Transform", "TransformConfig"]

GRADIENT_BYTES = 16 * 2**20  # of the backgrounds of `Place`


class Transform(ABC):
    """Turns images into (S, S, 3) uint8 pixels. It is sent to worker processes, so it must be picklable.

    Attributes:
        image_size: S, px.
    """

    image_size: int

    @property
    def decode_at_least(self) -> int:
        """In training, the sides in px to which JPEGs may be decoded at a part of their size; 0 for none."""
        return 0

    @abstractmethod
    def __call__(self, image: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Transform an image.

        Args:
            image: (H, W, 3) uint8, or (H, W, 4) with premultiplied alpha.
            rng: decides on the random changes; without it there are none, as evaluation wants it.
        """


@dataclass(frozen=True, kw_only=True)
class TransformConfig(ABC):
    """Configuration of a transform. The subclasses are the choices."""

    name: ClassVar[str]

    @abstractmethod
    def build(self, image_size: int) -> Transform:
        """Make the transform to images of a size in px."""


@dataclass(frozen=True, kw_only=True)
class SquashConfig(TransformConfig):
    """Resize a photograph to a square, without keeping its aspect ratio, as for the published models.

    Attributes:
        min_area: in training, a random part is taken of at least this share of the picture's area, and with
            at most a third more or less of its aspect ratio; 1 takes the whole picture.
        flip: in training, mirror every other picture. Letters in them are mirrored too.
        resize: as of `ClippoConfig`.
        background: grey level beneath transparent pixels, 0 to 255.
        half_decode: in training, decode JPEGs at a half, a quarter or an eighth of their size where the
            random part has at least the size of the model's images still. Sooner, and a little less sharp.

    Raises:
        UserError: a value out of range.
    """

    name: ClassVar[str] = "squash"
    min_area: float = 1.0
    flip: bool = False
    resize: Resize = "bicubic"
    background: int = 255
    half_decode: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.min_area <= 1:
            raise UserError(f"transform.min_area must be above 0 and at most 1, got {self.min_area}")
        if self.resize not in ("bicubic", "bilinear"):
            raise UserError(f"transform.resize must be bicubic or bilinear, got {self.resize!r}")
        if not 0 <= self.background <= 255:
            raise UserError(f"transform.background must be between 0 and 255, got {self.background}")

    def build(self, image_size: int) -> Photograph:
        return Photograph(self, image_size, is_square=False)


@dataclass(frozen=True, kw_only=True)
class CropConfig(SquashConfig):
    """Cut a square out of a photograph and resize it: its middle, and in training a random part.

    Attributes:
        min_area, flip, resize, background, half_decode: as of `SquashConfig`; the area is that of a square or
            of a rectangle with at most a third more or less of its height.
    """

    name: ClassVar[str] = "crop"
    min_area: float = 0.5

    def build(self, image_size: int) -> Photograph:
        return Photograph(self, image_size, is_square=True)


class Photograph(Transform):
    """See `SquashConfig`, and `CropConfig` for a transform that is square."""

    def __init__(self, config: SquashConfig, image_size: int, *, is_square: bool) -> None:
        self.config = config
        self.image_size = image_size
        self.is_square = is_square

    @property
    def decode_at_least(self) -> int:
        # A part of an area of at least `min_area` whose ratio is stretched by 4/3 has sides of this share.
        share = (self.config.min_area * (3 / 4 if self.config.min_area < 1 else 1)) ** 0.5
        return math.ceil(self.image_size / share) if self.config.half_decode else 0

    def __call__(self, image: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        height, width = image.shape[:2]
        top, left, rows, columns = 0, 0, height, width
        if self.is_square:
            rows = columns = min(height, width)
            top, left = (height - rows) // 2, (width - columns) // 2
        if rng is not None and self.config.min_area < 1:
            top, left, rows, columns = self.random_part(height, width, rng)
        part = image[top : top + rows, left : left + columns]
        out = resized(part, self.image_size, self.config.resize)
        if out.shape[2] == 4:
            ground = self.config.background * (255 - out[..., 3:].astype(np.int32))
            out = np.minimum(out[..., :3] + (ground + 127) // 255, 255).astype(np.uint8)
        if rng is not None and self.config.flip and rng.random() < 0.5:
            out = np.ascontiguousarray(out[:, ::-1])
        return out

    def random_part(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Top, left, height and width of a part of a picture, px: "random resized crop" (Szegedy et al.,
        arXiv 1409.4842). Of ten tries the first that fits is taken, or else the largest part in the middle.
        """
        ratio = 1.0 if self.is_square else width / height
        for area, stretch, y, x in rng.random((10, 4)).tolist():
            pixels = height * width * (self.config.min_area + (1 - self.config.min_area) * area)
            part_ratio = ratio * (4 / 3) ** (2 * stretch - 1)
            rows, columns = round((pixels / part_ratio) ** 0.5), round((pixels * part_ratio) ** 0.5)
            if 0 < rows <= height and 0 < columns <= width:
                return int(y * (height - rows + 1)), int(x * (width - columns + 1)), rows, columns
        rows = min(height, max(1, round(width / ratio)))
        columns = min(width, max(1, round(height * ratio)))
        return (height - rows) // 2, (width - columns) // 2, rows, columns


@dataclass(frozen=True, kw_only=True)
class PlaceConfig(TransformConfig):
    """Place a cut-out picture on a background: scaled, turned, moved, and on random colours.

    Attributes:
        strength: from 0, every picture plain, to 1, scaled down by up to a quarter, turned by up to 8
            degrees, and on a background that runs between two colours of any kind.
        recolor: from 0, the colours of the picture, to 1: mixed with those of a random matrix, so that hue,
            saturation and contrast differ, grey and negative pictures among them.
        background: grey level of the plain background, 0 to 255; rendered text has 127.

    Raises:
        UserError: a value out of range.
    """

    name: ClassVar[str] = "place"
    strength: float = 0.25
    recolor: float = 0.0
    background: int = 127

    def __post_init__(self) -> None:
        for name in ("strength", "recolor"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"transform.{name} must be between 0 and 1, got {getattr(self, name)}")
        if not 0 <= self.background <= 255:
            raise UserError(f"transform.background must be between 0 and 255, got {self.background}")

    def build(self, image_size: int) -> Place:
        return Place(self, image_size)


class Place(Transform):
    """See `PlaceConfig`."""

    def __init__(self, config: PlaceConfig, image_size: int) -> None:
        self.config = config
        self.image_size = image_size
        self.plain = np.full((image_size, image_size, 4), 255, np.uint8)
        self.plain[..., :3] = config.background

    @cached_property
    def gradients(self) -> np.ndarray:
        """Backgrounds of training, made once: a gradient takes longer to make than the picture to draw."""
        count = max(16, GRADIENT_BYTES // self.plain.nbytes)
        config, rng = self.config, generator(0, "gradients")
        return color_gradients(count, self.image_size, config.background, config.strength, rng)

    def __call__(self, image: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        skia = import_skia()
        S, strength = self.image_size, self.config.strength
        paint = None
        if rng is None:
            out = self.plain.copy()
            canvas = skia.Canvas(out, skia.kRGBA_8888_ColorType, skia.kPremul_AlphaType)
        else:
            shrink, angle, x, y, which = rng.random(5).tolist()
            out = self.gradients[int(which * len(self.gradients))].copy()
            canvas = skia.Canvas(out, skia.kRGBA_8888_ColorType, skia.kPremul_AlphaType)
            scale = 1 - 0.25 * strength * shrink
            canvas.translate(S * (1 - scale) * x, S * (1 - scale) * y)
            canvas.scale(scale, scale)
            canvas.rotate(8 * strength * (2 * angle - 1), S / 2, S / 2)
            if self.config.recolor:
                matrix = random_color_matrix(self.config.recolor, rng).ravel().tolist()
                paint = skia.Paint(ColorFilter=skia.ColorFilters.Matrix(matrix))
        height, width = image.shape[:2]
        canvas.scale(S / width, S / height)
        # Skia draws twice as fast with mipmaps as without, also where they do not serve.
        sampling = skia.SamplingOptions(skia.FilterMode.kLinear, skia.MipmapMode.kLinear)
        canvas.drawImage(skia_image(image), 0, 0, sampling, paint)
        return without_alpha(out)


def without_alpha(image: np.ndarray) -> np.ndarray:
    """Copy the colours of pixels, (H, W, 4), to (H, W, 3)."""
    out = np.empty((*image.shape[:2], 3), image.dtype)
    for channel in range(3):  # a copy of image[..., :3] at once takes five times as long
        out[..., channel] = image[..., channel]
    return out


def color_gradients(
    count: int, size: int, background: int, strength: float, rng: np.random.Generator
) -> np.ndarray:
    """(count, size, size, 4) uint8 opaque RGBA, each from one random colour, top left, to another.

    `strength` 0 leaves the grey `background`, 1 takes any colours.
    """
    ramp = np.add.outer(np.arange(size), np.arange(size))[..., None] / max(1, 2 * size - 2)
    start, end = background + strength * (rng.uniform(0, 255, (2, count, 1, 1, 3)) - background)
    out = np.full((count, size, size, 4), 255, np.uint8)
    out[..., :3] = start + (end - start) * ramp
    return out


def random_color_matrix(strength: float, rng: np.random.Generator) -> np.ndarray:
    """(4, 5) matrix from RGBA and 1 to RGBA, all from 0 to 1; mid-grey moves by at most a fifth."""
    amount = strength * rng.random()
    mixture = (1 - amount) * np.eye(3) + amount * rng.uniform(-0.5, 1, (3, 3))
    out = np.zeros((4, 5))
    out[:3, :3] = mixture
    out[:3, 4] = 0.5 + 0.2 * amount * rng.uniform(-1, 1, 3) - 0.5 * mixture.sum(1)
    out[3, 3] = 1
    return out


def skia_image(image: np.ndarray) -> object:
    """Skia's image of pixels (H, W, 3), or (H, W, 4) with premultiplied alpha."""
    skia = import_skia()
    if image.shape[2] == 3:
        image = np.concatenate([image, np.full_like(image[..., :1], 255)], axis=2)
    return skia.Image.fromarray(
        np.ascontiguousarray(image), skia.kRGBA_8888_ColorType, skia.kPremul_AlphaType
    )
