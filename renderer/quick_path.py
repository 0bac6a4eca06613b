"""Fast path for plain text: copies letters and words that Skia has drawn, with the pixels of Skia.

Skia takes tens of microseconds for a paragraph, mostly for shaping the same words again. In a font without
ligatures or kerning, where every advance is a whole number of pixels, a letter or word has the same pixels
everywhere. So text without combining marks is set letter by letter, and text with marks or emoji sequences,
or whose letters join, word by word; `InkPool` draws thousands at once. Line breaks come from `plain_text`.
Skia draws the strings that this path does not support, and those with several new words, so that filling the
cache never costs much.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from clippo.renderer.code_points import CODE_POINTS
from clippo.renderer.ink import InkPool
from clippo.renderer.plain_text import Break, Kind, breaks, kinds
from clippo.renderer.typesetter import Fonts, Typesetter

__all__ = ["NOT_SET", "QuickPath"]

NOT_SET = -1

NOT_DRAWN, UNFIT = -1, -2  # instead of a unit of the pool
CACHE_BYTES = 128 * 2**20
CACHE_WORDS = 2**18  # with those that are no unit, 40 MiB
NEW_LETTERS = 2  # that are drawn for each string of a batch
SPACE = ord(" ")
INVISIBLE = "\u200d\ufe0f"
SHAPED = (
    Kind.MARK, Kind.RTL, Kind.RTL_ENDING, Kind.TONE, Kind.SELECTOR, Kind.JOINER, Kind.SIGN,
)  # fmt: skip
RIGHT_TO_LEFT = (Kind.RTL, Kind.RTL_ENDING, Kind.MARK, Kind.STOP, Kind.EXCLAMATION, Kind.SPACE)


class Units(NamedTuple):
    """U letters or words of B strings, in reading order. Lines may break between pieces, counted by S.

    Attributes:
        image_B: the image of each string.
        count_B: its number of units.
        is_rtl_B: bool, whether it is set from right to left.
        unit_U: index in the pool, or negative where there is no unit.
        width_U: px, including the space at its end.
        hanging_U: px of that space, which takes no room at the end of a line.
        length_U: code points; None if each is one.
        starts_piece_U: bool, whether a line may begin with the unit.
    """

    image_B: np.ndarray
    count_B: np.ndarray
    is_rtl_B: np.ndarray
    unit_U: np.ndarray
    width_U: np.ndarray
    hanging_U: np.ndarray
    length_U: np.ndarray | None
    starts_piece_U: np.ndarray


class QuickPath:
    """Draw the strings of a batch that the fast path supports.

    Args:
        fonts: where glyphs come from.
        typesetter: draws the pieces.
        shape: height and width of the images, px.
        line_height: px.
        ink: grey level of the text.
    """

    def __init__(
        self, fonts: Fonts, typesetter: Typesetter, shape: tuple[int, int], line_height: int, ink: int
    ):
        self._fonts = fonts
        self._typesetter = typesetter
        self._height, self._width = shape
        self._rows = self._height // line_height
        self._line_height = line_height
        self._ink = ink
        self._is_in_rtl = np.isin(np.arange(len(Kind)), RIGHT_TO_LEFT)
        self._is_shaped = np.isin(np.arange(len(Kind)), SHAPED)
        # A paragraph of nothing but a space has no width.
        without, with_it = (typesetter.paragraph(text, 10_000).MaxIntrinsicWidth for text in ("xx", "x x"))
        self._space_px = round(with_it - without)
        self._has_whole_space = abs(with_it - without - self._space_px) < 1e-3
        self._forget()

    def _forget(self) -> None:
        self._pool = InkPool(self._width, self._ink)
        self._unit_of_char = np.full(CODE_POINTS, NOT_DRAWN, np.int32)
        self._unit_of_word: dict[str, int] = {}

    def draw(
        self, texts: list[str], code_point_C: np.ndarray, length_B: np.ndarray, out_BYX: np.ndarray
    ) -> np.ndarray:
        """Draw the strings that the fast path supports onto blank images, and skip the others.

        Args:
            texts: B sanitised strings, none empty.
            code_point_C: the code points of all strings, concatenated.
            length_B: number of code points of each string.
            out_BYX: (B, height, width) uint8, contiguous and blank, written in place.

        Returns:
            (B,) number of code points of each string that fit the image; NOT_SET for a string that Skia must
            draw, whose image stays blank.
        """
        fit_B = np.full(len(texts), NOT_SET, np.intp)
        if self._pool.nbytes > CACHE_BYTES or len(self._unit_of_word) > CACHE_WORDS:
            self._forget()
        first_B = np.cumsum(length_B) - length_B
        kind_C = kinds()[code_point_C]
        before_C = np.empty_like(kind_C)  # the character before it, seen past a space
        before_C[1:] = kind_C[:-1]
        before_C[first_B] = Kind.START
        after_space_C = before_C == Kind.SPACE
        before_C[2:][after_space_C[2:]] = kind_C[:-2][after_space_C[2:]]
        break_C = breaks()[after_space_C.view(np.uint8), before_C, kind_C]
        is_plain_B = ~np.logical_or.reduceat(break_C == Break.UNKNOWN, first_B)
        starts_piece_C = break_C == Break.ALLOWED
        is_sign_C = kind_C == Kind.SIGN
        if is_sign_C.any():
            # Skia chooses the font of adjacent emoji together. So a sequence with a sign, which may be in
            # another font than the rest, has the same pixels everywhere only between spaces.
            is_picture_C = (kind_C == Kind.EMOJI) | (kind_C == Kind.PERSON)
            touches_C = starts_piece_C & is_picture_C & ~after_space_C
            has_sign_B = np.logical_or.reduceat(is_sign_C, first_B)
            is_plain_B &= ~(has_sign_B & np.logical_or.reduceat(touches_C, first_B))
        starts_piece_C[first_B] = True
        is_rtl_C = (kind_C == Kind.RTL) | (kind_C == Kind.RTL_ENDING)
        needs_shaping_B = np.logical_or.reduceat(self._is_shaped[kind_C], first_B)

        by_letters_B = is_plain_B & ~needs_shaping_B
        if by_letters_B.any():
            units = self._letters(by_letters_B, code_point_C, length_B, starts_piece_C)
            fit_B[units.image_B] = self._set(units, out_BYX)
        by_words_B = is_plain_B & needs_shaping_B
        if by_words_B.any():
            is_rtl_B = np.logical_or.reduceat(is_rtl_C, first_B)
            # In text with both directions, the position of a word depends on the whole text.
            by_words_B &= ~(is_rtl_B & np.logical_or.reduceat(~self._is_in_rtl[kind_C], first_B))
            units = self._words(by_words_B, texts, code_point_C, length_B, starts_piece_C, is_rtl_B)
            if len(units.image_B):
                fit_B[units.image_B] = self._set(units, out_BYX)
        return fit_B

    def _letters(
        self,
        is_chosen_B: np.ndarray,
        code_point_C: np.ndarray,
        length_B: np.ndarray,
        starts_piece_C: np.ndarray,
    ) -> Units:
        """One unit for each character of the chosen strings."""
        image_B = np.flatnonzero(is_chosen_B)
        if len(image_B) < len(is_chosen_B):
            is_chosen_C = np.repeat(is_chosen_B, length_B)
            code_point_C, starts_piece_C = code_point_C[is_chosen_C], starts_piece_C[is_chosen_C]
            length_B = length_B[image_B]
        unit_C = self._unit_of_char[code_point_C]
        is_new_C = unit_C == NOT_DRAWN
        if is_new_C.any():
            # Skia draws the strings with further new letters, so that no call draws hundreds of letters.
            most = NEW_LETTERS * len(image_B)
            for code_point in np.unique(code_point_C[is_new_C])[:most].tolist():
                self._unit_of_char[code_point] = self._draw_unit(chr(code_point))
            unit_C = self._unit_of_char[code_point_C]
        width_C = self._pool.widths(np.maximum(unit_C, 0))
        hanging_C = np.where(code_point_C == SPACE, width_C, 0)
        is_rtl_B = np.zeros(len(image_B), bool)
        return Units(image_B, length_B, is_rtl_B, unit_C, width_C, hanging_C, None, starts_piece_C)

    def _words(
        self,
        is_chosen_B: np.ndarray,
        texts: list[str],
        code_point_C: np.ndarray,
        length_B: np.ndarray,
        starts_piece_C: np.ndarray,
        is_rtl_B: np.ndarray,
    ) -> Units:
        """One unit between two breaks of the chosen strings, except those with several new units."""
        first_B = np.cumsum(length_B) - length_B
        start_S = np.flatnonzero(starts_piece_C)
        length_S = np.diff(np.append(start_S, len(code_point_C)))
        piece_B = np.searchsorted(start_S, first_B)
        count_B = np.diff(np.append(piece_B, len(start_S)))
        starts = (start_S - np.repeat(first_B, count_B)).tolist()
        pieces, counts = piece_B.tolist(), count_B.tolist()
        unit_of = self._unit_of_word
        units: list[int] = []
        is_set_B = np.zeros(len(texts), bool)
        for string in np.flatnonzero(is_chosen_B).tolist():
            text, piece = texts[string], pieces[string]
            bounds = [*starts[piece : piece + counts[string]], len(text)]
            words = [text[i:j].rstrip(" ") for i, j in pairwise(bounds)]
            try:
                units += [unit_of[word] for word in words]
            except KeyError:
                new = {word for word in words if word not in unit_of}
                word = new.pop()
                unit_of[word] = self._draw_unit(word)
                if new:
                    continue
                units += [unit_of[word] for word in words]
            is_set_B[string] = True
        is_set_S = np.repeat(is_set_B, count_B)
        unit_U = np.array(units, np.intp)
        # Text with two spaces in a row is not plain.
        hanging_S = np.where(code_point_C[start_S + length_S - 1] == SPACE, self._space_px, 0)
        hanging_U = hanging_S[is_set_S]
        width_U = self._pool.widths(np.maximum(unit_U, 0)) + hanging_U
        return Units(
            np.flatnonzero(is_set_B),
            count_B[is_set_B],
            is_rtl_B[is_set_B],
            unit_U,
            width_U,
            hanging_U,
            length_S[is_set_S],
            np.ones(len(units), bool),
        )

    def _set(self, units: Units, out_BYX: np.ndarray) -> np.ndarray:
        """Set units in lines, and draw them.

        Returns:
            (B,) how many code points of each string are within the image, or NOT_SET.
        """
        image_B, units_B, is_rtl_B, unit_U, width_U, hanging_U, length_U, starts_piece_U = units
        first_B = np.cumsum(units_B) - units_B
        end_U = np.cumsum(width_U)
        first_S = np.flatnonzero(starts_piece_U)
        last_S = np.append(first_S[1:], len(width_U)) - 1
        start_S = end_U[first_S] - width_U[first_S]
        end_S = end_U[last_S] - hanging_U[last_S]
        pieces_B = np.add.reduceat(starts_piece_U, first_B, dtype=np.intp)
        row_S, line_start_S = self._break_lines(start_S, end_S, pieces_B)

        is_set_B = np.minimum.reduceat(unit_U, first_B) >= 0
        is_set_B &= np.maximum.reduceat(end_S - start_S, np.cumsum(pieces_B) - pieces_B) <= self._width
        units_S = last_S + 1 - first_S
        row_U = np.repeat(row_S, units_S)
        is_visible_U = row_U < self._rows
        fit_U = is_visible_U if length_U is None else is_visible_U * length_U
        fit_B = np.where(is_set_B, np.add.reduceat(fit_U, first_B, dtype=np.intp), NOT_SET)

        x_U = end_U - width_U - np.repeat(line_start_S, units_S)
        if is_rtl_B.any():
            x_U = np.where(np.repeat(is_rtl_B, units_B), self._width - x_U - width_U + hanging_U, x_U)
        y_U = np.repeat(image_B * self._height, units_B) + row_U * self._line_height
        corner_U = y_U * self._width + x_U
        is_drawn_U = is_visible_U if is_set_B.all() else is_visible_U & np.repeat(is_set_B, units_B)
        if not is_drawn_U.all():
            unit_U, corner_U = unit_U[is_drawn_U], corner_U[is_drawn_U]
        self._pool.draw(out_BYX.reshape(-1), unit_U, corner_U)
        return fit_B

    def _break_lines(
        self, start_S: np.ndarray, end_S: np.ndarray, pieces_B: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fill each line with as many pieces as fit, for all strings at once, line by line.

        Args:
            start_S: start of each piece in px, with all strings on one line.
            end_S: end of each piece in px, without the space at its end.
            pieces_B: number of pieces of each string.

        Returns:
            (S,) the row of each piece, too high for those below the image; (S,) where its line begins, px.
        """
        until_B = np.cumsum(pieces_B)
        first_B = until_B - pieces_B
        starts_line_S = np.zeros(len(start_S), bool)
        at_B = first_B
        for _ in range(self._rows + 1):
            starts_line_S[at_B] = True
            at_B = np.searchsorted(end_S, start_S[at_B] + self._width, side="right")
            goes_on_B = at_B < until_B
            if not goes_on_B.any():
                break
            at_B, until_B = at_B[goes_on_B], until_B[goes_on_B]
        line_S = np.cumsum(starts_line_S) - 1
        row_S = line_S - np.repeat(line_S[first_B], pieces_B)
        return row_S, start_S[starts_line_S][line_S]

    def _draw_unit(self, text: str) -> int:
        """Draw a word or letter with Skia, and keep it if its advance is whole and its ink in its box."""
        visible = [ord(character) for character in text if character not in INVISIBLE]
        if not self._has_whole_space or not self._fonts.is_shapeless(np.array(visible)).all():
            return UNFIT
        if text == " ":
            blank_YX = np.zeros((1, 1), bool)
            return self._keep(blank_YX, self._space_px)
        paragraph = self._typesetter.paragraph(text, self._width)
        width = round(paragraph.MaxIntrinsicWidth)
        if abs(paragraph.MaxIntrinsicWidth - width) > 1e-3 or width > self._width:
            return UNFIT
        margin = self._line_height
        background = 255 if self._ink < 128 else 0
        around_YX = np.full((3 * margin, width + 2 * margin), background, np.uint8)
        paragraph.layout(float(width))
        self._typesetter.draw(paragraph, around_YX, margin, margin)
        is_inked_YX = around_YX != background
        box_YX = is_inked_YX[margin : 2 * margin, margin : margin + width]
        if box_YX.sum() < is_inked_YX.sum() or (around_YX[is_inked_YX] != self._ink).any():
            return UNFIT
        return self._keep(box_YX, width)

    def _keep(self, is_inked_YX: np.ndarray, width: int) -> int:
        [unit] = self._pool.add(is_inked_YX[None], is_inked_YX[None], np.array([width]))
        return int(unit)
