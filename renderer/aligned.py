"""Text whose glyph cells lie on the patch grid of a vision transformer, and whose words begin at a patch.

In the published layout a word meets the grid at any of 16 offsets, so a model sees it as many different
patches. Here a word gives the same patches wherever it stands, much as a tokenizer gives it the same tokens.
The idea is the structured rendering of Lotz et al. (arXiv 2311.00522); docs/training.md has what it is worth.
"""

import unicodedata
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from clippo.renderer.base import RendererConfig, checked_integer, checked_path
from clippo.renderer.code_points import CODE_POINTS, code_points_of
from clippo.renderer.glyphs import CELL_PX, coverage, shades, unifont_glyphs
from clippo.renderer.ink import InkPool
from clippo.renderer.packed import PackedRenderer
from clippo.renderer.report import Outcome
from clippo.renderer.skia_loader import import_skia

__all__ = ["MARK", "OTHER", "WORD", "AlignedRenderer", "AlignedRendererConfig", "CellTable", "over"]

PATCH_SIZES = (8, 14, 16, 32)

# Unicode's default-ignorable code points: joiners, variation selectors, directional marks, tags.
IGNORABLE = {
    *(0xAD, 0x34F, 0x61C, *range(0x115F, 0x1161), *range(0x17B4, 0x17B6), *range(0x180B, 0x1810)),
    *(*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0x3164),
    *(*range(0xFE00, 0xFE10), 0xFEFF, 0xFFA0, *range(0xFFF0, 0xFFF9), *range(0x1BCA0, 0x1BCA4)),
    *(*range(0x1D173, 0x1D17B), *range(0xE0000, 0xE1000)),
}
ZERO_WIDTH_SPACE = 0x200B


# Kinds of characters for the layout. They are plain integers, because NumPy compares with an IntEnum at a
# third of the speed.
NEW = 0  # not met yet
WORD = 1  # letters and digits
OTHER = 2  # punctuation and symbols
SPACE = 3  # separates words
INVISIBLE = 4  # takes no cell
MARK = 5  # drawn over the character before it


@dataclass(frozen=True, kw_only=True)
class AlignedRendererConfig(RendererConfig):
    """Options of patch-aligned text.

    Attributes:
        align: "word", or "cell" to set the cells one after another, with one blank cell for a space.
        patch_size: side of the patches of the model in px: 16 or 32, for Unifont's own cells of 8 x 16 and
            16 x 16 px, or 8 or 14, for the same cells resampled to rows of that height.
        max_chars: code points of a string that are kept.
        background: grey level of the background, 0 to 255.
        ink: grey level of the text, 0 to 255.
        lower: lower-case all letters.
        font_path: folder with unifont.otf, unifont_upper.otf and unifont.hex; by default the glyphs of
            Unifont 15.0.01 that come with this package.

    Raises:
        TypeError, ValueError: an option has the wrong type or is out of range.
    """

    name: ClassVar[str] = "aligned"
    align: Literal["word", "cell"] = "word"
    patch_size: int = 16
    max_chars: int = 768
    background: int = 127
    ink: int = 0
    lower: bool = True
    font_path: str | None = None

    def __post_init__(self) -> None:
        if self.align not in ("word", "cell"):
            raise ValueError(f'align must be "word" or "cell", not {self.align!r}')
        self._check_integers(patch_size=(1, None), max_chars=(1, None), background=(0, 255), ink=(0, 255))
        if self.patch_size not in PATCH_SIZES:
            raise ValueError(f"patch_size must be 8, 14, 16 or 32, not {self.patch_size}")
        if not isinstance(self.lower, bool):
            raise TypeError(f"lower must be a bool, not {self.lower!r}")
        if self.font_path is not None:
            self._set("font_path", checked_path("font_path", self.font_path))

    def build(self, size: int) -> "AlignedRenderer":
        return AlignedRenderer(size, **vars(self))


class AlignedRenderer(PackedRenderer):
    """Draws strings in the cells of GNU Unifont, on the patch grid.

    A half-width character takes one cell and a full-width one two, the first of them at an even position; so
    a patch of 16 px holds two half-width characters or a full-width one. Cells are filled in logical order,
    row by row; what falls below the image is cut off. A row ends anywhere, also within a word, whose patches
    are the same on both sides.

    With `align="word"`, the first cell of a word is the first of a patch. A word is a run of letters, digits
    and their marks. Punctuation takes the cell after what it follows, and the word after it begins at the
    next patch: "(well-known)" is set as "(", "well-", "known)". White space only separates: the space between
    two words is what is left of a patch, which is nothing after a word that fills its last. In a text without
    spaces, U+200B marks the words, for instance those of a segmenter.

    A combining mark is drawn over the character before it, where Unifont has it, and cut at the edges of that
    character's cells. Joiners, variation selectors and directional controls take no cell. Characters that the
    font lacks leave a blank cell.

    Args:
        size: height and width of the images in px, a multiple of `patch_size`.
        options: see `AlignedRendererConfig`.

    Raises:
        TypeError, ValueError: an option has the wrong type or is out of range.
        FontNotFoundError, NotADirectoryError: a font file is missing, or `font_path` is not a folder.
        SystemLibraryError: Skia cannot be imported.
    """

    Config: ClassVar[type[AlignedRendererConfig]] = AlignedRendererConfig
    align: Literal["word", "cell"]
    patch_size: int
    max_chars: int
    ink: int
    lower: bool
    font_path: str | None

    def __init__(self, size: int = 224, **options: Any) -> None:
        super().__init__(checked_integer("size", size, 1, 32_767), options)
        if self.size % self.patch_size:
            raise ValueError(f"size must be a multiple of patch_size, {self.patch_size} px, not {self.size}")
        self._table = self._make_table()

    def _make_table(self) -> "CellTable":
        return CellTable(self)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images, px."""
        return self.size, self.size

    @property
    def row_height(self) -> int:
        """Distance from one line of text to the next, px."""
        return min(self.patch_size, CELL_PX)

    @property
    def description(self) -> dict[str, Any]:
        """Everything that the pixels depend on, as JSON values: font hashes, versions and options."""
        return {
            "renderer": "AlignedRenderer",
            "options": {name: value for name, value in self.__getstate__().items() if name != "font_path"},
            "fonts": self._table.font.fonts,
            "skia": import_skia().__version__,
        }

    def _has_glyph(self, code_point_C: np.ndarray) -> np.ndarray:
        kind_C = self._table.kinds(code_point_C)
        is_blank_C = (kind_C == SPACE) | (kind_C == INVISIBLE)
        out: np.ndarray = self._table.font.has_glyph(code_point_C) | is_blank_C
        return out

    def _draw(self, texts: list[str], out_BYX: np.ndarray, outcomes: list[Outcome] | None, start: int) -> int:
        out_BYX.fill(self.background)
        (cells, marks), is_cut_B, fit_B = self._lay_out(texts)
        height, cell_width = self.row_height, self.row_height // 2
        cells_in_row = self.size // cell_width
        first_K = (cells.string * (self.size // height) + cells.row) * (height * cells_in_row) + cells.column
        self._table.draw(out_BYX.reshape(-1), cells.unit, first_K, cells_in_row)
        if marks is not None:
            corner_M = (marks.string * self.size + marks.row * height) * self.size + marks.column * cell_width
            self._table.marks_of_images.draw(out_BYX.reshape(-1), marks.unit, corner_M)
        if outcomes is not None:
            for text, fit in zip(texts, fit_B.tolist(), strict=True):
                kept = text[: self.max_chars]
                cut = {"cut off": len(text) - len(kept)} if len(text) > len(kept) else {}
                outcomes.append(Outcome(kept, fit, height, self.size, cut))
        return int(np.count_nonzero(is_cut_B))

    def _draw_packed(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        (cells, marks), is_cut_B, _ = self._lay_out(texts)
        P, height, cell_width = self.patch_size, self.row_height, self.row_height // 2
        num_columns, rows, columns = self.size // P, P // height, P // cell_width
        N = num_columns**2

        def patches_of(cells: Cells) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            """The patch of each cell, counted over all images, and the row and column in it."""
            patch_row, patch_column = cells.row // rows, cells.column // columns
            patch = cells.string * N + patch_row * num_columns + patch_column
            return patch, cells.row - patch_row * rows, cells.column - patch_column * columns

        patch_K, row_K, column_K = patches_of(cells)
        is_inked_BN = np.zeros((len(texts), N), bool)
        is_inked_BN.reshape(-1)[patch_K[self._table.has_ink[cells.unit]]] = True
        if marks is not None:
            patch_M, row_M, column_M = patches_of(marks)
            is_inked_BN.reshape(-1)[patch_M[self._table.marks_of_patches.has_ink(marks.unit)]] = True
        is_inked_BN[:, 0] |= ~is_inked_BN.any(1)
        patch_T = np.flatnonzero(is_inked_BN)
        slot = np.full(len(texts) * N, -1)
        slot[patch_T] = np.arange(len(patch_T))

        # The cells of each patch, 0 for the blank one, and their pixels.
        slot_K = slot[patch_K]
        unit_TRC = np.zeros((len(patch_T), rows, columns), np.intp)
        drawn_K = slot_K >= 0  # the others are blank, in blank patches
        unit_TRC[slot_K[drawn_K], row_K[drawn_K], column_K[drawn_K]] = cells.unit[drawn_K]
        cell_TRYC = np.empty((len(patch_T), rows, height, columns), self._table.pixels.dtype)
        for column in range(columns):
            cell_TRYC[..., column] = self._table.pixels[unit_TRC[..., column]]
        pixels = cell_TRYC.view(np.uint8).reshape(len(patch_T), P, P)
        if marks is not None:
            is_drawn_M = slot[patch_M] >= 0
            corner_M = (slot[patch_M] * P + row_M * height) * P + column_M * cell_width
            self._table.marks_of_patches.draw(
                pixels.reshape(-1), marks.unit[is_drawn_M], corner_M[is_drawn_M]
            )
        positions = (patch_T % N).astype(np.int32)
        return pixels, positions, is_inked_BN.sum(1), int(np.count_nonzero(is_cut_B))

    def _lay_out(self, texts: list[str]) -> tuple[tuple["Cells", "Cells | None"], np.ndarray, np.ndarray]:
        """Set B strings: their cells and marks, (B,) which do not fit, (B,) how many code points do."""
        code_point_C, length_B = code_points_of([text[: self.max_chars] for text in texts])
        cells, fit_B = self._table.lay_out(code_point_C, length_B)
        is_cut_B = fit_B < length_B
        for string in np.flatnonzero(length_B == self.max_chars).tolist():
            is_cut_B[string] |= len(texts[string]) > self.max_chars
        return cells, is_cut_B, fit_B


class Cells(NamedTuple):
    """K inked cells: what each shows, its string, its row of text, and its column, in cells."""

    unit: np.ndarray
    string: np.ndarray
    row: np.ndarray
    column: np.ndarray

    def where(self, is_kept_K: np.ndarray) -> "Cells":
        index = np.flatnonzero(is_kept_K)  # faster than four times the mask
        return Cells(*(x[index] for x in self))


class Characters(NamedTuple):
    """Layout of G characters.

    Attributes:
        kind: (G,) uint8, such as WORD.
        width: (G,) cells.
        drawn: (G,) the code point whose glyph is drawn, of the lower case if the renderer asks for it.
        shift: (G,) px; see `Glyphs.placement`.
    """

    kind: np.ndarray
    width: np.ndarray
    drawn: np.ndarray
    shift: np.ndarray


class CellTable:
    """The characters of a renderer, which are classified and drawn at their first use, and their layout.

    Attributes:
        pixels: (U, row_height) pixel rows of the half-width cells, each row one item of a cell's width; the
            first cell is blank. A full-width character has two cells, one after the other.
        has_ink: (U,) bool.
        space_width: cells of a white-space character.
        marks_of_images, marks_of_patches: the marks, to draw over cells of images, or of packed patches.
    """

    def __init__(self, renderer: AlignedRenderer):
        self._renderer = renderer
        self._height = renderer.row_height
        self.space_width = 1 if renderer.align == "cell" else 0
        self.font = unifont_glyphs(renderer.font_path)
        self._shade_of_coverage = shades(renderer.background, renderer.ink)
        self._kind = np.zeros(CODE_POINTS, np.uint8)
        self._width = np.zeros(CODE_POINTS, np.uint8)  # cells
        self._unit = np.zeros(CODE_POINTS, np.int32)
        self._mark = np.zeros((2, CODE_POINTS), np.int32)  # over a half-width and a full-width character
        self.pixels = np.full((1, self._height * (self._height // 2)), renderer.background, np.uint8)
        self.pixels = self._as_rows(self.pixels)
        self.has_ink = np.zeros(1, bool)
        self._target = np.empty((0, self._height), np.intp)
        self._source = np.empty((0, self._height), self.pixels.dtype)
        ink = renderer.ink if self._height == CELL_PX else None
        self.marks_of_images = InkPool(renderer.size, ink)
        self.marks_of_patches = InkPool(renderer.patch_size, ink)

    def kinds(self, code_point_C: np.ndarray) -> np.ndarray:
        """(C,) uint8, the kind of each code point."""
        kind_C: np.ndarray = self._kind[code_point_C]
        if len(kind_C) and kind_C.min() == NEW:
            self._add(np.unique(code_point_C[kind_C == NEW]))
            kind_C = self._kind[code_point_C]
        return kind_C

    def draw(self, out: np.ndarray, unit_K: np.ndarray, first_K: np.ndarray, row_stride: int) -> None:
        """Write K cells into the flat `out`, the top row of each to item `first_K`; strides are in items."""
        if len(unit_K) > len(self._target):
            # The buffers are reused, because new memory of this size is mapped by the system page by page.
            self._target = np.empty((2 * len(unit_K), self._height), np.intp)
            self._source = np.empty((2 * len(unit_K), self._height), self.pixels.dtype)
        target, source = self._target[: len(unit_K)], self._source[: len(unit_K)]
        np.add(first_K[:, None], np.arange(0, self._height * row_stride, row_stride), out=target)
        np.take(self.pixels, unit_K, axis=0, out=source, mode="clip")
        out.view(self.pixels.dtype)[target] = source

    def lay_out(
        self, code_point_C: np.ndarray, length_B: np.ndarray
    ) -> tuple[tuple[Cells, Cells | None], np.ndarray]:
        """Set code points.

        Returns:
            The cells, and the marks over them if there are any; and how many code points of each string are
            within its image, (B,).
        """
        fit_B = np.zeros(len(length_B), np.intp)
        if len(code_point_C) == 0:
            return (Cells(*np.zeros((4, 0), np.intp)), None), fit_B
        filled = np.flatnonzero(length_B)  # the strings that are not empty
        length_S = length_B[filled]
        first_S = np.cumsum(length_S) - length_S  # index of a string's first character
        string_C = np.repeat(filled, length_S)
        kind_C = self.kinds(code_point_C)
        width_C = self._width[code_point_C]
        is_base_C = bases(kind_C, first_S)
        if is_base_C is None:
            cell_C = self._cells_of(kind_C, width_C, first_S)
        else:
            # Marks and invisible characters are set where the character is that they follow.
            base_C = np.cumsum(is_base_C) - 1  # index among the bases
            kind_K, width_K = kind_C[is_base_C], width_C[is_base_C]
            width_K[kind_K == MARK] = 1
            cell_C = self._cells_of(kind_K, width_K, base_C[first_S])[base_C]

        cells_in_row = 2 * self._renderer.size // self._height
        row_C = cell_C // cells_in_row
        column_C = cell_C - row_C * cells_in_row
        is_visible_C = row_C < self._renderer.size // self._height
        fit_B[filled] = np.add.reduceat(is_visible_C, first_S, dtype=np.intp)

        is_cell_C = is_visible_C & (kind_C <= OTHER)
        cells = Cells(self._unit[code_point_C], string_C, row_C, column_C).where(is_cell_C)
        if width_C.max() == 2:
            right = cells.where(width_C[is_cell_C] == 2)
            right = Cells(right.unit + 1, right.string, right.row, right.column + 1)
            cells = Cells(*map(np.concatenate, zip(cells, right, strict=True)))
        if is_base_C is None:
            return (cells, None), fit_B
        is_over_full_C = (~is_base_C & (width_K == 2)[base_C]).astype(np.intp)
        marks = Cells(self._mark[is_over_full_C, code_point_C], string_C, row_C, column_C)
        return (cells, marks.where(is_visible_C & (kind_C == MARK))), fit_B

    def _cells_of(self, kind_K: np.ndarray, width_K: np.ndarray, first_S: np.ndarray) -> np.ndarray:
        """The first cell of each of K characters, counted from the start of its string."""
        # A run begins where the next even cell has to be taken, and a word where the next patch has to.
        begins_word_K = np.zeros(len(kind_K), bool)
        words_begin_at = 2
        if self._renderer.align == "word":
            words_begin_at = 2 * self._renderer.patch_size // self._height
            is_space_K = (kind_K == SPACE) | (kind_K == INVISIBLE)
            is_word_K = (kind_K == WORD) | (kind_K == MARK)
            # After a space, or where letters follow punctuation.
            begins_word_K[1:] = ~is_space_K[1:] & (is_space_K[:-1] | (is_word_K[1:] & ~is_word_K[:-1]))
        begins_word_K[first_S] = True
        first_R = np.flatnonzero(begins_word_K | (width_K == 2))
        end_K = np.cumsum(width_K, dtype=np.intp)
        start_K = end_K - width_K
        before_R = start_K[first_R]
        length_R = lengths(before_R, end_K[-1])
        length_R += length_R & 1
        shift_R = np.cumsum(length_R) - length_R - before_R
        if words_begin_at > 2:
            first_W = np.flatnonzero(begins_word_K[first_R])
            length_W = np.add.reduceat(length_R, first_W)
            padding_W = -length_W % words_begin_at
            shift_R += np.repeat(np.cumsum(padding_W) - padding_W, lengths(first_W, len(first_R)))
        cell_K: np.ndarray = start_K + np.repeat(shift_R, lengths(first_R, len(kind_K)))
        cell_K -= np.repeat(cell_K[first_S], lengths(first_S, len(kind_K)))  # before, of all strings
        return cell_K

    def kind_of(self, code_point: int) -> int:
        """The kind of a character, but for marks that only the font knows of."""
        character = chr(code_point)
        category = unicodedata.category(character)
        if character.isspace() or code_point == ZERO_WIDTH_SPACE:
            return SPACE
        if code_point in IGNORABLE or category == "Cc":
            return INVISIBLE
        if category[0] == "M":
            return MARK
        return WORD if category[0] in "LN" else OTHER

    def classify(self, code_point_G: np.ndarray) -> "Characters":
        """Say how G characters are set, without drawing them."""
        kind_G = np.array([self.kind_of(code_point) for code_point in code_point_G.tolist()], np.uint8)
        drawn_G = code_point_G
        if self._renderer.lower:
            drawn_G = np.array([lowered(code_point) for code_point in code_point_G.tolist()], np.int64)
        advance_G, shift_G = self.font.placement(drawn_G)
        kind_G[(kind_G <= OTHER) & (advance_G == 0)] = MARK
        width_G = np.where(kind_G <= OTHER, advance_G // (CELL_PX // 2), 0)
        width_G[(kind_G == SPACE) & (code_point_G != ZERO_WIDTH_SPACE)] = self.space_width
        return Characters(kind_G, width_G, drawn_G, shift_G)

    def _add(self, code_point_G: np.ndarray) -> None:
        """Classify and draw G characters."""
        renderer, height = self._renderer, self._height
        kind_G, width_G, drawn_G, shift_G = self.classify(code_point_G)
        self._kind[code_point_G] = kind_G
        self._width[code_point_G] = width_G
        is_cell_G = kind_G <= OTHER

        bitmap_GYX = self.font.bitmaps(drawn_G)
        shade_GYX = self._shade_of_coverage[coverage(bitmap_GYX[is_cell_G], height)]
        shade_UYX = np.stack(np.split(shade_GYX, 2, axis=2), axis=1).reshape(-1, height * (height // 2))
        self._unit[code_point_G[is_cell_G]] = len(self.pixels) + np.arange(0, len(shade_UYX), 2)
        self.pixels = np.concatenate([self.pixels, self._as_rows(shade_UYX)])
        self.has_ink = np.concatenate([self.has_ink, (shade_UYX != renderer.background).any(1)])

        for mark in np.flatnonzero(kind_G == MARK).tolist():
            for table, width in zip(self._mark, (CELL_PX // 2, CELL_PX), strict=True):
                over_YX = over(bitmap_GYX[mark], int(shift_G[mark]), width)
                shade_1YX = self._shade_of_coverage[coverage(over_YX[None], height)]
                for pool in (self.marks_of_images, self.marks_of_patches):
                    table[code_point_G[mark]] = pool.add(
                        shade_1YX, shade_1YX != renderer.background, np.zeros(1, np.intp)
                    )[0]

    def _as_rows(self, pixels_UP: np.ndarray) -> np.ndarray:
        """View the pixels of cells as items that hold a row of a cell each: (U, row_height)."""
        cell_width = self._height // 2
        kind = f"u{cell_width}" if cell_width in (4, 8) else f"V{cell_width}"
        return np.ascontiguousarray(pixels_UP).view(kind)


def bases(kind_C: np.ndarray, first_S: np.ndarray) -> np.ndarray | None:
    """(C,) bool, False for the characters that follow another into its cell; None if there are none.

    These are marks on a character, and invisible characters other than the first of a string.
    """
    if kind_C.max() <= SPACE:
        return None
    is_mark_C = kind_C == MARK
    is_invisible_C = kind_C == INVISIBLE
    is_first_C = np.zeros(len(kind_C), bool)
    is_first_C[first_S] = True
    # Index of the last character before each that is not invisible.
    last_C = np.maximum.accumulate(np.where(is_invisible_C & ~is_first_C, 0, np.arange(len(kind_C))))
    has_base_C = np.zeros(len(kind_C), bool)
    kind_before_C = kind_C[last_C[:-1]]
    has_base_C[1:] = (kind_before_C != SPACE) & (kind_before_C != INVISIBLE)
    out: np.ndarray = is_first_C | ~(is_invisible_C | (is_mark_C & has_base_C))
    return out


def lengths(first_R: np.ndarray, end: int) -> np.ndarray:
    """(R,) lengths of the ranges that begin at ascending indices, up to `end`."""
    out = np.empty_like(first_R)
    np.subtract(first_R[1:], first_R[:-1], out=out[:-1])
    out[-1] = end - first_R[-1]
    return out


def over(bitmap: np.ndarray, shift: int, width: int) -> np.ndarray:
    """Move the bitmap of a mark (16, 16) over a character of `width` px, and cut it at that character's end.

    `shift` is that of `Glyphs.placement`.
    """
    out = moved(bitmap, width - shift if shift else 0)
    out[:, width:] = 0
    return out


def moved(bitmap: np.ndarray, columns: int) -> np.ndarray:
    """Move a bitmap to the right, or to the left by a negative number of columns; what leaves it is lost."""
    out = np.zeros_like(bitmap)
    if columns >= 0:
        out[:, columns:] = bitmap[:, : CELL_PX - columns]
    else:
        out[:, :columns] = bitmap[:, -columns:]
    return out


def lowered(code_point: int) -> int:
    """The lower case of a code point, if it is a single one."""
    lower = chr(code_point).lower()
    return ord(lower) if len(lower) == 1 else code_point
