"""Pages of documents of any length, as models of visual text compression and of documents read them.

Each word is shaped and drawn by Skia once, and copied wherever it stands, so a page costs about as much as
copying its words. docs/rendering.md has the speed.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, chain, groupby
from math import ceil
from operator import add
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from clippo.renderer.base import checked_fonts, checked_integer
from clippo.renderer.code_points import code_points_of
from clippo.renderer.fonts import find_named_font
from clippo.renderer.paragraph import UNIFONT, invisible_code_points
from clippo.renderer.sanitize import sanitize_all
from clippo.renderer.typesetter import Fonts, Typesetter, direction_of, is_right_to_left

__all__ = ["PageRenderer", "PageReport", "PageStyle", "Pages", "render_pages"]

Align = Literal["left", "right", "center", "justify"]

IDEOGRAPH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
CLOSING = "、。，．：；！？）」』】》〉ーぁぃぅぇぉっゃゅょァィゥェォッャュョ"  # not at the start of a line
OPENING = "（「『【《〈"  # not at its end
SEPARATES = re.compile(f"[\u200b{IDEOGRAPH}]")
TOKEN = re.compile(f"[{OPENING}]*[{IDEOGRAPH}][{CLOSING}]*|[^\\s\u200b{IDEOGRAPH}]+")
ATTACHED = re.compile(
    "[\u0300-\u036f\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u200d\ufe00-\ufe0f\U0001f3fb-\U0001f3ff]"
)
CACHE_BYTES = 256 * 2**20
LONGEST_PX = 32_000  # below the limit of Skia's canvases
PAD = 1  # px on both sides of a word


@dataclass(frozen=True, kw_only=True)
class PageStyle:
    """Look of the pages.

    Attributes:
        fonts: names of font files, or paths to them; each character is set in the first that has it.
        font_size: px an em.
        line_spacing: height of a line, in `font_size`. What a glyph draws above or below its line is cut.
        margin: px around the text on each side.
        columns: columns of text on a page.
        column_gap: px between two columns.
        align: of the lines: "left", "right", "center" or "justify". A paragraph that is written from right to
            left is mirrored: "left" is where its lines begin.
        paragraph_gap: px between two paragraphs.
        indent: px by which the first line of a paragraph is shorter, at its beginning.
        background, ink: grey levels, 0 to 255.

    Raises:
        TypeError, ValueError: an option has the wrong type or is out of range.
    """

    fonts: tuple[str, ...] = UNIFONT
    font_size: int = 16
    line_spacing: float = 1.25
    margin: int = 48
    columns: int = 1
    column_gap: int = 32
    align: Align = "left"
    paragraph_gap: int = 8
    indent: int = 0
    background: int = 255
    ink: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("font_size", 1, 1024), ("margin", 1, None), ("columns", 1, None), ("column_gap", 2, None),
            ("paragraph_gap", 0, None), ("indent", 0, None), ("background", 0, 255), ("ink", 0, 255),
        ):  # fmt: skip
            checked_integer(name, getattr(self, name), low, high)
        if not isinstance(self.line_spacing, int | float) or not 0.5 <= self.line_spacing <= 10:
            raise ValueError(f"line_spacing must be a number from 0.5 to 10, not {self.line_spacing!r}")
        if self.align not in get_args(Align):
            raise ValueError(f"align must be one of {', '.join(get_args(Align))}, not {self.align!r}")
        object.__setattr__(self, "fonts", checked_fonts(self.fonts))

    @classmethod
    def random(cls, rng: np.random.Generator, fonts: Sequence[str] = UNIFONT) -> PageStyle:
        """Draw a style, as augmentation for a model that reads documents.

        Font sizes are from 10 to 24 px, line spacings from 1 to 1.6, margins from 16 to 96 px, paragraph gaps
        and indents up to one and two em, all uniformly. Three pages in ten have two columns. Of the lines, 50
        % are set left, 30 % are justified, 10 % each centred and right. Four pages in five are dark (0 to 80)
        on light (200 to 255), the others light on dark.
        """
        font_size = int(rng.integers(10, 25))
        light, dark = int(rng.integers(200, 256)), int(rng.integers(0, 81))
        background, ink = (light, dark) if rng.random() < 0.8 else (dark, light)
        return cls(
            fonts=tuple(fonts),
            font_size=font_size,
            line_spacing=float(rng.uniform(1, 1.6)),
            margin=int(rng.integers(16, 97)),
            columns=2 if rng.random() < 0.3 else 1,
            align=("left", "justify", "center", "right")[rng.choice(4, p=(0.5, 0.3, 0.1, 0.1))],
            paragraph_gap=int(rng.integers(0, font_size + 1)),
            indent=int(rng.integers(0, 2 * font_size + 1)),
            background=background,
            ink=ink,
        )


@dataclass(frozen=True)
class PageReport:
    """What became of the code points of a text: given = drawn + missing + removed.

    Attributes:
        given: code points of the text.
        drawn: those that are on a page, and white space.
        missing: those that no font has, and lone surrogates; a box or U+FFFD is on the page in their place.
        removed: those that sanitising removed; see `renderer.sanitize`.
    """

    given: int
    drawn: int
    missing: int
    removed: int


# The lines of a page, each with the left edge of its column and its top, px
Page: TypeAlias = "list[tuple[Line, int, int]]"


class Pages(NamedTuple):
    """A document.

    Attributes:
        pixels: (P, H, W) uint8 grey levels; an empty text has one blank page.
        report: what was drawn.
        words: the words in reading order; one that is wider than a column comes in pieces.
        boxes: (N, 5) int32, the page of each word, and the left, top, right and bottom edge of its ink, px.
    """

    pixels: np.ndarray
    report: PageReport
    words: list[str]
    boxes: np.ndarray


def render_pages(text: str, size: int | tuple[int, int] = (1056, 816), **options: Any) -> np.ndarray:
    """Draw a document of any length on as many pages as it takes.

    Args:
        text: the document; a line feed ends a paragraph.
        size: height and width of a page in px, or both at once; by default a letter page at 96 dpi.
        options: see `PageStyle`.

    Returns:
        (P, H, W) uint8 pages.

    Raises:
        TypeError, ValueError: an option has the wrong type or is out of range; a page that holds no text.
        FontNotFoundError, OSError, SystemLibraryError: as of `PageRenderer`.
    """
    return cached_renderer(size, PageStyle(**options))(text)


class PageRenderer:
    """Draws documents in one style; it keeps the words that it has drawn.

    A paragraph ends at a line feed. Words are what stands between white space; lines also break next to
    ideographs and kana, and at U+200B. A paragraph whose first letter is Arabic, Hebrew or the like is set
    from right to left.

    Args:
        size: height and width of a page in px, or both at once.
        style: the look.

    Raises:
        ValueError: the margins and gaps leave no room for a line and a glyph.
        FontNotFoundError: a font file is missing.
        OSError: a file is not a font.
        SystemLibraryError: Skia cannot be imported.
    """

    def __init__(self, size: int | tuple[int, int] = (1056, 816), style: PageStyle | None = None) -> None:
        self.style = style = style or PageStyle()
        sides = size if isinstance(size, tuple | list) else (size, size)
        if len(sides) != 2:
            raise ValueError(f"size must be the height and width of a page, not {size!r}")
        self.height, self.width = (checked_integer("size", side, 1, 32_767) for side in sides)
        self.line_height = max(1, round(style.line_spacing * style.font_size))
        room = self.width - 2 * style.margin - (style.columns - 1) * style.column_gap
        self.column_width = room // style.columns
        if self.column_width < 2 * style.font_size or self.height - 2 * style.margin < self.line_height:
            raise ValueError(
                f"size {self.height} x {self.width} px leaves columns of {max(0, self.column_width)} px, and "
                f"{max(0, self.height - 2 * style.margin)} px for lines of {self.line_height}: too little"
            )
        self._fonts = Fonts([find_named_font(name) for name in style.fonts])
        self._typesetter = Typesetter(self._fonts, style.font_size, self.line_height, style.ink)
        self._space_px = max(2 * PAD, ceil(self._px("x x") - self._px("xx") - 0.5))
        self._blank = np.full((self.line_height, self.column_width), style.background, np.uint8)
        self._words: dict[str, list[Word]] = {}
        self._nbytes = 0
        self._lock = threading.Lock()

    def __call__(self, text: str) -> np.ndarray:
        """Draw a document: (P, H, W) uint8 pages."""
        return self._draw_pages(list(self._pages(paragraphs_of(text))))

    def render(self, text: str) -> Pages:
        """Draw a document, and say what was drawn and where each word is."""
        pages = list(self._pages(paragraphs_of(text)))
        words = [(number, *placed) for number, page in enumerate(pages) for placed in placed_words(page)]
        missing = sum(word.missing for _, word, _ in words)
        removed = sum(word.removed for _, word, _ in words)
        return Pages(
            self._draw_pages(pages),
            PageReport(len(text), len(text) - missing - removed, missing, removed),
            [word.text for _, word, _ in words],
            np.array([(number, *box) for number, _, box in words], np.int32).reshape(-1, 5),
        )

    def stream(self, lines: Iterable[str]) -> Iterator[np.ndarray]:
        """Draw a document that need not fit into memory, such as an open file: pages (H, W), one by one."""
        for page in self._pages(line.removesuffix("\n") for line in lines):
            yield self._draw_pages([page])[0]

    def _draw_pages(self, pages: list[Page]) -> np.ndarray:
        out = np.empty((len(pages), self.height, self.width), np.uint8)
        out.fill(self.style.background)
        for page, pixels in zip(pages, out, strict=True):
            for line, left, top in page:
                cells: list[np.ndarray] = [self._blank] * (2 * len(line.words) - 1)
                # Ink outside of the advance, such as the hook of an f, is drawn into the gap between words.
                # On lines where two words touch, it is cut off.
                pad = PAD if min(line.gaps, default=self._space_px) >= 2 * PAD else 0
                cells[::2] = (
                    [word.cell for word in line.words]
                    if pad
                    else [word.cell[:, PAD : PAD + word.width] for word in line.words]
                )
                cells[1::2] = [self._blank[:, : gap - 2 * pad] for gap in line.gaps]
                x, width = left + line.x - pad, line.width + 2 * pad
                np.concatenate(cells, axis=1, out=pixels[top : top + self.line_height, x : x + width])
        return out

    def _pages(self, paragraphs: Iterable[str]) -> Iterator[Page]:
        style = self.style
        page: Page = []
        column, y = 0, style.margin
        for number, paragraph in enumerate(paragraphs):
            if number:
                y += style.paragraph_gap
            with self._lock:
                lines = self._lines(paragraph)
            for line in lines or (None,):  # an empty paragraph is a blank line
                if y + self.line_height > self.height - style.margin:
                    column, y = column + 1, style.margin
                    if column == style.columns:
                        yield page
                        page, column = [], 0
                if line is not None:
                    page.append((line, style.margin + column * (self.column_width + style.column_gap), y))
                y += self.line_height
        yield page

    def _lines(self, paragraph: str) -> list[Line]:
        """Break a paragraph into lines."""
        words, gaps = self._find_words(paragraph)
        widths = [word.width for word in words]
        ends = list(accumulate(map(add, widths, gaps)))
        is_rtl = is_right_to_left(paragraph)
        is_mixed = not paragraph.isascii() and any(word.is_rtl is (not is_rtl) for word in words)
        lines, first, indent = [], 0, self.style.indent
        while first < len(words):
            start = ends[first] - widths[first]
            after = max(first + 1, bisect_right(ends, start + self.column_width - indent, first))
            line = Line(words[first:after], gaps[first + 1 : after], indent, ends[after - 1] - start)
            if is_mixed:
                line.reorder(is_rtl)
            line.align(self.style.align, self.column_width, is_last=after == len(words))
            if is_rtl:
                line.mirror(self.column_width)
            lines.append(line)
            first, indent = after, 0
        return lines

    def _find_words(self, paragraph: str) -> tuple[list[Word], list[int]]:
        """The words of a paragraph, and the px before each."""
        if SEPARATES.search(paragraph) is None:
            texts = paragraph.split()
            gaps = [self._space_px] * len(texts)
        else:
            texts, gaps, end = [], [], 0
            for match in TOKEN.finditer(paragraph):
                texts.append(match[0])
                is_apart = any(character.isspace() for character in paragraph[end : match.start()])
                gaps.append(self._space_px if is_apart else 0)
                end = match.end()
        try:
            found = [self._words[text] for text in texts]
        except KeyError:
            if self._nbytes > CACHE_BYTES:
                self._words, self._nbytes = {}, 0
            self._add([text for text in dict.fromkeys(texts) if text not in self._words])
            found = [self._words[text] for text in texts]
        words = list(chain.from_iterable(found))
        if len(words) > len(texts):  # some are wider than a column, and come in pieces
            gaps = [x for gap, of in zip(gaps, found, strict=True) for x in (gap, *[0] * (len(of) - 1))]
        return words, gaps

    def _add(self, texts: list[str]) -> None:
        """Draw words, and keep them."""
        clean_texts, changes = sanitize_all(texts, max(map(len, texts)))
        code_point_C, length_T = code_points_of(clean_texts)
        has_glyph_C = (self._fonts.font_of(code_point_C) >= 0) | invisible_code_points()[code_point_C]
        text_C = np.repeat(np.arange(len(texts)), length_T)
        missing_T = np.bincount(text_C[~has_glyph_C], minlength=len(texts)).tolist()
        for i, (text, clean) in enumerate(zip(texts, clean_texts, strict=True)):
            pieces = [self._draw_word(piece) for piece in self._broken(clean)]
            pieces[0].missing = missing_T[i] + changes.get(i, {}).get("surrogates replaced", 0)
            pieces[0].removed = len(text) - len(clean)
            if len(pieces) == 1:
                pieces[0].text = text
            self._words[text] = pieces
            self._nbytes += sum(piece.cell.nbytes for piece in pieces) + 8 * len(text) + 700

    def _draw_word(self, text: str) -> Word:
        paragraph = self._typesetter.paragraph(text, LONGEST_PX)
        width = min(ceil(paragraph.MaxIntrinsicWidth), self.column_width)
        cell = np.full((self.line_height, width + 2 * PAD), self.style.background, np.uint8)
        paragraph.layout(float(max(1, width)))
        self._typesetter.draw(paragraph, cell, PAD)
        direction = "L" if text.isascii() and text.isalpha() else direction_of(text)
        return Word(text, cell, width, direction == "R" if direction else None)

    def _px(self, text: str) -> float:
        width: float = self._typesetter.paragraph(text, LONGEST_PX).MaxIntrinsicWidth
        return width

    def _broken(self, text: str) -> list[str]:
        """Break a word into pieces that are no wider than a column, not before a mark or a joiner."""
        widest = 4 * self.style.font_size  # of a character
        if len(text) * widest <= self.column_width or ceil(self._px(text)) <= self.column_width:
            return [text]
        pieces = []
        while text:
            at = bisect_right(
                range(1, len(text) + 1), self.column_width, key=lambda n: ceil(self._px(text[:n]))
            )
            while 1 < at < len(text) and (ATTACHED.match(text[at]) or text[at - 1] == "\u200d"):
                at -= 1
            pieces.append(text[: max(1, at)])
            text = text[max(1, at) :]
        return pieces


def paragraphs_of(text: str) -> list[str]:
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, not {type(text).__name__}")
    return text.split("\n")


@dataclass(slots=True, eq=False)
class Word:
    """A word that has been drawn, or a piece of one that is wider than a column.

    Attributes:
        text: as it was given; of a piece, sanitised.
        cell: (line height, PAD + width + PAD) uint8.
        width: px of the advance.
        is_rtl: direction; None if no character has one.
        missing: code points without a glyph, of all pieces in the first.
        removed: code points that sanitising removed, likewise.
    """

    text: str
    cell: np.ndarray
    width: int
    is_rtl: bool | None
    missing: int = 0
    removed: int = 0


@dataclass(slots=True, eq=False)
class Line:
    """A line of words from left to right; until it is mirrored, from where the paragraph begins.

    Attributes:
        words: the words.
        gaps: px between each and the next.
        x: px from the edge of the column to the first.
        width: px of words and gaps.
        order: the place of each word in reading order; None if it is theirs.
    """

    words: list[Word]
    gaps: list[int]
    x: int
    width: int
    order: list[int] | None = None

    def reorder(self, is_rtl: bool) -> None:
        """Reverse each run of words of the other direction than the paragraph's."""
        is_other = [word.is_rtl is (not is_rtl) for word in self.words]
        runs = [list(run) for _, run in groupby(range(len(self.words)), key=is_other.__getitem__)]
        self.order = [i for run in runs for i in (reversed(run) if is_other[run[0]] else run)]
        self.words = [self.words[i] for i in self.order]

    def align(self, align: Align, column_width: int, is_last: bool) -> None:
        slack = max(0, column_width - self.x - self.width)
        if align == "right":
            self.x += slack
        elif align == "center":
            self.x += slack // 2
        elif align == "justify" and not is_last:
            is_gap = [gap > 0 for gap in self.gaps]
            wide = sum(is_gap)
            if wide:
                # The first n gaps grow by n shares of the slack together, rounded down.
                share = [n * slack // wide for n in accumulate(is_gap)]
                self.gaps = [gap + b - a for gap, a, b in zip(self.gaps, [0, *share], share, strict=False)]
                self.width += slack

    def mirror(self, column_width: int) -> None:
        """Count from the left edge of the column."""
        self.x = column_width - self.x - self.width
        self.words, self.gaps = self.words[::-1], self.gaps[::-1]
        self.order = (self.order or list(range(len(self.words))))[::-1]


def placed_words(page: Page) -> Iterator[tuple[Word, tuple[int, int, int, int]]]:
    """The words of a page in reading order, and the edges of their ink."""
    for line, left, top in page:
        starts = accumulate(map(add, (word.width for word in line.words), line.gaps), initial=left + line.x)
        placed = list(zip(line.words, starts, strict=False))
        for place in np.argsort(line.order).tolist() if line.order else range(len(placed)):
            word, x = placed[place]
            is_inked = word.cell != word.cell[0, 0]
            rows, columns = (np.flatnonzero(is_inked.any(axis)).tolist() or [0, -1] for axis in (1, 0))
            x -= PAD
            yield word, (x + columns[0], top + rows[0], x + columns[-1] + 1, top + rows[-1] + 1)


@lru_cache(maxsize=16)
def cached_renderer(size: int | tuple[int, int], style: PageStyle) -> PageRenderer:
    return PageRenderer(size, style)
