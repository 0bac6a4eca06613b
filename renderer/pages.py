"""Pages of documents of any length, as models of visual text compression and of documents read them.

Each word is shaped and drawn by Skia once, and copied wherever it stands, so a page costs about as much as
copying its words. docs/rendering.md has the speed.
"""

import re
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from clippo.renderer.base import checked_integer, checked_path
from clippo.renderer.code_points import code_points_of
from clippo.renderer.fonts import find_named_font
from clippo.renderer.paragraph import UNIFONT, invisible_code_points
from clippo.renderer.sanitize import sanitize
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
        if isinstance(self.fonts, str | bytes) or not isinstance(self.fonts, Sequence) or not self.fonts:
            raise TypeError(f"fonts must be a sequence of file names, not {self.fonts!r}")
        object.__setattr__(self, "fonts", tuple(checked_path("fonts", font) for font in self.fonts))

    @classmethod
    def random(cls, rng: np.random.Generator, fonts: Sequence[str] = UNIFONT) -> "PageStyle":
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
        missing: those that no font has; a box or a gap is on the page.
        removed: those that sanitising removed; see `renderer.sanitize`.
    """

    given: int
    drawn: int
    missing: int
    removed: int


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
        without, with_it = (self._typesetter.paragraph(text, LONGEST_PX) for text in ("xx", "x x"))
        self.space_px = max(2, round(with_it.MaxIntrinsicWidth - without.MaxIntrinsicWidth))

        self._words = WordTable()
        self._lock = threading.Lock()

    def __call__(self, text: str) -> np.ndarray:
        """Draw a document: (P, H, W) uint8 pages."""
        return self._drawn(list(self._pages(text.split("\n"))))

    def render(self, text: str) -> Pages:
        """Draw a document, and say what was drawn and where each word is."""
        pages = list(self._pages(text.split("\n")))
        placed = [(number, *one) for number, page in enumerate(pages) for one in page.words()]
        missing, removed = (sum(counts) for counts in zip(*(page.losses() for page in pages), strict=True))
        return Pages(
            self._drawn(pages),
            PageReport(len(text), len(text) - missing - removed, missing, removed),
            [word for _, word, _ in placed],
            np.array([(number, *box) for number, _, box in placed], np.int32).reshape(-1, 5),
        )

    def stream(self, lines: Iterable[str]) -> Iterator[np.ndarray]:
        """Draw a document that need not fit into memory, such as an open file: pages (H, W), one by one."""
        for page in self._pages(line.removesuffix("\n") for line in lines):
            yield self._drawn([page])[0]

    def _drawn(self, pages: "list[Page]") -> np.ndarray:
        out = np.empty((len(pages), self.height, self.width), np.uint8)
        out.fill(self.style.background)
        for page, pixels in zip(pages, out, strict=True):
            page.draw(pixels)
        return out

    def _pages(self, paragraphs: Iterable[str]) -> Iterator["Page"]:
        style = self.style
        page, column, y = Page(), 0, style.margin
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
                        page, column = Page(), 0
                if line is not None:
                    page.add(line, style.margin + column * (self.column_width + style.column_gap), y)
                y += self.line_height
        yield page

    def _lines(self, paragraph: str) -> list["Line"]:
        """Break a paragraph into lines. Shapes below: W words, L lines."""
        if self._words.nbytes > CACHE_BYTES:
            self._words = WordTable()
        table, style = self._words, self.style
        index_W, gap_W = self._find_words(paragraph)
        if len(index_W) == 0:
            return []
        width_W = table.rows[index_W, WIDTH]
        end_W = np.cumsum(width_W + gap_W)
        starts, ends = (end_W - width_W).tolist(), end_W.tolist()
        bounds, room = [0], self.column_width - style.indent
        while bounds[-1] < len(ends):
            first = bounds[-1]
            bounds.append(max(first + 1, bisect_right(ends, starts[first] + room, first)))
            room = self.column_width

        is_rtl = is_right_to_left(paragraph)
        order_W = np.arange(len(index_W))
        is_other_W = table.rows[index_W, DIRECTION] == (LEFT_TO_RIGHT if is_rtl else RIGHT_TO_LEFT)
        if is_other_W.any():  # runs of the other direction are reversed, within each line
            for i, j in pairwise(bounds):
                runs = [list(run) for _, run in groupby(range(i, j), key=is_other_W.__getitem__)]
                order_W[i:j] = [k for run in runs for k in (run[::-1] if is_other_W[run[0]] else run)]
            index_W, width_W = index_W[order_W], width_W[order_W]
            end_W = np.cumsum(width_W + gap_W)

        first_L = np.array(bounds[:-1])
        words_L = np.diff(bounds)
        begin_L = (end_W - width_W)[first_L]
        indent_L = np.zeros(len(first_L), np.intp)
        indent_L[0] = style.indent
        slack_L = np.maximum(0, self.column_width - indent_L - (end_W[first_L + words_L - 1] - begin_L))
        shift_L = indent_L - begin_L
        if style.align in ("right", "center"):
            shift_L += slack_L // (1 if style.align == "right" else 2)
        x_W = end_W - width_W + np.repeat(shift_L, words_L)
        if style.align == "justify":
            slack_L[-1] = 0
            is_gap_W = gap_W > 0
            is_gap_W[first_L] = False
            gaps_L = np.add.reduceat(is_gap_W, first_L, dtype=np.intp)
            before_W = np.cumsum(is_gap_W)
            before_W = before_W - np.repeat(before_W[first_L], words_L)
            x_W += before_W * np.repeat(slack_L, words_L) // np.repeat(np.maximum(gaps_L, 1), words_L)
        if is_rtl:
            x_W = self.column_width - x_W - width_W
        return [Line(table, index_W[i:j], x_W[i:j], order_W[i:j]) for i, j in pairwise(bounds)]

    def _find_words(self, paragraph: str) -> tuple[np.ndarray, np.ndarray]:
        """The words of a paragraph, by their indices, and the px before each."""
        if SEPARATES.search(paragraph) is None:
            words = paragraph.split()
            gaps = [self.space_px] * len(words)
        else:
            words, gaps, end = [], [], 0
            for match in TOKEN.finditer(paragraph):
                words.append(match[0])
                is_apart = any(character.isspace() for character in paragraph[end : match.start()])
                gaps.append(self.space_px if is_apart else 0)
                end = match.end()
        index = self._words.index
        try:
            found = [index[word] for word in words]
        except KeyError:
            for word in words:
                if word not in index:
                    index[word] = self._add(word)
            found = [index[word] for word in words]
        if self._words.pieces:  # of words that are wider than a column
            pieces = [self._words.pieces.get(word, [word]) for word in found]
            gaps = [x for gap, of in zip(gaps, pieces, strict=True) for x in (gap, *[0] * (len(of) - 1))]
            found = [piece for of in pieces for piece in of]
        return np.array(found, np.intp), np.array(gaps, np.intp)

    def _add(self, text: str) -> int:
        """Draw a word, keep it, and return its index."""
        clean, _ = sanitize(text, len(text))
        code_point_C, _ = code_points_of([clean])
        has_glyph_C = (self._fonts.font_of(code_point_C) >= 0) | invisible_code_points()[code_point_C]
        paragraph = self._typesetter.paragraph(clean, LONGEST_PX)
        width = int(np.ceil(paragraph.MaxIntrinsicWidth))
        removed = len(text) - len(clean)
        if width > self.column_width and len(clean) > 1:
            pieces = [self._add(piece) for piece in self._broken(clean)]
            self._words.rows[pieces[0], REMOVED] += removed  # of all pieces, counted with the first
            word = self._words.add(text, np.zeros((0, 0), np.uint8))
            self._words.pieces[word] = pieces
            return word
        width = min(width, self.column_width)
        # What hangs over, as of an f, goes into the gap between two words; ideographs have none.
        pad = 0 if SEPARATES.search(text) else 1
        image = np.full((self.line_height, width + 2 * pad), self.style.background, np.uint8)
        paragraph.layout(float(max(1, width)))
        self._typesetter.draw(paragraph, image, pad)
        is_inked = image != self.style.background
        rows, columns = (np.flatnonzero(is_inked.any(axis)).tolist() or [0, -1] for axis in (1, 0))
        top, left = rows[0], columns[0]
        bitmap = image[top : rows[-1] + 1, left : columns[-1] + 1]
        word = self._words.add(text, np.ascontiguousarray(bitmap))
        direction = {"L": LEFT_TO_RIGHT, "R": RIGHT_TO_LEFT}.get(direction_of(clean), 0)
        missing = int(np.count_nonzero(~has_glyph_C))
        self._words.rows[word] = width, top, left - pad, direction, missing, removed
        return word

    def _broken(self, text: str) -> list[str]:
        """Break a word into pieces that are no wider than a column, not before a mark or a joiner."""
        pieces = []
        while text:
            at = bisect_right(
                range(1, len(text) + 1),
                self.column_width,
                key=lambda n: self._typesetter.paragraph(text[:n], LONGEST_PX).MaxIntrinsicWidth,
            )
            while 1 < at < len(text) and (ATTACHED.match(text[at]) or text[at - 1] == "\u200d"):
                at -= 1
            pieces.append(text[: max(1, at)])
            text = text[max(1, at) :]
        return pieces


# Columns of a table of words: px of the advance; row and column of the first ink, from where the word begins;
# direction; code points without a glyph, and those that sanitising removed.
WIDTH, TOP, LEFT, DIRECTION, MISSING, REMOVED = range(6)
LEFT_TO_RIGHT, RIGHT_TO_LEFT = 1, 2


class WordTable:
    """Words that have been drawn.

    Attributes:
        index: of each word.
        texts, bitmaps: by index; the ink alone, without blank rows and columns around it.
        pieces: the indices of the pieces of words that are wider than a column.
        rows: (capacity, 6) integers by index.
        nbytes: of the bitmaps, and about of the rest.
    """

    def __init__(self) -> None:
        self.index: dict[str, int] = {}
        self.texts: list[str] = []
        self.bitmaps: list[np.ndarray] = []
        self.pieces: dict[int, list[int]] = {}
        self.rows = np.zeros((256, 6), np.intp)
        self.nbytes = 0

    def add(self, text: str, bitmap: np.ndarray) -> int:
        self.texts.append(text)
        self.bitmaps.append(bitmap)
        self.nbytes += bitmap.nbytes + 4 * len(text) + 300
        if len(self.texts) > len(self.rows):
            self.rows = np.concatenate([self.rows, np.zeros_like(self.rows)])
        return len(self.texts) - 1


class Line(NamedTuple):
    """W words of a line from its left or, if it is written from there, from its right.

    Attributes:
        table: holds the words.
        index_W: their indices.
        x_W: px from the left edge of the column.
        order_W: the place of each in reading order.
    """

    table: WordTable
    index_W: np.ndarray
    x_W: np.ndarray
    order_W: np.ndarray


class Page:
    """The lines of a page, each with the left edge of its column and its top, px."""

    def __init__(self) -> None:
        self.lines: list[tuple[Line, int, int]] = []

    def add(self, line: Line, left: int, top: int) -> None:
        self.lines.append((line, left, top))

    def draw(self, pixels: np.ndarray) -> None:
        """Draw the lines onto a blank page (H, W)."""
        for table, group in groupby(self.lines, key=lambda placed: placed[0].table):
            lines, lefts, tops = zip(*group, strict=True)
            counts = [len(line.index_W) for line in lines]
            index_W = np.concatenate([line.index_W for line in lines])
            x_W = np.concatenate([line.x_W for line in lines])
            x_W += table.rows[index_W, LEFT] + np.repeat(lefts, counts)
            y_W = table.rows[index_W, TOP] + np.repeat(tops, counts)
            bitmaps = table.bitmaps
            for index, x, y in zip(index_W.tolist(), x_W.tolist(), y_W.tolist(), strict=True):
                bitmap = bitmaps[index]
                height, width = bitmap.shape
                pixels[y : y + height, x : x + width] = bitmap

    def words(self) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
        """The words in reading order, and the edges of their ink."""
        for line, left, top in self.lines:
            for place in np.argsort(line.order_W).tolist():
                index = int(line.index_W[place])
                bitmap, row = line.table.bitmaps[index], line.table.rows[index]
                x, y = left + int(line.x_W[place] + row[LEFT]), top + int(row[TOP])
                yield line.table.texts[index], (x, y, x + bitmap.shape[1], y + bitmap.shape[0])

    def losses(self) -> tuple[int, int]:
        """Code points that no font has, and those that sanitising removed."""
        rows = [line.table.rows[line.index_W] for line, _, _ in self.lines]
        return sum(int(row[:, MISSING].sum()) for row in rows), sum(
            int(row[:, REMOVED].sum()) for row in rows
        )


@lru_cache(maxsize=16)
def cached_renderer(size: int | tuple[int, int], style: PageStyle) -> PageRenderer:
    return PageRenderer(size, style)
