"""Shaped text in every script, through Skia's text layout."""

import bisect
import math
import mmap
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np

from clippo.renderer.base import Renderer, RendererConfig, checked_fonts, checked_integer, hashes
from clippo.renderer.code_points import CODE_POINTS, code_points_of
from clippo.renderer.fonts import find_named_font
from clippo.renderer.quick_path import NOT_SET, QuickPath
from clippo.renderer.report import Outcome
from clippo.renderer.sanitize import MAX_SCRIPT_RUNS, sanitize_all
from clippo.renderer.skia_loader import import_skia
from clippo.renderer.typesetter import Fonts, Typesetter

__all__ = [
    "UNIFONT",
    "ParagraphRenderer",
    "ParagraphRendererConfig",
    "TextOverflowError",
    "icu_version",
    "invisible_code_points",
]

UNIFONT = ("unifont.otf", "unifont_upper.otf")  # every script, exact at 16 px

LONGEST_WORD = 64  # code points
LINES_APART = 4  # times the line height: farther than the ink of any line reaches

Overflow = Literal["clip", "shrink", "error"]


class TextOverflowError(ValueError):
    """A text does not fit, and overflow="error" forbids cutting it."""


@dataclass(frozen=True, kw_only=True)
class ParagraphRendererConfig(RendererConfig):
    """Options of the renderer of shaped text.

    Attributes:
        font_size: px an em. Unifont is pixel-exact at 16 and its multiples, and smoothed at others.
        line_height: px from one baseline to the next.
        max_chars: code points of a string that are kept; 224 x 224 px hold 392 of the
            narrowest characters, and combining marks.
        background: grey level of the background, 0 to 255.
        ink: grey level of the text, 0 to 255. Glyphs in colour keep their own luminance.
        overflow: what to do with text that is too long for an image. "clip": leave out the lines that do not
            fit. "shrink": take the largest font size at which the text fits, down to half of `font_size`, and
            scale the line height with it; then clip the lines that still do not fit. "error": raise
            TextOverflowError.
        fonts: names of font files, or paths to them; names are searched for in the system's font folders.

    Raises:
        TypeError, ValueError: an option has the wrong type or is out of range.
    """

    name: ClassVar[str] = "paragraph"
    font_size: int = 16
    line_height: int = 16
    max_chars: int = 448
    background: int = 127
    ink: int = 0
    overflow: Overflow = "clip"
    fonts: tuple[str, ...] = UNIFONT

    def __post_init__(self) -> None:
        self._check_integers(
            font_size=(1, 1024),
            line_height=(1, 4096),
            max_chars=(1, None),
            background=(0, 255),
            ink=(0, 255),
        )
        if self.overflow not in get_args(Overflow):
            raise ValueError(
                f"overflow must be one of {', '.join(get_args(Overflow))}, not {self.overflow!r}"
            )
        self._set("fonts", checked_fonts(self.fonts))

    def build(self, size: int) -> "ParagraphRenderer":
        return ParagraphRenderer(size, **vars(self))


class ParagraphRenderer(Renderer):
    """Renderer of shaped text in any script, in bidirectional order, with line breaks between words.

    Text fills lines of `line_height` px from the top; with 16, each line is one row of 16 px patches. A text
    whose first letter is Arabic, Hebrew or the like is set from right to left, at the right edge. Lines are
    broken where the rules of Unicode allow it (within Thai text, by the dictionary of ICU); a word that is
    wider than the image is broken anywhere. Lines that do not fit as a whole are not
    drawn; what a tall font draws below its last line is, as far as the image goes.

    Each cluster of a text is set in the first of `fonts` that has it. Fonts of the system are never used, so
    that the same files give the same pixels everywhere. The default, GNU Unifont, has all scripts, and plain
    text in it is drawn much faster than Skia lays out paragraphs. For typographic shapes give a list of Noto
    fonts with Unifont at its end, and perhaps a smaller `font_size`: lines keep their distance, and tall
    letters may touch those of the next line.

    Strings are sanitised first; see `clippo.renderer.sanitize`.

    Args:
        size: height and width of the images in px, or the two of them.
        options: see `ParagraphRendererConfig`.

    Raises:
        TypeError, ValueError: an option has the wrong type or is out of range.
        FontNotFoundError: a font file is missing.
        OSError: a file is not a font.
        SystemLibraryError: Skia cannot be imported.
    """

    Config = ParagraphRendererConfig
    font_size: int
    line_height: int
    max_chars: int
    ink: int
    overflow: Overflow
    fonts: tuple[str, ...]

    def __init__(self, size: int | tuple[int, int] = 224, **options: Any) -> None:
        sides = size if isinstance(size, tuple | list) else (size, size)
        if len(sides) != 2:
            raise ValueError(f"size must be one integer or two, height and width, not {size}")
        height, width = (checked_integer("size", side, 1, 32_767) for side in sides)  # Skia's limit
        super().__init__(height if height == width else (height, width), options)
        if height < self.line_height or width < self.font_size:
            raise ValueError(
                f"size must hold a line and a glyph, {self.line_height} px high and "
                f"{self.font_size} px wide, not {size}"
            )
        self._fonts = Fonts([find_named_font(name) for name in self.fonts])
        self._typesetters: dict[tuple[int, int], Typesetter] = {}
        typesetter = self._typesetter(self.font_size)
        self._quick_path = QuickPath(self._fonts, typesetter, self.image_shape, self.line_height, self.ink)

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        fonts = description.get("fonts", [])
        names = [font["file"] if isinstance(font, Mapping) else font for font in fonts]
        return cls(**description.get("options", {}), fonts=names)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images, px."""
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    @property
    def row_height(self) -> int:
        """Distance from one line of text to the next, px."""
        return self.line_height

    @property
    def description(self) -> dict[str, Any]:
        """Everything that the pixels depend on, as JSON values: font hashes, versions and options."""
        return {
            "renderer": "ParagraphRenderer",
            "options": {name: value for name, value in self.__getstate__().items() if name != "fonts"}
            | {"size": list(self.image_shape)},
            "fonts": hashes(self._fonts.paths),
            "skia": import_skia().__version__,
            "icu": icu_version(),
        }

    def with_height(self, height: int) -> Self:
        """Return a renderer of images of another height, in which `overflow` applies."""
        return type(self)((height, self.image_shape[1]), **vars(self.config))

    def _typesetter(self, font_size: int, spacing: int = 1) -> Typesetter:
        """The typesetter of a font size, with lines `spacing` times as far apart as they are drawn."""
        if (font_size, spacing) not in self._typesetters:
            line_height = spacing * self.line_height * font_size / self.font_size
            self._typesetters[font_size, spacing] = Typesetter(self._fonts, font_size, line_height, self.ink)
        return self._typesetters[font_size, spacing]

    def _has_glyph(self, code_point_C: np.ndarray) -> np.ndarray:
        out: np.ndarray = (self._fonts.font_of(code_point_C) >= 0) | invisible_code_points()[code_point_C]
        return out

    def _draw(self, texts: list[str], out_BYX: np.ndarray, outcomes: list[Outcome] | None, start: int) -> int:
        """Draw a block of strings. Shapes below: B strings, C characters of all strings."""
        out_BYX.fill(self.background)
        kept, cleaned = sanitize_all(texts, self.max_chars)
        code_point_C, length_B = code_points_of(kept)
        is_long_B = length_B == self.max_chars
        for string in np.flatnonzero(is_long_B).tolist():
            is_long_B[string] = len(texts[string]) > self.max_chars
        for string, done in cleaned.items():
            is_long_B[string] = "cut off" in done
        if self.overflow == "error" and is_long_B.any():
            string = int(is_long_B.argmax())
            problem = f"changes its script more than {MAX_SCRIPT_RUNS - 1} times"
            if len(texts[string]) > self.max_chars:
                problem = f"has {len(texts[string])} characters, more than max_chars={self.max_chars}"
            raise TextOverflowError(f"texts[{start + string}] {problem}")
        kept_B = length_B
        if not length_B.all():
            # An empty string is drawn as a space, so that each has a first character.
            code_point_C, length_B = code_points_of([text or " " for text in kept])

        fit_B = self._quick_path.draw(kept, code_point_C, length_B, out_BYX)
        font_size_B, height_B = [self.font_size] * len(kept), [self.image_shape[0]] * len(kept)
        is_left_B = fit_B == NOT_SET
        if self.overflow != "clip":
            is_left_B |= fit_B < length_B
        for string in np.flatnonzero(is_left_B).tolist():
            if fit_B[string] != NOT_SET:
                out_BYX[string].fill(self.background)
            drawn = self._draw_paragraph(kept[string], out_BYX[string], start + string, outcomes is not None)
            fit_B[string], font_size_B[string], height_B[string] = drawn
        if outcomes is not None:
            for string, text in enumerate(texts):
                done = cleaned.get(string, {})
                if string not in cleaned and is_long_B[string]:
                    done = {"cut off": len(text) - self.max_chars}
                fit = min(int(fit_B[string]), len(kept[string]))
                outcomes.append(Outcome(kept[string], fit, font_size_B[string], height_B[string], done))
        return int((is_long_B | (fit_B < kept_B)).sum())

    def _draw_paragraph(
        self, text: str, image_YX: np.ndarray, position: int, is_counted: bool
    ) -> tuple[int, int, int]:
        """Draw one sanitised string.

        Returns:
            How many code points fit, the font size, and the height of the lines that fit, px. Unless
            `is_counted`, the first is anything below the length of the text if not all of it fits.
        """
        height, width = self.image_shape
        smallest = -(-self.font_size // 2) if self.overflow == "shrink" else self.font_size
        for font_size in range(self.font_size, smallest - 1, -1):
            typesetter = self._typesetter(font_size)
            paragraph = typesetter.paragraph(text, width)
            lines_height = height // typesetter.line_height * typesetter.line_height
            if paragraph.Height < lines_height + 0.5:
                typesetter.draw(paragraph, image_YX)
                return len(text), font_size, math.ceil(paragraph.Height - 0.5)
        if self.overflow == "error":
            raise TextOverflowError(
                f"texts[{position}] takes {paragraph.Height:.0f} px, more than the image's {lines_height:.0f}"
            )
        fit = len(text) - 1
        if is_counted or typesetter.leaves_lines:
            fit = self._count_fitting(text, font_size, int(lines_height))
        if typesetter.leaves_lines:  # the lines that do not fit would reach into the image
            typesetter.draw(typesetter.paragraph(text[:fit], width), image_YX)
        else:
            typesetter.draw(paragraph, image_YX[: int(lines_height)])
        return fit, font_size, math.ceil(lines_height)

    def _count_fitting(self, text: str, font_size: int, lines_height: int) -> int:
        """Count the code points of a text in the lines that fit.

        The binding of Skia does not report this. Bisection finds the longest prefix that fits by itself. The
        whole text may hold up to a word less, because the beginning of a word may fit on a line from which
        the whole word moved to the next; such a prefix has ink that the text lacks there, and is shortened.
        Both are drawn with lines far apart, so that no line reaches into another.
        """
        _, width = self.image_shape
        typesetter = self._typesetter(font_size)
        fits = bisect.bisect_right(
            range(len(text)), lines_height + 0.5, key=lambda n: typesetter.paragraph(text[:n], width).Height
        )
        apart = self._typesetter(font_size, spacing=LINES_APART)
        shape = (LINES_APART * lines_height, width)
        whole_YX, alone_YX = (np.full(shape, self.background, np.uint8) for _ in range(2))
        apart.draw(apart.paragraph(text, width), whole_YX)
        for fit in range(fits - 1, max(0, fits - 1 - LONGEST_WORD), -1):
            alone_YX.fill(self.background)
            apart.draw(apart.paragraph(text[:fit], width), alone_YX)
            if np.array_equal(alone_YX, whole_YX):
                return fit
        return fits - 1


@cache
def invisible_code_points() -> np.ndarray:
    """(0x110000,) bool: line feeds, format characters and variation selectors, which need no glyph."""
    table = np.zeros(CODE_POINTS, bool)
    table[[ord("\n"), *(c for c in range(0x20000) if unicodedata.category(chr(c)) == "Cf")]] = True
    table[0xFE00:0xFE10] = table[0xE0000:0xE0200] = True
    return table


@cache
def icu_version() -> str:
    """Major version of the ICU inside of skia-python, from the names of its symbols."""
    library = Path(str(import_skia().__file__))
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = re.search(rb"icudt(\d+)", content)
        return found[1].decode() if found else "unknown"
