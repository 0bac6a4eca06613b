"""Shaped text on the patch grid of a vision transformer: every word is a whole number of patches.

A word is shaped by itself, so its patches are the same wherever it stands, as those of `aligned` are; here in
the joined and reordered forms of its script, and in any fonts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np

from clippo.renderer.base import RendererConfig, checked_fonts, checked_integer, hashes
from clippo.renderer.fonts import find_named_font
from clippo.renderer.packed import PackedRenderer
from clippo.renderer.paragraph import UNIFONT, icu_version, invisible_code_points
from clippo.renderer.report import Outcome
from clippo.renderer.sanitize import sanitize_all
from clippo.renderer.skia_loader import import_skia
from clippo.renderer.typesetter import Fonts, Typesetter, direction_of, is_right_to_left

__all__ = ["AlignedParagraphRenderer", "AlignedParagraphRendererConfig"]

ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana and ideographs
WORD = re.compile(f"[{ALONE}]|[^\\s\u200b{ALONE}]+")
CACHE_BYTES = 128 * 2**20  # of the patches of words
LONGEST_WORD_PX = 32_000  # below the limit of Skia's canvases


@dataclass(frozen=True, kw_only=True)
class AlignedParagraphRendererConfig(RendererConfig):
    """Options of shaped, patch-aligned text.

    Attributes:
        patch_size: side of the patches of the model, px, and the height of a line.
        font_size: px an em. Unifont is pixel-exact at 16. Noto's fonts, whose letters are tall, need about
            three quarters of `patch_size`: what reaches out of its line is cut.
        max_chars: code points of a string that are kept.
        background: grey level of the background, 0 to 255.
        ink: grey level of the text, 0 to 255. Glyphs in colour keep their own luminance.
        fonts: names of font files, or paths to them; names are searched for in the system's font folders.

    Raises:
        TypeError, ValueError: an option has the wrong type or is out of range.
    """

    name: ClassVar[str] = "aligned-paragraph"
    patch_size: int = 16
    font_size: int = 16
    max_chars: int = 448
    background: int = 127
    ink: int = 0
    fonts: tuple[str, ...] = UNIFONT

    def __post_init__(self) -> None:
        self._check_integers(
            patch_size=(1, 1024),
            font_size=(1, 1024),
            max_chars=(1, None),
            background=(0, 255),
            ink=(0, 255),
        )
        self._set("fonts", checked_fonts(self.fonts))

    def build(self, size: int) -> "AlignedParagraphRenderer":
        return AlignedParagraphRenderer(size, **vars(self))


class AlignedParagraphRenderer(PackedRenderer):
    """Renderer of words that are shaped one by one, and begin at a patch.

    A word is what stands between white space, or U+200B, which marks words in scripts without spaces; each
    ideograph and kana is one. It takes as many patches as it is wide, and the rest of its last one is the
    space to the next. Lines are rows of patches. A text whose first letter is Arabic, Hebrew or the like
    fills them from the right; in a line, neighbouring words of the other direction are read in their own. A
    word that does not fit on a line goes to the next; one that is wider than the image is broken at a patch.

    Strings are sanitised first; see `clippo.renderer.sanitize`. Fonts are used as by `ParagraphRenderer`.

    Args:
        size: height and width of the images in px, a multiple of `patch_size`.
        options: see `AlignedParagraphRendererConfig`.

    Raises:
        TypeError, ValueError: an option has the wrong type or is out of range.
        FontNotFoundError: a font file is missing.
        OSError: a file is not a font.
        SystemLibraryError: Skia cannot be imported.
    """

    Config = AlignedParagraphRendererConfig
    font_size: int
    max_chars: int
    ink: int
    fonts: tuple[str, ...]

    def __init__(self, size: int = 224, **options: Any) -> None:
        super().__init__(checked_integer("size", size, 1, 32_767), options)
        if self.size % self.patch_size:
            raise ValueError(f"size must be a multiple of patch_size, {self.patch_size} px, not {self.size}")
        self._fonts = Fonts([find_named_font(name) for name in self.fonts])
        self._typesetter = Typesetter(self._fonts, self.font_size, self.patch_size, self.ink)
        self._forget()

    def _forget(self) -> None:
        self._words: dict[str, Word] = {}
        self._patches = np.empty((256, self.patch_size, self.patch_size), np.uint8)
        self._num_patches = 0

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        names = [font["file"] for font in description.get("fonts", [])]
        return cls(**description.get("options", {}), fonts=names)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images, px."""
        return self.size, self.size

    @property
    def row_height(self) -> int:
        """Distance from one line of text to the next, px."""
        return self.patch_size

    @property
    def description(self) -> dict[str, Any]:
        """Everything that the pixels depend on, as JSON values: font hashes, versions and options."""
        return {
            "renderer": "AlignedParagraphRenderer",
            "options": {name: value for name, value in self.__getstate__().items() if name != "fonts"},
            "fonts": hashes(self._fonts.paths),
            "skia": import_skia().__version__,
            "icu": icu_version(),
        }

    def _has_glyph(self, code_point_C: np.ndarray) -> np.ndarray:
        out: np.ndarray = (self._fonts.font_of(code_point_C) >= 0) | invisible_code_points()[code_point_C]
        return out

    def _draw(self, texts: list[str], out_BYX: np.ndarray, outcomes: list[Outcome] | None, start: int) -> int:
        out_BYX.fill(self.background)
        string_T, position_T, patch_T, found, num_cut = self._lay_out(texts)
        B, P, side = len(texts), self.patch_size, self.size // self.patch_size
        row_T, column_T = np.divmod(position_T, side)
        out_BYX.reshape(B, side, P, side, P)[string_T, row_T, :, column_T] = self._patches[patch_T]
        if outcomes is not None:
            outcomes += found
        return num_cut

    def _draw_packed(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        string_T, position_T, patch_T, _, num_cut = self._lay_out(texts)
        N = (self.size // self.patch_size) ** 2
        is_inked_T = (self._patches[patch_T] != self.background).any((1, 2))
        place_T, patch_T = (string_T * N + position_T)[is_inked_T], patch_T[is_inked_T]
        blank = np.setdiff1d(np.arange(len(texts)), place_T // N) * N  # of the strings without ink
        order = np.argsort(np.concatenate([place_T, blank]))
        pixels = np.full((len(order), self.patch_size, self.patch_size), self.background, np.uint8)
        is_drawn = order < len(place_T)
        pixels[is_drawn] = self._patches[patch_T[order[is_drawn]]]
        place = np.concatenate([place_T, blank])[order]
        return pixels, (place % N).astype(np.int32), np.bincount(place // N, minlength=len(texts)), num_cut

    def _lay_out(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Outcome], int]:
        """Set B strings: string, position and patch of T patches; outcomes; and how many strings are cut."""
        if self._patches.nbytes > CACHE_BYTES:
            self._forget()
        pieces: list[
            tuple[int, int, int, int, int]
        ] = []  # of words: string, first patch, count, position, step
        outcomes, num_cut = [], 0
        all_kept, all_cleaned = sanitize_all(texts, self.max_chars)
        for string, (text, kept) in enumerate(zip(texts, all_kept, strict=True)):
            cleaned = all_cleaned.get(string)
            if cleaned is None:
                cleaned = {"cut off": len(text) - len(kept)} if len(text) > len(kept) else {}
            fit = self._lay_out_one(kept, string, pieces)
            outcomes.append(Outcome(kept, fit, self.font_size, self.size, cleaned))
            num_cut += fit < len(kept) or "cut off" in cleaned
        string_W, first_W, count_W, position_W, step_W = np.array(pieces, np.intp).reshape(-1, 5).T
        nth_T = np.arange(count_W.sum()) - np.repeat(np.cumsum(count_W) - count_W, count_W)
        position_T = np.repeat(position_W, count_W) + nth_T * np.repeat(step_W, count_W)
        patch_T = np.repeat(first_W, count_W) + nth_T
        return np.repeat(string_W, count_W), position_T, patch_T, outcomes, num_cut

    def _lay_out_one(self, text: str, string: int, pieces: list[tuple[int, int, int, int, int]]) -> int:
        """Set one string, add its pieces, and count the code points that fit."""
        side = self.size // self.patch_size
        is_rtl = is_right_to_left(text)
        line: list[Part] = []
        row, used = 0, 0

        def finish_line() -> None:
            """Add the pieces of the line in visual order."""
            at = 0
            for word, first, count in in_order_of(line, is_rtl):
                left = side - at - count if is_rtl else at
                if word.direction == "R":
                    pieces.append((string, word.first + first, count, row * side + left + count - 1, -1))
                else:
                    pieces.append((string, word.first + first, count, row * side + left, 1))
                at += count
            line.clear()

        for match in WORD.finditer(text):
            word = self._words.get(match[0]) or self._draw_word(match[0])
            done = 0
            while done < word.num_patches:
                is_whole = word.num_patches - done <= side
                if used == side or (is_whole and used + word.num_patches - done > side):
                    finish_line()
                    row, used = row + 1, 0
                if row == self.size // self.patch_size:
                    return match.start()
                count = min(side - used, word.num_patches - done)
                line.append((word, done, count))
                used, done = used + count, done + count
        finish_line()
        return len(text)

    def _draw_word(self, text: str) -> "Word":
        """Draw a word with Skia, and keep its patches."""
        P = self.patch_size
        paragraph = self._typesetter.paragraph(text, LONGEST_WORD_PX)
        width = min(LONGEST_WORD_PX, int(np.ceil(paragraph.MaxIntrinsicWidth)))
        direction = direction_of(text)
        count = -(-width // P)
        image = np.full((P, count * P), self.background, np.uint8)
        if count:
            paragraph.layout(float(count * P))  # of which a text from right to left takes the right edge
            self._typesetter.draw(paragraph, image)
        patches = image.reshape(P, count, P).swapaxes(0, 1)
        word = Word(self._num_patches, count, direction)
        if direction == "R":
            patches = patches[::-1]
        self._num_patches += count
        if self._num_patches > len(self._patches):
            grown = np.empty((2 * self._num_patches, P, P), np.uint8)
            grown[: len(self._patches)] = self._patches
            self._patches = grown
        self._patches[word.first : self._num_patches] = patches
        self._words[text] = word
        return word


class Word(NamedTuple):
    """Patches of a word in reading order: the first of them and their number; and the word's direction."""

    first: int
    num_patches: int
    direction: Literal["L", "R", ""]


Part = tuple[Word, int, int]  # a word, its first patch that is meant, and their number


def in_order_of(line: list[Part], is_rtl: bool) -> list[Part]:
    """The words of a line from the side where the text begins: runs of the other direction are reversed."""
    other = "L" if is_rtl else "R"
    if not any(word.direction == other for word, _, _ in line):
        return line
    out: list[Part] = []
    for is_other, group in groupby(line, key=lambda part: part[0].direction == other):
        run = list(group)
        out += reversed(run) if is_other else run
    return out
