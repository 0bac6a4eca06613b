"""Picture files for people: sheets of rendered strings, or a file each."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from clippo.errors import UserError

__all__ = ["check_picture_path", "draw_pairs", "draw_text_sheet", "save_each", "save_picture"]

GAP_PX = 8
SHEET_ASPECT = 4 / 3
ZOOM = 3  # of pictures with a grid


def draw_text_sheet(columns: Sequence[np.ndarray], background: int, grid: int | None = None) -> Image.Image:
    """Draw one picture of N strings, each drawn by one or more renderers, side by side.

    Args:
        columns: for each renderer, (N, height, width) uint8, all of one shape.
        background: grey level of blank paper. The rows below the longest text are left out.
        grid: draw all pixels three times as large, and lines around the patches of this side in px.

    Returns:
        A white sheet of about 4:3, which is read column by column.
    """
    rows_NYX = np.concatenate(columns, axis=2)  # the renderings of a string are neighbours
    inked = np.flatnonzero((rows_NYX != background).any(axis=(0, 2)))
    row_px = grid or 16
    height = min(rows_NYX.shape[1], -(-(int(inked[-1]) + 1) // row_px) * row_px) if len(inked) else row_px
    rows_NYX = rows_NYX[:, :height]
    if grid is not None:
        rows_NYX = with_grid(rows_NYX, grid)
        height *= ZOOM
    N, _, width = rows_NYX.shape
    high, wide = height + GAP_PX, width + 3 * GAP_PX
    per_column = max(1, min(N, round(math.sqrt(N * wide / high / SHEET_ASPECT))))
    sheet = Image.new("L", (-(-N // per_column) * wide - GAP_PX, per_column * high + GAP_PX), 255)
    for i, row_YX in enumerate(rows_NYX):
        column, row = divmod(i, per_column)
        for j, part in enumerate(np.split(row_YX, len(columns), axis=1)):
            x = GAP_PX + column * wide + j * (part.shape[1] + GAP_PX // 2)
            sheet.paste(Image.fromarray(np.ascontiguousarray(part)), (x, GAP_PX + row * high))
    return sheet


def with_grid(images_NYX: np.ndarray, grid: int) -> np.ndarray:
    """Enlarge images, and lighten the first row and column of pixels of each patch."""
    out = images_NYX.repeat(ZOOM, axis=1).repeat(ZOOM, axis=2)
    for lines in (out[:, :: ZOOM * grid], out[:, :, :: ZOOM * grid]):
        lines[:] = 255 - (255 - lines) // 2
    return out


def draw_pairs(images: Sequence[np.ndarray], texts: Sequence[np.ndarray], columns: int = 4) -> Image.Image:
    """Draw pictures, (S, S, 3) uint8, each beside its text as it is rendered, (S, S) uint8."""
    S = len(images[0])
    wide, high = 2 * S + 3 * GAP_PX, S + GAP_PX
    sheet = Image.new(
        "RGB", (min(columns, len(images)) * wide, -(-len(images) // columns) * high + GAP_PX), "white"
    )
    for number, pair in enumerate(zip(images, texts, strict=True)):
        row, column = divmod(number, columns)
        for side, pixels in enumerate(pair):
            at = (GAP_PX + column * wide + side * (S + GAP_PX // 2), GAP_PX + row * high)
            sheet.paste(Image.fromarray(np.ascontiguousarray(pixels)), at)
    return sheet


def save_each(images: np.ndarray, folder: Path) -> None:
    """Write (N, height, width) images as 0001.png and so on into a folder, which is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    digits = max(4, len(str(len(images))))
    for number, image in enumerate(images, start=1):
        Image.fromarray(image).save(folder / f"{number:0{digits}}.png")


def check_picture_path(path: Path) -> None:
    """Check that a picture can be written to a path, before the work of drawing it.

    Raises:
        UserError: as of `save_picture`.
    """
    reason = ""
    if path.suffix.lower() not in Image.registered_extensions():
        reason = f"unknown file extension: {path.suffix!r}"
    elif path.is_dir():
        reason = "it is a folder"
    elif not path.absolute().parent.is_dir():
        reason = f"there is no folder {path.parent}"
    elif not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        reason = "permission denied"
    if reason:
        raise UserError(f"cannot write the picture {path}: {reason}")


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture file; its ending names the format.

    Raises:
        UserError: the file cannot be written, or its ending is unknown.
    """
    try:
        picture.save(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write the picture {path}: {error}") from error
