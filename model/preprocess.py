"""Preprocessing of images of any kind, as for the published models."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from clippo.renderer.resize import resize

__all__ = ["Resize", "check_range", "preprocess_image", "resized", "rgb_pixels"]

Resize = Literal["bilinear", "bicubic"]

WIDE_MODES = ("I", "F")  # beginnings of Pillow's names for more than 8 bits a channel


def preprocess_image(image: Any, size: int, how: Resize = "bilinear", background: int = 255) -> np.ndarray:
    """Resize an image to a square, without keeping its aspect ratio.

    Args:
        image: as of `rgb_pixels`.
        size: S, px.
        how: "bilinear" as for the published models, or "bicubic"; see `resized`.
        background: as of `rgb_pixels`.

    Returns:
        (S, S, 3) uint8.

    Raises:
        TypeError, ValueError: see `rgb_pixels`.
    """
    return resized_untraced(rgb_pixels(image, background), size, how)


def resized(pixels: np.ndarray, size: int | tuple[int, int], how: Resize) -> np.ndarray:
    """Resize pixels, without keeping their aspect ratio.

    Args:
        pixels: (H, W, C) uint8.
        size: height and width, px, or the side of a square.
        how: "bilinear", without antialiasing and truncated, as the published models were trained with (see
            `clippo.renderer.resize`); or "bicubic" with antialiasing, which is Pillow's within one grey level
            and takes half of its time.

    Returns:
        (height, width, C) uint8.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if how == "bilinear":
        return resize(pixels, height, width)
    if pixels.shape[:2] == (height, width):
        return pixels
    pixels = np.require(pixels, requirements=["C", "W"])  # copies what PyTorch would warn of
    source = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # in channels_last
    out = F.interpolate(source, (height, width), mode="bicubic", antialias=True)
    return out[0].permute(1, 2, 0).contiguous().numpy()


def resized_untraced(pixels: np.ndarray, size: int | tuple[int, int], how: Resize) -> np.ndarray:
    """Resize pixels outside of torch.compile, which would trace NumPy, of which it knows a part.

    Marking the function when the module is imported would import the compiler, which takes as long as
    importing all the rest of PyTorch.
    """
    resize_here = torch.compiler.disable(resized) if torch.compiler.is_compiling() else resized
    return resize_here(pixels, size, how)


def rgb_pixels(image: Any, background: int = 255) -> np.ndarray:
    """Convert one image to (H, W, 3) uint8.

    The EXIF orientation of a PIL image is applied. Images with an alpha channel, and arrays with four
    channels, are composited on the background.

    Args:
        image: a PIL image; or an array or a tensor (H, W), (H, W, C) or (C, H, W) with C of 1, 3 or 4, uint8,
            or floating in [-1, 1]. Where the first and the last axis could both be the channels, the last is.
        background: grey level, 0 to 255.

    Raises:
        TypeError: not an image, or pixels of more than 8 bits, whose white level is unknown.
        ValueError: another shape, no pixels, or floating pixels that are not in [-1, 1].
    """
    if isinstance(image, Image.Image):
        if image.mode.startswith(WIDE_MODES):
            raise TypeError(f"image must have 8 bits a channel, but is in Pillow's mode {image.mode!r}")
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
        elif image.mode != "RGB":
            image = image.convert("RGB")
        image = np.asarray(image)
    if isinstance(image, Tensor):
        image = image.detach().cpu().float().numpy() if image.is_floating_point() else image.cpu().numpy()
    if not isinstance(image, np.ndarray):
        raise TypeError(f"image must be a PIL image, an array or a tensor, not {type(image).__name__}")
    if np.issubdtype(image.dtype, np.floating):
        check_range(image)
        image = ((np.clip(image, -1, 1) + 1) * 127.5).round().astype(np.uint8)
    if image.dtype != np.uint8:
        raise TypeError(f"image must be uint8, or floating in [-1, 1], not {image.dtype}")
    shape = image.shape
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim == 3 and image.shape[2] not in (1, 3, 4):
        image = np.moveaxis(image, 0, 2)
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(f"image must be (H, W), (H, W, C) or (C, H, W) with C of 1, 3 or 4, not {shape}")
    if image.shape[2] == 4:
        image = np.asarray(on_grey(Image.fromarray(np.ascontiguousarray(image), "RGBA"), background))
    return np.broadcast_to(image, (*image.shape[:2], 3))


def check_range(pixels: Any) -> None:
    """Check that floating pixels, array or tensor, are in [-1, 1]; warn if they seem to be in [0, 1].

    Resampling may overshoot the range a little, so that 1 % of its width is allowed on either side.

    Raises:
        ValueError: they are not, or some are not numbers.
    """
    if 0 in pixels.shape:
        return
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -1.02 and high <= 1.02):  # also where they are NaN
        raise ValueError(f"floating pixels must be in [-1, 1], got {low:.4g} to {high:.4g}")
    if low >= 0 and high > low:
        warnings.warn(
            "floating pixels are read as in [-1, 1], and these are all positive: if they are in [0, 1], as "
            "torchvision's ToTensor makes them, pass 2 * x - 1 or uint8",
            stacklevel=3,
        )


def on_grey(image: Image.Image, background: int) -> Image.Image:
    plain = Image.new("RGBA", image.size, (background, background, background, 255))
    return Image.alpha_composite(plain, image).convert("RGB")
