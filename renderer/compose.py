"""Text inside photographs, for question answering, and pairs of sentences on one canvas."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np

from clippo.renderer.base import Renderer, checked_texts
from clippo.renderer.resize import resize

__all__ = ["compose", "sentence_pairs"]

Position = Literal["top", "middle", "bottom"]

SEPARATOR = "[SEP]"


def compose(
    images: Sequence[np.ndarray],
    questions: Sequence[str],
    renderer: Renderer,
    position: Position = "top",
    *,
    resize: Callable[[np.ndarray, int, int], np.ndarray] = resize,
) -> np.ndarray:
    """Write a question into a copy of each photograph, so that one image holds both.

    The text takes as many lines as it needs, up to half of the image; the photograph is resized into the rows
    that are left, without keeping its aspect ratio, as the published preprocessing does. So an
    empty question gives the pixels of the preprocessed photograph. In the middle, the text stands between the
    upper and the lower half of the photograph.

    Args:
        images: B photographs (H, W, 3) or (H, W) uint8, of any sizes.
        questions: B strings.
        renderer: draws the text; its size is the result's. Text of more than half the image is cut, unless
            the renderer adapts to the height, as ParagraphRenderer does; see `Renderer.with_height`.
        position: where the text goes.
        resize: resizes a photograph (H, W, C) to rows and columns, as the model's preprocessing does; by
            default that of the published models.

    Returns:
        (B, height, width, 3) uint8.

    Raises:
        TypeError, ValueError: arguments of the wrong type, shape or number; the renderer's image holds only
            one line.
        TextOverflowError: a question is too long, for a renderer with overflow="error".
    """
    questions = checked_texts(questions)
    if position not in get_args(Position):
        raise ValueError(f"position must be one of {', '.join(get_args(Position))}, not {position!r}")
    if len(images) != len(questions):
        raise ValueError(f"questions must be as many as images, {len(images)}, got {len(questions)}")
    for i, image in enumerate(images):
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
            raise TypeError(f"images[{i}] must be a numpy array of uint8, not {type(image).__name__}")
        if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)) or 0 in image.shape:
            raise ValueError(f"images[{i}] must be of shape (H, W, 3) or (H, W), not {image.shape}")
    height, width = renderer.image_shape
    line_height = renderer.row_height
    text_rows = height // line_height // 2 * line_height
    if text_rows == 0:
        raise ValueError(f"renderer must have room for two lines of {line_height} px, it has {height} px")

    text_images, report = renderer.with_height(text_rows).render(questions, patch_size=1)
    text_images = text_images[:, :text_rows]
    out = np.empty((len(images), height, width, 3), np.uint8)
    for image, text, lines_height, canvas in zip(images, text_images, report.height, out, strict=True):
        text_height = min(-(-int(lines_height) // line_height) * line_height, text_rows)
        rest = height - text_height
        above = {"top": 0, "bottom": rest, "middle": rest // 2 // line_height * line_height}[position]
        picture = resize(image if image.ndim == 3 else image[:, :, None], rest, width)
        canvas[:above] = picture[:above]  # grey becomes three equal channels
        canvas[above : above + text_height] = text[:text_height, :, None]
        canvas[above + text_height :] = picture[above:]
    return out


def sentence_pairs(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """Strings that hold two sentences each, with a literal "[SEP]" between them, as CLIPPO's GLUE runs do.

    Raises:
        TypeError, ValueError: not two sequences of as many strings.
    """
    first, second = checked_texts(first), checked_texts(second)
    if len(first) != len(second):
        raise ValueError(f"second must be as many as first, {len(first)}, got {len(second)}")
    return [f"{a} {SEPARATOR} {b}" for a, b in zip(first, second, strict=True)]
