"""The text renderer of the published CLIPPO models, for whole batches at a time.

Every character is one glyph of GNU Unifont, trimmed to its ink, in logical order: no shaping, no
bidirectional reordering, no word wrap. That is what the published weights have learned to read.
"""

import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any

import numpy as np

from renderer.glyphs import CELL_PX, UnifontGlyphs
from renderer.ink import InkPool

_CODE_POINTS = 0x110000
_STRINGS_PER_BLOCK = 64  # few enough that a block's index arrays stay in the CPU's cache
_NOT_DRAWN = -1


@dataclass(frozen=True)
class UnifontRenderer:
    """Draws strings as the published CLIPPO renderer does, to the pixel if given the same GNU Unifont.

    A string is cut to `max_chars` code points and its glyphs are set flush left, in rows of `font_size` px
    from the top, with breaks wherever a row is full, also within words. What falls below the image is cut
    off. Characters that the font lacks leave a gap.

    Glyphs are drawn by Skia when they are first needed and then kept, so a renderer should be reused. It
    pickles and copies by its configuration. It must not be called from several threads at once.

    Args:
        size: height and width of the images, px.
        font_size: height of a row, px. Unifont is pixel-exact at 16; other sizes resample its bitmaps.
        max_chars: code points of a string that are kept.
        background: grey level of the paper, 0 to 255.
        ink: grey level of the text, 0 to 255.
        lower: lower-case A to Z, and only these, as the published models expect.
        monospace: give every character a whole cell instead of trimming it to its ink.
        spacing: columns kept before a glyph's first inked column and, less one, after its last, as far as its
            cell has them, px. So 0 cuts the last inked column.
        min_width: least width of a trimmed glyph, blanks included, px.
        font_path: folder with unifont.otf, unifont_upper.otf and unifont.hex; by default as in `find_font`.

    Raises:
        TypeError, ValueError: an option has the wrong type or is out of range.
        FontNotFoundError, NotADirectoryError: a font file is missing, or `font_path` is not a folder.
        SystemLibraryError: Skia cannot be imported.
    """

    size: int = 224
    _: KW_ONLY
    font_size: int = 16
    max_chars: int = 768
    background: int = 127
    ink: int = 0
    lower: bool = True
    monospace: bool = False
    spacing: int = 1
    min_width: int = 4
    font_path: str | os.PathLike[str] | None = None
    _glyphs: "_GlyphTable" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check_integer("font_size", 1)
        self._check_integer("size", 1)
        if self.size <= self.font_size:
            raise ValueError(f"size must be larger than font_size, {self.font_size} px, not {self.size} px")
        self._check_integer("max_chars", 1)
        self._check_integer("background", 0, 255)
        self._check_integer("ink", 0, 255)
        self._check_integer("spacing", 0)
        self._check_integer("min_width", 0)
        for name in ("lower", "monospace"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be a bool, not {getattr(self, name)!r}")
        object.__setattr__(self, "_glyphs", _GlyphTable(self))

    def _check_integer(self, name: str, low: int, high: int | None = None) -> None:
        value = getattr(self, name)
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise TypeError(f"{name} must be an integer, not {value!r}")
        if value < low or (high is not None and value > high):
            expected = f"at least {low}" if high is None else f"from {low} to {high}"
            raise ValueError(f"{name} must be {expected}, not {value}")
        object.__setattr__(self, name, int(value))

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}

    def __setstate__(self, configuration: dict[str, Any]) -> None:
        self.__init__(**configuration)  # type: ignore[misc]

    def __call__(self, texts: Sequence[str], out: np.ndarray | None = None) -> np.ndarray:
        """Draw a batch of strings.

        Args:
            texts: B strings. Lone surrogates are drawn as characters that the font lacks.
            out: C-contiguous uint8 array (B, size, size) to draw into, such as one that is pinned or shared.

        Returns:
            `out`, or a new uint8 array (B, size, size), C-contiguous.

        Raises:
            TypeError: `texts` is not a sequence of strings, or `out` is not a uint8 array.
            ValueError: `out` has another shape, or is not contiguous or not writable.
        """
        kept = self._truncated(texts)
        shape = (len(kept), self.size, self.size)
        if out is None:
            out = np.empty(shape, np.uint8)
        elif not isinstance(out, np.ndarray) or out.dtype != np.uint8:
            raise TypeError(
                f"out must be a numpy array of uint8, not {getattr(out, 'dtype', type(out).__name__)}"
            )
        elif out.shape != shape or not out.flags.c_contiguous or not out.flags.writeable:
            raise ValueError(
                f"out must be C-contiguous, writable and of shape {shape}, not of shape {out.shape} "
                f"with strides {out.strides}{'' if out.flags.writeable else ', read-only'}"
            )
        for start in range(0, len(kept), _STRINGS_PER_BLOCK):
            block = slice(start, start + _STRINGS_PER_BLOCK)
            self._draw(kept[block], out[block])
        return out

    def _truncated(self, texts: Sequence[str]) -> list[str]:
        if isinstance(texts, str | bytes):
            raise TypeError(f"texts must be a sequence of str, not one {type(texts).__name__}: pass [text]")
        try:
            kept = [text[: self.max_chars] for text in texts]
            "".join(kept)  # the cheapest check that all are strings
        except TypeError:
            if not isinstance(texts, Sequence):
                raise TypeError(f"texts must be a sequence of str, not {type(texts).__name__}") from None
            position, text = next((i, t) for i, t in enumerate(texts) if not isinstance(t, str))
            raise TypeError(
                f"texts must be a sequence of str, but texts[{position}] is {type(text).__name__}"
            ) from None
        return kept

    def _draw(self, texts: list[str], out_BYX: np.ndarray) -> None:
        """Draw a block of strings. Shapes below: B strings, C characters of all strings."""
        out_BYX.fill(self.background)
        utf32 = "".join(texts).encode("utf-32-le", "surrogatepass")
        if not utf32:
            return
        code_point_C = np.frombuffer(utf32, "<u4")
        unit_C = self._glyphs.units(code_point_C)
        width_C = self._glyphs.pool.widths(unit_C)

        # The published layout keeps one running width over a whole string and divides it by what is left of
        # a row beside the string's widest glyph: no row can overflow, and none depends on those before it.
        length_B = np.fromiter(map(len, texts), np.intp, len(texts))
        length_B, image_B = length_B[length_B > 0], np.flatnonzero(length_B)  # without the empty strings
        first_B = np.cumsum(length_B) - length_B  # index of a string's first character
        end_C = np.cumsum(width_C)
        start_C = end_C - width_C
        room_B = self.size - np.maximum.reduceat(width_C, first_B)
        row_C = (end_C - np.repeat(start_C[first_B], length_B)) // np.repeat(room_B, length_B)

        # A row is set flush left: x counts from where the row's first character starts. These starts ascend,
        # so a running maximum hands each of them on to the characters after it.
        begins_row_C = np.ones(len(row_C), bool)
        np.not_equal(row_C[1:], row_C[:-1], out=begins_row_C[1:])
        begins_row_C[first_B] = True
        x_C = start_C - np.maximum.accumulate(np.where(begins_row_C, start_C, 0))

        y_C = row_C * self.font_size
        corner_C = (np.repeat(image_B, length_B) * self.size + y_C) * self.size + x_C
        is_visible_C = y_C < self.size
        if cut_height := self.size % self.font_size:
            unit_C = np.where(y_C + cut_height == self.size, self._glyphs.cut_units(code_point_C), unit_C)
        if not is_visible_C.all():
            unit_C, corner_C = unit_C[is_visible_C], corner_C[is_visible_C]
        self._glyphs.pool.draw(out_BYX.reshape(-1), unit_C, corner_C)


class _GlyphTable:
    """The trimmed glyphs of a renderer, drawn when they are first needed.

    Tables over all code points say which unit of the pool a character is; the system commits their memory
    only where characters have been used.
    """

    def __init__(self, renderer: UnifontRenderer):
        self._renderer = renderer
        self._font = UnifontGlyphs(renderer.font_path)
        self.pool = InkPool(renderer.size, renderer.ink if renderer.font_size == CELL_PX else None)
        self._unit = np.full(_CODE_POINTS, _NOT_DRAWN, np.int32)
        # Glyphs of a row that the image's lower edge cuts.
        self._cut_unit = np.zeros(_CODE_POINTS if renderer.size % renderer.font_size else 0, np.int32)

        # Area resampling of a 16 px cell to font_size px, in exact integers: the overlap of output pixel i
        # with input pixel j, both scaled to whole numbers. A row sums to 16, so full ink is 16**2.
        font_size = renderer.font_size
        i, j = np.ogrid[:font_size, :CELL_PX]
        overlap = np.minimum(CELL_PX * (i + 1), font_size * (j + 1)) - np.maximum(CELL_PX * i, font_size * j)
        self._overlap = np.maximum(overlap, 0).astype(np.float32)  # (font_size, 16)
        coverage = np.arange(CELL_PX**2 + 1)
        shade = (renderer.background * (CELL_PX**2 - coverage) + renderer.ink * coverage) // CELL_PX**2
        self._shade_of_coverage = shade.astype(np.uint8)

    def units(self, code_point_C: np.ndarray) -> np.ndarray:
        """Units of the pool, (C,) int32. Draws the glyphs that are new."""
        unit_C = self._unit[code_point_C]
        is_new_C = unit_C == _NOT_DRAWN
        if is_new_C.any():
            self._add(np.unique(code_point_C[is_new_C]))
            unit_C = self._unit[code_point_C]
        return unit_C

    def cut_units(self, code_point_C: np.ndarray) -> np.ndarray:
        """The same glyphs without what lies below the image's edge, in the image's last, incomplete row."""
        return self._cut_unit[code_point_C]

    def _add(self, code_point_G: np.ndarray) -> None:
        """Draw and trim G glyphs."""
        renderer = self._renderer
        drawn_G = code_point_G
        if renderer.lower:
            is_upper_G = (code_point_G >= ord("A")) & (code_point_G <= ord("Z"))
            drawn_G = np.where(is_upper_G, code_point_G + (ord("a") - ord("A")), code_point_G)
        coverage_GYX = self._overlap @ self._font.bitmaps(drawn_G).astype(np.float32) @ self._overlap.T
        coverage_GYX = coverage_GYX.astype(np.int32)

        font_size = renderer.font_size
        left_G, right_G = np.zeros_like(code_point_G), np.full_like(code_point_G, font_size)
        if not renderer.monospace:
            # The ends are the first and the last inked column, 0 and 0 in a blank glyph. As `right` is
            # exclusive, spacing=1 leaves a blank column before the ink and none after it.
            is_inked_GX = coverage_GYX.any(axis=1)
            first_G = is_inked_GX.argmax(axis=1)
            last_G = np.where(is_inked_GX.any(axis=1), font_size - 1 - is_inked_GX[:, ::-1].argmax(axis=1), 0)
            left_G = np.maximum(first_G - renderer.spacing, 0)
            right_G = np.maximum(last_G + renderer.spacing, left_G + renderer.min_width).clip(max=font_size)
            # Every glyph moves to the left edge of its cell, and what is right of its width goes.
            x = np.arange(font_size)
            column_GX = np.minimum(left_G[:, None] + x, font_size - 1)
            coverage_GYX = np.take_along_axis(coverage_GYX, column_GX[:, None, :], axis=2)
            coverage_GYX = coverage_GYX * (x < (right_G - left_G)[:, None])[:, None, :]

        shade_GYX = self._shade_of_coverage[coverage_GYX]
        self._unit[code_point_G] = self.pool.add(shade_GYX, coverage_GYX > 0, right_G - left_G)
        if cut_height := renderer.size % font_size:
            rows = slice(cut_height)
            self._cut_unit[code_point_G] = self.pool.add(
                shade_GYX[:, rows], coverage_GYX[:, rows] > 0, right_G - left_G
            )
