"""Sheets of images: queries as the model reads them, and what it found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from clippo.data.base import Example
from clippo.data.decode import pixels_of
from clippo.data.transform import Transform
from clippo.model import Clippo, RenderedText
from clippo.renderer import UnifontRenderer

__all__ = ["Finding", "draw_sheet"]

CELL_PX = 96
GAP_PX = 8
RIGHT, WRONG = (46, 160, 67), (208, 215, 222)  # frames around the wanted image, and around all others


@dataclass(frozen=True)
class Finding:
    """A query and the indices of the examples found for it, best first.

    `wanted` is the example that the query names, if that is known. `picture` is drawn in the place of the
    text, (S, S, 3) uint8.
    """

    text: str
    found: Sequence[int]
    wanted: int | None = None
    picture: np.ndarray | None = None


def draw_sheet(
    model: Clippo, examples: Sequence[Example], transform: Transform, findings: Sequence[Finding]
) -> Image.Image:
    """Draw a row for each finding: the query as rendered, then the images that were found.

    The wanted image has a green frame. Of a pair of texts, the first is drawn in the place of the image.
    """
    columns = 1 + max(len(finding.found) for finding in findings)
    pitch = CELL_PX + GAP_PX
    sheet = Image.new("RGB", (columns * pitch + 2 * GAP_PX, len(findings) * pitch + GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    reads_pixels = isinstance(model.text_input, RenderedText)
    render = model.renderer if reads_pixels else UnifontRenderer(model.config.image_size)
    queries = render([finding.text for finding in findings])
    for row, finding in enumerate(findings):
        y = GAP_PX + row * pitch
        query = queries[row] if finding.picture is None else finding.picture
        sheet.paste(cell(query), (GAP_PX, y))
        for column, index in enumerate(finding.found, start=1):
            x = 2 * GAP_PX + column * pitch
            example = examples[index]
            is_text = example.image is None
            pixels = render([example.texts[0].text])[0] if is_text else transform(pixels_of(example))
            sheet.paste(cell(pixels), (x, y))
            color = RIGHT if index == finding.wanted else WRONG
            draw.rectangle((x - 3, y - 3, x + CELL_PX + 2, y + CELL_PX + 2), outline=color, width=3)
    return sheet


def cell(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)
