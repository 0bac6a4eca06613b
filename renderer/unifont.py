"""The text renderer of the published CLIPPO models, for whole batches at a time.

Every character is one glyph of GNU Unifont, trimmed to its ink, in logical order: no shaping, no
bidirectional reordering, no word wrap. The published weights were trained on this layout.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from clippo.renderer.base import Renderer, RendererConfig, checked_integer, checked_path
from clippo.renderer.code_points import CODE_POINTS, code_points_of
from clippo.renderer.glyphs import CELL_PX, coverage, shades, unifont_glyphs
from clippo.renderer.ink import InkPool
from clippo.renderer.report import Outcome
from clippo.renderer.skia_loader import import_skia

__all__ = ["UnifontRenderer", "UnifontRendererConfig"]

NOT_DRAWN = -1


@dataclass(frozen=True, kw_only=True)
class UnifontRendererConfig(RendererConfig):
    """Options of the published renderer.

    Attributes:
        font_size: height of a row in px. Unifont is pixel-exact at 16; other sizes resample its bitmaps.
        max_chars: code points of a string that are kept.
        background: grey level of the background, 0 to 255.
        ink: grey level of the text, 0 to 255.
        lower: lower-case the letters A to Z, and no others, as the published models expect.
        monospace: give every character a whole cell instead of trimming it to its ink.
        spacing: columns in px that are kept before a glyph's first inked column and, less one, after its
            last, where its cell has them. With 0, the last inked column is cut.
        min_width: least width of a trimmed glyph in px, blanks included.
        font_path: folder with unifont.otf, unifont_upper.otf and unifont.hex; by default the glyphs of
            Unifont 15.0.01 that come with this package.

    Raises:
        TypeError, ValueError: an option has the wrong type or is out of range.
    """

    name: ClassVar[str] = "unifont"
    font_size: int = 16
    max_chars: int = 768
    background: int = 127
    ink: int = 0
    lower: bool = True
    monospace: bool = False
    spacing: int = 1
    min_width: int = 4
    font_path: str | None = None

    def __post_init__(self) -> None:
        self._check_integers(
            font_size=(1, 1024),
            max_chars=(1, None),
            background=(0, 255),
            ink=(0, 255),
            spacing=(0, 32_767),
            min_width=(0, 32_767),
        )
        for name in ("lower", "monospace"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be a bool, not {getattr(self, name)!r}")
        if self.font_path is not None:
            self._set("font_path", checked_path("font_path", self.font_path))

    def build(self, size: int) -> "UnifontRenderer":
        return UnifontRenderer(size, **vars(self))


class UnifontRenderer(Renderer):
    """Draws strings as the published CLIPPO renderer does, to the pixel if given the same GNU Unifont.

    A string is cut to `max_chars` code points and its glyphs are set flush left, in rows of `font_size` px
    from the top, with breaks wherever a row is full, also within words. What falls below the image is cut
    off. Characters that the font lacks leave a gap.

    Lone surrogates are drawn as characters that the font lacks; nothing is sanitised, for the published
    renderer does not.

    Args:
        size: height and width of the images in px.
        options: see `UnifontRendererConfig`.

    Raises:
        TypeError, ValueError: an option has the wrong type or is out of range.
        FontNotFoundError, NotADirectoryError: a font file is missing, or `font_path` is not a folder.
        SystemLibraryError: Skia cannot be imported.
    """

    Config = UnifontRendererConfig
    font_size: int
    max_chars: int
    ink: int
    lower: bool
    monospace: bool
    spacing: int
    min_width: int
    font_path: str | None

    def __init__(self, size: int = 224, **options: Any) -> None:
        super().__init__(checked_integer("size", size, 1, 32_767), options)
        if self.size <= self.font_size:
            raise ValueError(f"size must be larger than font_size, {self.font_size} px, not {self.size} px")
        self._glyphs = GlyphTable(self)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images, px."""
        return self.size, self.size

    @property
    def row_height(self) -> int:
        """Distance from one line of text to the next, px."""
        return self.font_size

    @property
    def description(self) -> dict[str, Any]:
        """Everything that the pixels depend on, as JSON values: font hashes, versions and options."""
        return {
            "renderer": "UnifontRenderer",
            "options": {name: value for name, value in self.__getstate__().items() if name != "font_path"},
            "fonts": self._glyphs.font.fonts,
            "skia": import_skia().__version__,
        }

    def _has_glyph(self, code_point_C: np.ndarray) -> np.ndarray:
        return self._glyphs.font.has_glyph(code_point_C)

    def _draw(self, texts: list[str], out_BYX: np.ndarray, outcomes: list[Outcome] | None, start: int) -> int:
        """Draw a block of strings. Shapes below: B strings, C characters of all strings."""
        out_BYX.fill(self.background)
        kept = [text[: self.max_chars] for text in texts]
        code_point_C, length_B = code_points_of(kept)
        fit_B = self._draw_code_points(code_point_C, length_B, out_BYX)
        if outcomes is not None:
            for text, whole, fit in zip(kept, texts, fit_B.tolist(), strict=True):
                cut = {"cut off": len(whole) - len(text)} if len(whole) > len(text) else {}
                outcomes.append(Outcome(text, fit, self.font_size, self.size, cut))
        is_cut_B = fit_B < length_B
        for string in np.flatnonzero(length_B == self.max_chars).tolist():
            is_cut_B[string] |= len(texts[string]) > self.max_chars
        return int(np.count_nonzero(is_cut_B))

    def _draw_code_points(
        self, code_point_C: np.ndarray, length_B: np.ndarray, out_BYX: np.ndarray
    ) -> np.ndarray:
        """Draw code points and return how many of each string are within its image, (B,)."""
        fit_B = np.zeros(len(length_B), np.intp)
        if len(code_point_C) == 0:
            return fit_B
        unit_C = self._glyphs.units(code_point_C)
        width_C = self._glyphs.pool.widths(unit_C)

        # The published layout keeps one running width over a whole string, and divides it by the width of the
        # image less that of the string's widest glyph. So no row overflows or depends on earlier ones.
        length_B, image_B = length_B[length_B > 0], np.flatnonzero(length_B)  # without the empty strings
        first_B = np.cumsum(length_B) - length_B  # index of a string's first character
        end_C = np.cumsum(width_C)
        start_C = end_C - width_C
        room_B = self.size - np.maximum.reduceat(width_C, first_B)
        row_C = (end_C - np.repeat(start_C[first_B], length_B)) // np.repeat(room_B, length_B)

        # A row is set flush left, so x is relative to the start of the row's first character. These starts
        # ascend, so a running maximum copies each of them to the characters that follow it.
        begins_row_C = np.ones(len(row_C), bool)
        np.not_equal(row_C[1:], row_C[:-1], out=begins_row_C[1:])
        begins_row_C[first_B] = True
        x_C = start_C - np.maximum.accumulate(np.where(begins_row_C, start_C, 0))

        y_C = row_C * self.font_size
        corner_C = (np.repeat(image_B, length_B) * self.size + y_C) * self.size + x_C
        is_visible_C = y_C < self.size
        fit_B[image_B] = np.add.reduceat(is_visible_C, first_B, dtype=np.intp)
        if cut_height := self.size % self.font_size:
            unit_C = np.where(y_C + cut_height == self.size, self._glyphs.cut_units(code_point_C), unit_C)
        if not is_visible_C.all():
            unit_C, corner_C = unit_C[is_visible_C], corner_C[is_visible_C]
        self._glyphs.pool.draw(out_BYX.reshape(-1), unit_C, corner_C)
        return fit_B


class GlyphTable:
    """Trimmed glyphs of a renderer, which are drawn at their first use.

    Tables over all code points map characters to units of the pool. The operating system commits their memory
    only for the pages that have been used.
    """

    def __init__(self, renderer: UnifontRenderer):
        self._renderer = renderer
        self.font = unifont_glyphs(renderer.font_path)
        self.pool = InkPool(renderer.size, renderer.ink if renderer.font_size == CELL_PX else None)
        self._unit = np.full(CODE_POINTS, NOT_DRAWN, np.int32)
        # Units of the glyphs in a row that the lower edge of the image cuts.
        self._cut_unit = np.zeros(CODE_POINTS if renderer.size % renderer.font_size else 0, np.int32)
        self._shade_of_coverage = shades(renderer.background, renderer.ink)

    def units(self, code_point_C: np.ndarray) -> np.ndarray:
        """Draw the glyphs that are new, and return the units of all, (C,) int32."""
        unit_C: np.ndarray = self._unit[code_point_C]
        is_new_C = unit_C == NOT_DRAWN
        if is_new_C.any():
            self._add(np.unique(code_point_C[is_new_C]))
            unit_C = self._unit[code_point_C]
        return unit_C

    def cut_units(self, code_point_C: np.ndarray) -> np.ndarray:
        """Units of the same glyphs, cut at the lower edge of the image, for its last, incomplete row."""
        unit_C: np.ndarray = self._cut_unit[code_point_C]
        return unit_C

    def _add(self, code_point_G: np.ndarray) -> None:
        """Draw and trim G glyphs."""
        renderer = self._renderer
        drawn_G = code_point_G
        if renderer.lower:
            is_upper_G = (code_point_G >= ord("A")) & (code_point_G <= ord("Z"))
            drawn_G = np.where(is_upper_G, code_point_G + (ord("a") - ord("A")), code_point_G)
        font_size = renderer.font_size
        coverage_GYX = coverage(self.font.bitmaps(drawn_G), font_size)
        left_G, right_G = np.zeros_like(code_point_G), np.full_like(code_point_G, font_size)
        if not renderer.monospace:
            # The bounds are the first and the last inked column, both 0 in a blank glyph. As `right` is
            # exclusive, spacing=1 leaves a blank column before the ink and none after it.
            is_inked_GX = np.asarray(coverage_GYX.any(axis=1))
            first_G = is_inked_GX.argmax(axis=1)
            last_G = np.where(is_inked_GX.any(axis=1), font_size - 1 - is_inked_GX[:, ::-1].argmax(axis=1), 0)
            left_G = np.maximum(first_G - renderer.spacing, 0)
            right_G = np.maximum(last_G + renderer.spacing, left_G + renderer.min_width).clip(max=font_size)
            # Shift every glyph to the left edge of its cell, and clear the columns beyond its width.
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
