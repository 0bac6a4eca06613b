"""Decoding of pictures as people have them: JPEG, PNG, WebP, GIF, BMP and TIFF."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from clippo.data.base import BrokenExampleError, Example, Source

__all__ = ["MAX_BYTES", "MAX_PIXELS", "TooLargeError", "decode", "pixels_of", "read_all"]

# The extra `fast`: the same pixels sooner.
simplejpeg: Any = import_module("simplejpeg") if find_spec("simplejpeg") else None

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # Pillow reads many more, with many more faults
MAX_BYTES = 2**27  # of an encoded picture; a photograph of 100 megapixels has about 40 MB
MAX_PIXELS = 2**27  # 400 MB once it is decoded
ORIENTATION = 0x0112  # tag of EXIF


class TooLargeError(ValueError):
    """A picture that would take too much memory to decode."""


def pixels_of(example: Example, *, at_least: int = 0) -> np.ndarray:
    """The pixels of an example, (H, W, 3) uint8 or (H, W, 4) uint8 with premultiplied alpha.

    Args:
        example: its picture is an array already, or a file.
        at_least: as of `decode`.

    Raises:
        BrokenExampleError: its picture cannot be decoded, or it is a pair of texts.
    """
    if example.image is None:
        raise BrokenExampleError(example.key, "a pair of texts, which has no picture")
    if isinstance(example.image, np.ndarray):
        return example.image
    try:
        return decode(example.image, at_least=at_least)
    except ValueError as error:
        raise BrokenExampleError(example.key, str(error)) from error


def read_all(source: Source, rows: Sequence[int] | None = None) -> list[Example]:
    """All examples of a source that can be read, or of its `rows`, with one warning if some are broken."""
    found, broken = [], []
    rows = range(len(source)) if rows is None else rows
    for index in rows:
        try:
            example = source[index]
            if example.image is not None:
                pixels_of(example)
            found.append(example)
        except BrokenExampleError as error:
            broken.append(error)
    if broken:
        warnings.warn(
            f"{len(broken)} of {len(rows):,} examples cannot be read and are left out, such as {broken[0]}",
            stacklevel=2,
        )
    return found


def decode(encoded: bytes, *, at_least: int = 0) -> np.ndarray:
    """Decode a picture; of several frames the first.

    The EXIF orientation is applied, colour profiles are not. CMYK, palettes and 16 bits a channel become RGB
    of 8 bits. A picture that is cut off is refused; one that is too large, before memory is taken.

    Args:
        encoded: the content of a file.
        at_least: if set, a JPEG whose sides are at least twice as long, px, is decoded at half, a quarter or
            an eighth of its size, whichever is the smallest that is no shorter. This leaves out the high
            frequencies of its blocks of 8 x 8 px, and most of the work.

    Returns:
        (H, W, 3) uint8; (H, W, 4) with premultiplied alpha where the picture has transparent pixels.

    Raises:
        TooLargeError: its file has more than `MAX_BYTES`, or it has more than `MAX_PIXELS`.
        ValueError: it is not a whole picture of such a format; says why.
    """
    if len(encoded) > MAX_BYTES:
        raise TooLargeError(f"a file of {len(encoded):,} bytes, more than {MAX_BYTES:,}")
    if not encoded:
        raise ValueError("an empty file")
    try:
        # Opening reads the header alone. Pillow warns of damaged metadata, which nobody needs.
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(encoded), formats=FORMATS) as image,
        ):
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise TooLargeError(f"a picture of {width} x {height} px, more than {MAX_PIXELS:,} pixels")
            pixels = oriented(pixels_in(image, encoded, at_least), image.getexif().get(ORIENTATION, 1))
    except UnidentifiedImageError as error:
        raise ValueError(f"not a picture in {', '.join(FORMATS)}") from error
    except (MemoryError, TooLargeError):
        raise
    except Image.DecompressionBombError as error:  # from 179 megapixels on, before it tells the size
        raise TooLargeError(str(error)) from error
    except Exception as error:  # Pillow's plugins raise errors of many kinds
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    return premultiplied(pixels) if pixels.shape[2] == 4 else pixels


def pixels_in(image: Image.Image, encoded: bytes, at_least: int) -> np.ndarray:
    """The pixels of a picture whose header was read, (H, W, 3) or (H, W, 4) uint8."""
    factor = next((f for f in (8, 4, 2) if at_least and min(image.size) >= f * at_least), 1)
    if image.format == "JPEG" and image.mode == "RGB" and simplejpeg is not None:
        with suppress(ValueError):  # Pillow decides about what is damaged
            width, height = (-(-side // factor) for side in image.size)
            sizes = {"min_height": height, "min_width": width} if factor > 1 else {}
            pixels: np.ndarray = simplejpeg.decode_jpeg(encoded, colorspace="RGB", **sizes)
            return pixels
    if factor > 1:
        image.draft(None, (image.width // factor, image.height // factor))  # does nothing to other formats
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        return np.repeat((grey * 255 + 32767) // 65535, 3).reshape(*grey.shape, 3).astype(np.uint8)
    if image.mode in ("I", "F"):
        raise ValueError(f"a picture in Pillow's mode {image.mode}, whose white level is unknown")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return np.asarray(image if image.mode == mode else image.convert(mode))


def oriented(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as they are to be looked at: EXIF's orientation is from 1, as they are, to 8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def premultiplied(pixels: np.ndarray) -> np.ndarray:
    """RGBA with the colours multiplied by alpha; RGB where no pixel is transparent."""
    alpha = pixels[..., 3:]
    if (alpha == 255).all():
        return np.ascontiguousarray(pixels[..., :3])
    return np.asarray(Image.fromarray(pixels).convert("RGBa"))  # a third of numpy's time
