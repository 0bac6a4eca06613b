"""Charts of evaluators as pictures, drawn by matplotlib without a window."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DPI", "new_figure", "picture_of"]

DPI = 100  # px an inch


def new_figure(width: int, height: int) -> Figure:
    """Make an empty figure of a size in px, whose parts are laid out so that they do not overlap."""
    # matplotlib is imported here, because this takes half a second.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="constrained")


def picture_of(figure: Figure) -> Image.Image:
    """Draw a figure: an RGB picture of its size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
