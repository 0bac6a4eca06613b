"""Text layout by the paragraphs of Skia: HarfBuzz shaping, bidirectional order, ICU line breaking."""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clippo.renderer.code_points import CODE_POINTS
from clippo.renderer.skia_loader import import_skia

__all__ = ["Fonts", "Typesetter", "direction_of", "is_right_to_left"]

RIGHT_TO_LEFT_ISOLATE, END_OF_ISOLATE = "\u2067", "\u2069"
UNKNOWN, NONE = -2, -1


class Fonts:
    """An ordered list of font files. Each grapheme cluster is drawn with the first font that has it.

    Raises:
        OSError: Skia cannot read a file as a font.
        SystemLibraryError: Skia cannot be imported.
    """

    def __init__(self, paths: Sequence[Path]):
        skia = import_skia()
        self.paths = tuple(paths)
        # The fonts are registered under unique names, because two files may have the same family name. A
        # collection with this provider alone never uses fonts of the system.
        self.names = [f"font {i}" for i in range(len(paths))]
        self._provider = skia.textlayout.TypefaceFontProvider()
        self._typefaces = []
        for path, name in zip(paths, self.names, strict=True):
            typeface = skia.FontMgr.New_Custom_Empty().makeFromFile(str(path))
            if typeface is None:
                raise OSError(f"{path} is not a font that Skia can read")
            self._provider.registerTypeface(typeface, name)
            self._typefaces.append(typeface)
        self.collection = skia.textlayout.FontCollection()
        self.collection.setDefaultFontManager(self._provider)
        self._is_shapeless = np.array([*map(has_no_shaping_rules, self._typefaces), False])
        self._font_of = np.full(CODE_POINTS, UNKNOWN, np.int16)

    def extents(self, font_size: float) -> list[tuple[float, float]]:
        """How far the glyphs of each font reach from the baseline, in px: up, which is negative, and down."""
        metrics = [import_skia().Font(x, font_size).getMetrics() for x in self._typefaces]
        return [(m.fTop, m.fBottom) for m in metrics]

    def font_of(self, code_point_C: np.ndarray) -> np.ndarray:
        """(C,) index of the first font with a glyph for each code point, -1 where none has one."""
        font_C: np.ndarray = self._font_of[code_point_C]
        if (font_C == UNKNOWN).any():
            new_G = np.unique(code_point_C[font_C == UNKNOWN])
            self._font_of[new_G] = NONE
            for index, typeface in reversed(list(enumerate(self._typefaces))):
                has_glyph_G = np.array(typeface.unicharsToGlyphs(new_G.tolist())) != 0
                self._font_of[new_G[has_glyph_G]] = index
            font_C = self._font_of[code_point_C]
        return font_C

    def is_shapeless(self, code_point_C: np.ndarray) -> np.ndarray:
        """(C,) bool, True for code points from a font without any rules for ligatures or kerning."""
        is_shapeless_C: np.ndarray = self._is_shapeless[self.font_of(code_point_C)]  # the last is for "none"
        return is_shapeless_C


def has_no_shaping_rules(typeface: Any) -> bool:
    tags = {tag.to_bytes(4, "big"): tag for tag in typeface.getTableTags()}
    if tags.keys() & {b"kern", b"kerx", b"morx", b"mort", b"Silf", b"fvar"}:
        return False
    for name in tags.keys() & {b"GSUB", b"GPOS"}:
        table = typeface.getTableData(tags[name])
        lookups = int.from_bytes(table[8:10], "big")
        if lookups and int.from_bytes(table[lookups : lookups + 2], "big"):
            return False
    return True


class Typesetter:
    """Paragraphs of one font size and line height, in one grey level.

    Args:
        fonts: where the glyphs come from.
        font_size: px an em.
        line_height: px from one baseline to the next, which overrides that of the fonts.
        ink: grey level of the text; colour glyphs keep their own luminance.

    Attributes:
        leaves_lines: whether glyphs of the fonts may reach above or below their line.
    """

    def __init__(self, fonts: Fonts, font_size: float, line_height: float, ink: int):
        self._skia = skia = import_skia()
        self._fonts = fonts
        self.line_height = line_height
        layout = skia.textlayout
        style = layout.TextStyle()
        style.setColor(0xFF000000 | ink * 0x010101)
        style.setFontSize(font_size)
        style.setFontFamilies(fonts.names)
        strut = layout.StrutStyle()
        strut.setStrutEnabled(True)
        strut.setForceStrutHeight(True)
        strut.setFontFamilies(fonts.names)
        strut.setFontSize(font_size)
        strut.setHeight(line_height / font_size)
        strut.setHeightOverride(True)
        self._left, self._right = layout.ParagraphStyle(), layout.ParagraphStyle()
        for paragraph_style in (self._left, self._right):
            paragraph_style.setTextStyle(style)
            paragraph_style.setStrutStyle(strut)
        self._right.setTextAlign(layout.TextAlign.kRight)
        self._unicode = skia.Unicodes.ICU.Make()
        self._make = layout.ParagraphBuilder.make
        baseline = self.paragraph("x", 10_000).AlphabeticBaseline
        self.leaves_lines = any(
            baseline + top < -0.5 or baseline + bottom > line_height + 0.5
            for top, bottom in fonts.extents(font_size)
        )

    def paragraph(self, text: str, width: int) -> Any:
        """Lay out a sanitised text as a skia Paragraph, in lines of at most `width` px.

        Its base direction is that of the first strong character. The binding of Skia supports only
        left-to-right paragraphs, so each line of the text is put into an isolate of that direction; it takes
        one isolate a line, because the Unicode algorithm ends isolates at line ends.
        """
        style = self._left
        if is_right_to_left(text):
            style = self._right
            isolates = (f"{RIGHT_TO_LEFT_ISOLATE}{line}{END_OF_ISOLATE}" for line in text.split("\n"))
            text = "\n".join(isolates)
        builder = self._make(style, self._fonts.collection, self._unicode)
        builder.addText(text)
        paragraph = builder.Build()
        paragraph.layout(float(width))
        return paragraph

    def draw(self, paragraph: Any, image_YX: np.ndarray, x: int = 0, y: int = 0) -> None:
        """Draw onto a C-contiguous uint8 image, clipped to it."""
        skia = self._skia
        # The canvas draws into the array, but does not keep it alive.
        canvas = skia.Canvas(image_YX, skia.kGray_8_ColorType, skia.kOpaque_AlphaType)
        paragraph.paint(canvas, float(x), float(y))


RTL_LETTER = re.compile(
    "[\u0590-\u08ff\u200f\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
)


def is_right_to_left(text: str) -> bool:
    """Whether the first character with a strong direction is written from right to left."""
    return not text.isascii() and RTL_LETTER.search(text) is not None and direction_of(text) == "R"


def direction_of(text: str) -> Literal["L", "R", ""]:
    """Direction of the first character that has a strong one; "" if none has."""
    for character in text:
        direction = unicodedata.bidirectional(character)
        if direction in ("R", "AL"):
            return "R"
        if direction == "L":
            return "L"
    return ""
