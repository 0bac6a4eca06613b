"""The glyph table of a patch-aligned renderer as one file, from which layout.js draws the same patches.

Everything that depends on a version of Unicode or on the font is worked out here, so that a browser needs no
Unicode data of its own: the kind of each character, its lower case, its width, and the pixels of marks over
half-width and full-width characters.

The file is compressed by gzip. In it are, all integers little-endian uint32:

- size of the images in px, grey levels of background and ink, largest number of code points of a string,
  number of ranges;
- the first code point of each range, ascending from 0;
- the value of each range: kind (3 bits, as in clippo.renderer.aligned), width in cells (2 bits) and the first
  cell of the range's first character (the other bits). The next character of the range has the cells after
  those: as many as its width, or three for a mark. Cell 0 is blank, and shared by all characters of a range;
- the cells, 8 x 16 px, a byte a row with the left pixel in its highest bit. A full-width character has two; a
  mark has one to draw over a half-width character, and two to draw over a full-width one.
"""

from __future__ import annotations

import gzip

import numpy as np

from clippo.renderer import AlignedRenderer
from clippo.renderer.aligned import MARK, OTHER, CellTable, over
from clippo.renderer.code_points import CODE_POINTS
from clippo.renderer.glyphs import CELL_PX

__all__ = ["glyph_table"]

HALF_PX = CELL_PX // 2
CELLS_OF_MARK = 3


def glyph_table(renderer: AlignedRenderer) -> bytes:
    """Make the file for a renderer; every code point is looked at, which takes a few seconds.

    Raises:
        ValueError: the renderer does not set words into patches of 16 px, or its ink cannot be seen.
    """
    if renderer.patch_size != CELL_PX or renderer.align != "word":
        raise ValueError(
            f"the page draws text with align='word' and patch_size={CELL_PX}, and the renderer of the model "
            f"has align={renderer.align!r} and patch_size={renderer.patch_size}"
        )
    if renderer.ink == renderer.background:
        raise ValueError(f"the ink of the renderer must not be its background, {renderer.background}")
    table = CellTable(renderer)
    kind_G, width_G, drawn_G, shift_G = table.classify(np.arange(CODE_POINTS))

    is_mark_G = kind_G == MARK
    has_cells_G = ((kind_G <= OTHER) | is_mark_G) & table.font.has_glyph(drawn_G)
    count_G = np.where(has_cells_G, np.where(is_mark_G, CELLS_OF_MARK, width_G), 0)
    # Upper-case letters share the cells of the lower case.
    drawn_U, member_U, glyph_G = np.unique(
        np.where(has_cells_G, drawn_G, -1), return_index=True, return_inverse=True
    )
    bitmap_UYX = table.font.bitmaps(np.maximum(drawn_U, 0))
    cell_UCYX = np.zeros((len(drawn_U), CELLS_OF_MARK, CELL_PX, HALF_PX), np.uint8)
    cell_UCYX[:, :2] = halves(bitmap_UYX)
    for mark in np.flatnonzero(is_mark_G[member_U] & has_cells_G[member_U]).tolist():
        half, full = (
            over(bitmap_UYX[mark], int(shift_G[member_U[mark]]), width) for width in (HALF_PX, CELL_PX)
        )
        cell_UCYX[mark] = np.stack([halves(half)[0], *halves(full)])
    count_U = count_G[member_U]
    cell_KYX = cell_UCYX[np.arange(CELLS_OF_MARK) < count_U[:, None]]
    first_G = np.where(has_cells_G, (1 + np.cumsum(count_U) - count_U)[glyph_G], 0)

    value_G = first_G << 5 | width_G << 3 | kind_G
    step_G = count_G << 5
    begins_G = np.ones(CODE_POINTS, bool)
    begins_G[1:] = value_G[1:] != value_G[:-1] + step_G[:-1]
    starts = np.flatnonzero(begins_G)
    header = [renderer.size, renderer.background, renderer.ink, renderer.max_chars, len(starts)]
    numbers = np.concatenate([header, starts, value_G[starts]]).astype("<u4")
    rows = np.packbits(cell_KYX, axis=2)
    return gzip.compress(numbers.tobytes() + bytes(CELL_PX) + rows.tobytes(), 9, mtime=0)


def halves(bitmap: np.ndarray) -> np.ndarray:
    """Split bitmaps (..., 16, 16) into their left and right cells, (..., 2, 16, 8)."""
    return bitmap.reshape(*bitmap.shape[:-1], 2, HALF_PX).swapaxes(-3, -2)
