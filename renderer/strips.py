"""Strips: one row of patches with black patches as separators, for language models of pixels.

This is the input of PIXEL (Rust et al., arXiv 2207.06991) and its successors: text, a black patch and, for
pairs, the second text and another black patch. A model attends to as many patches as that takes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clippo.renderer.base import Renderer, checked_texts
from clippo.renderer.report import inked_patches

__all__ = ["Strips", "render_strips"]

STRIPS_PER_BLOCK = 64


class Strips(NamedTuple):
    """B strips of N patches of P x P px.

    Attributes:
        pixels: (B, P, N * P) uint8 grey levels.
        lengths: (B,) int32, the patches to attend to: all up to the last separator.
        is_cut: (B,) bool, the strips that do not hold all of their text.
    """

    pixels: np.ndarray
    lengths: np.ndarray
    is_cut: np.ndarray

    @property
    def attention_mask(self) -> np.ndarray:
        """(B, N) bool, the patches to attend to."""
        num_patches = self.pixels.shape[2] // max(1, self.pixels.shape[1])
        mask: np.ndarray = np.arange(num_patches) < self.lengths[:, None]
        return mask


def render_strips(renderer: Renderer, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Strips:
    """Draw texts, or pairs of texts, as rows of patches with separators.

    The renderer decides on the layout and on the number of patches. Its images are cut into lines of text,
    which are joined into one:

    - `ParagraphRenderer((16, 8464), background=255)` sets text as PIXEL does, in 529 patches of 16 px, in
      any fonts and directions.
    - `AlignedRenderer(368, background=255)` starts each word at a patch, in 23 x 23 = 529 patches.

    Each text begins at a patch. Blank patches before and after a text are left out. Of a pair that does not
    fit, the longer text is cut until it does.

    Args:
        renderer: draws the texts; a patch is as high as one of its lines.
        texts: B strings.
        pairs: the second string of each, by default none.

    Raises:
        TypeError, ValueError: not sequences of as many strings; the renderer's lines do not divide its
            images, or there are fewer than two patches, or four for pairs.
    """
    texts = checked_texts(texts)
    sides = [texts] if pairs is None else [texts, checked_texts(pairs)]
    if len(sides[-1]) != len(texts):
        raise ValueError(f"pairs must be as many as texts, {len(texts)}, got {len(sides[-1])}")
    (height, width), P = renderer.image_shape, renderer.row_height
    if height % P or width % P:
        raise ValueError(f"the renderer's lines of {P} px must divide its images of {height} x {width} px")
    num_patches = height // P * (width // P)
    if num_patches < 2 * len(sides):
        raise ValueError(f"the renderer's images must have {2 * len(sides)} patches, they have {num_patches}")
    pixels = np.full((len(texts), num_patches, P, P), renderer.background, np.uint8)
    lengths = np.zeros(len(texts), np.int32)
    is_cut = np.zeros(len(texts), bool)
    room = num_patches - len(sides)  # for text
    for start in range(0, len(texts), STRIPS_PER_BLOCK):
        block = slice(start, start + STRIPS_PER_BLOCK)
        drawn = [lines(renderer, list(side[block])) for side in sides]
        for i, out in enumerate(pixels[block], start):
            parts = [of_side[i - start] for of_side in drawn]
            counts = shared([len(part) for part, _ in parts], room)
            end = 0
            for (part, is_cut_already), count in zip(parts, counts, strict=True):
                out[end : end + count] = part[:count]
                out[end + count] = renderer.ink
                end += count + 1
                is_cut[i] |= is_cut_already or count < len(part)
            lengths[i] = end
    joined = pixels.swapaxes(1, 2).reshape(len(texts), P, num_patches * P)
    return Strips(joined, lengths, is_cut)


def lines(renderer: Renderer, texts: list[str]) -> list[tuple[np.ndarray, bool]]:
    """The patches (N, P, P) of each text without the blank ones around it, and whether it is cut."""
    P = renderer.row_height
    images, report = renderer.render(texts, patch_size=P)
    B, height, width = images.shape
    patches = images.reshape(B, height // P, P, width // P, P).swapaxes(2, 3).reshape(B, -1, P, P)
    found = []
    for is_inked, patch, unfit in zip(
        inked_patches(images, P, renderer.background).reshape(B, -1), patches, report.unfit, strict=True
    ):
        inked = np.flatnonzero(is_inked)
        kept = slice(inked[0], inked[-1] + 1) if len(inked) else slice(0)
        found.append((patch[kept], bool(unfit)))
    return found


def shared(lengths: list[int], room: int) -> list[int]:
    """Shorten one or two lengths to a sum of at most `room`, the longer one first."""
    if sum(lengths) <= room:
        return lengths
    if len(lengths) == 1:
        return [room]
    first = min(lengths[0], max(room - lengths[1], (room + 1) // 2))
    return [first, min(lengths[1], room - first)]
