"""GNU Unifont's 16x16 bitmaps: from the table that comes with this package, or drawn by Skia."""

import io
import json
import lzma
import os
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from clippo.renderer.base import hashes
from clippo.renderer.fonts import find_font
from clippo.renderer.skia_loader import import_skia

__all__ = [
    "CELL_PX",
    "Glyphs",
    "UnifontFiles",
    "UnifontTable",
    "coverage",
    "shades",
    "unifont_glyphs",
    "unifont_table",
]

CELL_PX = 16  # Unifont's design size: one font pixel is one image pixel, and nothing is antialiased
HALF_CELL_PX = CELL_PX // 2  # the width of most glyphs
BASELINE_PX = 14  # from the top of the cell
END_OF_PLANE_0 = 0x10000
GLYPHS_PER_CANVAS = 1024  # Skia's rasteriser is limited to canvases below 32,768 px


class Glyphs(Protocol):
    """The bitmaps of a font, as the .hex sources of Unifont define them, and where they are set.

    An 8x16 glyph fills the left half of its cell.

    Attributes:
        fonts: names and SHA-256 of the font files.
    """

    fonts: list[dict[str, str]]

    def has_glyph(self, code_points: np.ndarray) -> np.ndarray:
        """(G,) bool, True for the code points (G,) that the font has a glyph for."""

    def bitmaps(self, code_points: np.ndarray) -> np.ndarray:
        """Bitmaps of code points, (G,) integers -> (G, 16, 16) uint8, 1 = ink; unknown ones are blank."""

    def placement(self, code_points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Say where the bitmaps of code points (G,) are set.

        Returns:
            (G,) advances in px: 8, 16, or 0 for a combining mark; 8 for what the font lacks.
            (G,) px from the left edge of a mark's bitmap to the end of the character that it is set over; 0
            for the marks of scripts that are written from right to left, whose left edges coincide.
        """


def unifont_glyphs(folder: str | os.PathLike[str] | None = None) -> Glyphs:
    """The glyphs of the Unifont that comes with this package, or of the font files in a folder.

    Raises:
        NotADirectoryError, FontNotFoundError, OSError, SystemLibraryError: as of `UnifontFiles`.
    """
    return TableGlyphs() if folder is None else UnifontFiles(folder)


class UnifontTable(NamedTuple):
    """All G glyphs of Unifont 15.0.01.

    Attributes:
        code_points: (G,) int32, ascending.
        bitmaps: (G, 32) uint8, the 16 rows of a cell, a bit a pixel and the first the highest.
        advances, shifts: (G,) uint8, px; see `Glyphs.placement`.
        fonts: names and SHA-256 of the font files that they were read from.
    """

    code_points: np.ndarray
    bitmaps: np.ndarray
    advances: np.ndarray
    shifts: np.ndarray
    fonts: list[dict[str, str]]


@cache
def unifont_table() -> UnifontTable:
    """Read the table of this package, which scripts/make_unifont_table.py makes."""
    with lzma.open(files("clippo.renderer").joinpath("unifont.npz.xz").open("rb")) as file:
        arrays = np.load(io.BytesIO(file.read()), allow_pickle=False)
    return UnifontTable(
        arrays["code_points"], arrays["bitmaps"], arrays["advances"], arrays["shifts"],
        json.loads(str(arrays["fonts"])),
    )  # fmt: skip


class TableGlyphs:
    """The glyphs of the table of this package; no font file is needed."""

    def __init__(self) -> None:
        self.table = unifont_table()
        self.fonts = self.table.fonts

    def has_glyph(self, code_points: np.ndarray) -> np.ndarray:
        return self._find(code_points)[1]

    def bitmaps(self, code_points: np.ndarray) -> np.ndarray:
        place_G, is_known_G = self._find(code_points)
        bits = np.unpackbits(self.table.bitmaps[place_G] * is_known_G[:, None], axis=1)
        return bits.reshape(-1, CELL_PX, CELL_PX)

    def placement(self, code_points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place_G, is_known_G = self._find(code_points)
        advance_G = np.where(is_known_G, self.table.advances[place_G], HALF_CELL_PX).astype(np.intp)
        return advance_G, np.where(is_known_G, self.table.shifts[place_G], 0).astype(np.intp)

    def _find(self, code_points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The places of code points in the table, and which of them are in it."""
        known = self.table.code_points
        place_G = np.minimum(np.searchsorted(known, code_points), len(known) - 1)
        return place_G, known[place_G] == code_points


class UnifontFiles:
    """The glyphs of Unifont's font files, drawn by Skia.

    The OpenType files hold the same pixels, with one difference: combining marks have no advance and are
    shifted left, over the preceding character. Those of plane 0 are read from unifont.hex instead. Debian has
    no .hex of the higher planes; there the shift is undone, by half a cell or a whole one, the least that
    brings all ink back into the cell. (For 96 % of the marks of plane 0 this rule would give the same trimmed
    bitmap as the .hex.)

    Args:
        folder: where unifont.otf, unifont_upper.otf and unifont.hex lie; searched for as by `find_font` by
            default.

    Raises:
        NotADirectoryError: `folder` is not a folder.
        FontNotFoundError: one of the three files is missing.
        OSError: one of them is no font.
        SystemLibraryError: Skia cannot be imported.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None):
        if folder is not None and not Path(folder).expanduser().is_dir():
            raise NotADirectoryError(f"font_path must be a folder with Unifont's three files, not {folder}")
        self._skia = import_skia()
        plane_0 = find_font("unifont.otf", package="fonts-unifont", path=folder)
        higher_planes = find_font("unifont_upper.otf", package="fonts-unifont", path=folder)
        self._plane_0, self._higher_planes = self._load(plane_0), self._load(higher_planes)
        # The file is found now and read at the first mark, so that a missing file cannot stop a run half-way.
        self._hex_path = find_font("unifont.hex", package="unifont", path=folder)
        self.fonts = hashes((plane_0, higher_planes, self._hex_path))

    def bitmaps(self, code_points: np.ndarray) -> np.ndarray:
        cells_GYX = np.zeros((len(code_points), CELL_PX, CELL_PX), np.uint8)
        is_plane_0_G = code_points < END_OF_PLANE_0
        for font, is_member_G in ((self._plane_0, is_plane_0_G), (self._higher_planes, ~is_plane_0_G)):
            members = np.flatnonzero(is_member_G)
            for start in range(0, len(members), GLYPHS_PER_CANVAS):
                block = members[start : start + GLYPHS_PER_CANVAS]
                cells_GYX[block], marks = self._draw(font, code_points[block])
                for mark in block[marks] if font is self._plane_0 else ():
                    bitmap = self._hex_bitmap(int(code_points[mark]))
                    if bitmap is not None:
                        cells_GYX[mark] = bitmap
        return cells_GYX

    def has_glyph(self, code_points: np.ndarray) -> np.ndarray:
        distinct, inverse = np.unique(code_points, return_inverse=True)
        fonts = (self._plane_0, self._higher_planes)
        in_0, above = (np.array(font.getTypeface().unicharsToGlyphs(distinct.tolist())) for font in fonts)
        out: np.ndarray = (np.where(distinct < END_OF_PLANE_0, in_0, above) != 0)[inverse]
        return out

    def placement(self, code_points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        advance_G = np.full(len(code_points), HALF_CELL_PX, np.intp)
        shift_G = np.zeros(len(code_points), np.intp)
        is_plane_0_G = code_points < END_OF_PLANE_0
        for font, is_member_G in ((self._plane_0, is_plane_0_G), (self._higher_planes, ~is_plane_0_G)):
            members = np.flatnonzero(is_member_G)
            glyph_ids = np.array(font.getTypeface().unicharsToGlyphs(code_points[members].tolist()), np.intp)
            members, glyph_ids = members[glyph_ids != 0], glyph_ids[glyph_ids != 0].tolist()
            advance_G[members] = font.getWidths(glyph_ids)
            bitmaps = self.bitmaps(code_points[members])
            for member, bounds, bitmap in zip(members, font.getBounds(glyph_ids), bitmaps, strict=True):
                if advance_G[member] == 0:
                    shift_G[member] = bitmap.any(0).argmax() - round(bounds.left())
        return advance_G, shift_G

    def _load(self, path: Path) -> Any:
        # The default font manager would read the whole font configuration of the system first.
        typeface = self._skia.FontMgr.New_Custom_Empty().makeFromFile(str(path))
        if typeface is None:
            raise OSError(f"{path} is not a font that Skia can read")
        font = self._skia.Font(typeface, CELL_PX)
        font.setEdging(self._skia.Font.Edging.kAlias)
        return font

    def _draw(self, font: Any, code_points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draw G glyphs: (G, 16, 16) uint8 bitmaps, and the indices of those that are combining marks."""
        skia = self._skia
        cells_GYX = np.zeros((len(code_points), CELL_PX, CELL_PX), np.uint8)
        glyph_ids_G = np.array(font.getTypeface().unicharsToGlyphs(code_points.tolist()), np.intp)
        known = np.flatnonzero(glyph_ids_G)
        if len(known) == 0:
            return cells_GYX, known
        glyph_ids = glyph_ids_G[known].tolist()
        is_mark = np.array(font.getWidths(glyph_ids)) == 0
        overhang = np.array([max(0.0, -bounds.left()) for bounds in font.getBounds(glyph_ids)])

        # The cells are stacked in one tall canvas. No ink reaches another cell, because no glyph of the font
        # extends above or below its own.
        x = np.where(is_mark, np.ceil(overhang / HALF_CELL_PX) * HALF_CELL_PX, 0)
        y = known * CELL_PX + BASELINE_PX
        builder = skia.TextBlobBuilder()
        builder.allocRunPos(
            font, glyph_ids, [skia.Point(*xy) for xy in zip(x.tolist(), y.tolist(), strict=True)]
        )
        # The canvas draws into the array, but does not keep it alive.
        canvas = skia.Canvas(cells_GYX.reshape(-1, CELL_PX), skia.kGray_8_ColorType, skia.kOpaque_AlphaType)
        canvas.drawTextBlob(builder.make(), 0, 0, skia.Paint(Color=skia.ColorWHITE))
        return cells_GYX & 1, known[is_mark]  # white, 255, becomes 1

    @cached_property
    def _hex_lines(self) -> bytes:
        return b"\n" + self._hex_path.read_bytes()

    def _hex_bitmap(self, code_point: int) -> np.ndarray | None:
        """(16, 16) uint8 from unifont.hex, or None where it has no such line."""
        # A line is "0301:" and 32 or 64 digits. A search takes about a millisecond, once for each mark, and
        # avoids a dictionary of 57,000 glyphs.
        key = b"\n%04X:" % code_point
        start = self._hex_lines.find(key)
        if start < 0:
            return None
        start += len(key)
        digits = self._hex_lines[start : start + 4 * CELL_PX].split()[0]
        rows = np.frombuffer(bytes.fromhex(digits.decode()), np.uint8).reshape(CELL_PX, -1)
        return np.unpackbits(rows, axis=1, count=CELL_PX)


def coverage(bitmap_GYX: np.ndarray, font_size: int) -> np.ndarray:
    """Resample bitmaps (G, 16, 16) by area: (G, font_size, font_size) int32, 0 to 256 for full ink."""
    # Exact integers: the overlap of output pixel i with input pixel j, both scaled to whole numbers. A row
    # sums to 16, so full ink is 16**2.
    i, j = np.ogrid[:font_size, :CELL_PX]
    overlap = np.minimum(CELL_PX * (i + 1), font_size * (j + 1)) - np.maximum(CELL_PX * i, font_size * j)
    overlap = np.maximum(overlap, 0).astype(np.float32)
    out: np.ndarray[Any, Any] = (overlap @ bitmap_GYX.astype(np.float32) @ overlap.T).astype(np.int32)
    return out


def shades(background: int, ink: int) -> np.ndarray:
    """(257,) uint8, the grey levels of each coverage."""
    full = CELL_PX**2
    part = np.arange(full + 1)
    return ((background * (full - part) + ink * part) // full).astype(np.uint8)
