"""Patch-aligned text: against its layout rules, one character at a time, and what makes it useful."""

import re
import unicodedata

import numpy as np
import pytest

from clippo.renderer import AlignedRenderer, AlignedRendererConfig, inked_patches
from clippo.renderer.glyphs import UnifontFiles

from .test_unifont import random_text

LAYOUTS = [
    ("word", 16, 64),
    ("cell", 16, 64),
    ("word", 32, 96),
    ("cell", 32, 64),
    ("word", 8, 40),
    ("word", 14, 56),
]
TEXTS = [
    *(
        "a dog",
        "A well-known (dog) doesn't",
        "l'eau",
        "U.S.A. 1,000",
        "",
        " ",
        "  two  spaces ",
        "日本語 text 日a本",
    ),
    *(
        "cafe\u0301 vie\u0323\u0302t",
        "\u0301a",
        "a \u0301",
        "भारत में हिन्दी",
        "ภาษาไทยที่นี่",
        "שָׁלוֹם",
        "👩\u200d🚀 🇩🇪",
        "\ufe0f",
    ),
    *(
        "a\u200bb",
        "a\u00a0b\tc\nd",
        "\ud800 a",
        "日\u0301",
        "x" * 100,
        "国" * 60,
        "a " * 60,
        "\x00a\x01b",
        "a\u0378b",
        "ÄÖÜ ẞ Дом",
    ),
]


def patches_of(render: AlignedRenderer, text: str) -> np.ndarray:
    """The inked patches of a text, (T, P, P)."""
    return render.render_packed([text]).pixels


class SlowLayout:
    """Characters and their cells, by the rules in the words of the class's docstring."""

    def __init__(self, align: str, patch_size: int, size: int):
        self.font = UnifontFiles()
        self.align, self.size = align, size
        self.height = min(patch_size, 16)
        self.cells_of_patch = 2 * patch_size // self.height

    def __call__(self, text: str) -> np.ndarray:
        """(S, S) bool, the ink of a text at Unifont's own size."""
        side, cells_in_row, rows = self.size, 2 * self.size // self.height, self.size // self.height
        ink = np.zeros((rows * 16, cells_in_row * 8), bool)
        cell, before, base = 0, "space", None
        for character in text:
            kind = self.kind(character)
            if kind == "invisible":
                continue
            if kind == "space":
                cell += self.align == "cell" and character != "\u200b"
                before, base = kind, None
                continue
            lower = character.lower() if len(character.lower()) == 1 else character
            code_point = np.array([ord(lower)])
            bitmap = self.font.bitmaps(code_point)[0].astype(bool)
            [advance], [shift] = self.font.placement(code_point)
            if kind == "mark" and base is not None:
                at, width = base
                self.put(ink, bitmap, at, 8 * width - shift if shift else 0, 8 * width)
                continue
            starts_word = before == "space" or (kind in ("word", "mark") and before == "other")
            if self.align == "word" and starts_word:
                cell += -cell % self.cells_of_patch
            width = 1 if kind == "mark" else advance // 8
            cell += cell % 2 if width == 2 else 0
            offset = (8 - shift if shift else 0) if kind == "mark" else 0
            self.put(ink, bitmap, cell, offset, 8 * width)
            base = (cell, width)
            cell += width
            before = "word" if kind == "mark" else kind
        assert side == rows * self.height
        return ink

    def put(self, ink: np.ndarray, bitmap: np.ndarray, cell: int, offset: int, width: int) -> None:
        row, column = divmod(cell, ink.shape[1] // 8)
        if row >= len(ink) // 16:
            return
        for y, x in zip(*bitmap.nonzero(), strict=True):
            if 0 <= x + offset < width:
                ink[16 * row + y, 8 * column + x + offset] = True

    def kind(self, character: str) -> str:
        category = unicodedata.category(character)
        if character.isspace() or character == "\u200b":
            return "space"
        if re.match("[\u0600-\u0605\u06dd\u070f\u0890-\u0891\u08e2\ufff9-\ufffb]", character):
            return "other"  # signs of a format that is seen
        if category in ("Cc", "Cf") or character == "\u034f" or "\ufe00" <= character <= "\ufe0f":
            return "invisible"
        [advance], _ = self.font.placement(np.array([ord(character)]))
        if category[0] == "M" or advance == 0:
            return "mark"
        return "word" if category[0] in "LN" else "other"


@pytest.mark.parametrize(("align", "patch_size", "size"), LAYOUTS)
def test_equals_layout_rules(align, patch_size, size):
    render = AlignedRenderer(size, align=align, patch_size=patch_size)
    slow = SlowLayout(align, patch_size, size)
    height = render.row_height
    for text, image in zip(TEXTS, render(TEXTS), strict=True):
        ink = slow(text)
        if height == 16:
            np.testing.assert_array_equal(image, np.where(ink, 0, 127), err_msg=ascii(text))
        else:  # a resampled pixel has ink where the pixels that it covers have
            area = (16 / height) ** 2
            total = ink.sum() * 127 / area
            assert (127 - image.astype(int)).sum() == pytest.approx(total, rel=0.05, abs=60), ascii(text)


@pytest.mark.slow
@pytest.mark.parametrize(("align", "patch_size", "size"), LAYOUTS[:4])
def test_random_texts_equal_layout_rules(align, patch_size, size):
    render, slow = (
        AlignedRenderer(size, align=align, patch_size=patch_size),
        SlowLayout(align, patch_size, size),
    )
    rng = np.random.default_rng(size)
    texts = [random_text(rng, size // 2) for _ in range(300)]
    texts = [text for text in texts if not re.search("[\U000e0000-\U000e0fff]", text)]
    for text, image in zip(texts, render(texts), strict=True):
        np.testing.assert_array_equal(image, np.where(slow(text), 0, 127), err_msg=ascii(text))


@pytest.mark.parametrize(("align", "patch_size", "size"), LAYOUTS)
def test_packed_patches_are_the_inked_patches_of_the_images(align, patch_size, size):
    rng = np.random.default_rng(0)
    texts = TEXTS + [random_text(rng, 40) for _ in range(300)]
    render = AlignedRenderer(size, align=align, patch_size=patch_size, background=200, ink=3)
    images = render(texts)
    B, side = len(texts), size // patch_size
    is_inked = inked_patches(images, patch_size, 200).reshape(B, -1)
    is_inked[:, 0] |= ~is_inked.any(1)
    patches = images.reshape(B, side, patch_size, side, patch_size).swapaxes(2, 3)
    packed = render.render_packed(texts)
    assert packed.pixels.dtype == np.uint8
    assert packed.positions.dtype == packed.cu_seqlens.dtype == np.int32
    np.testing.assert_array_equal(packed.pixels, patches.reshape(B, -1, patch_size, patch_size)[is_inked])
    np.testing.assert_array_equal(packed.positions, is_inked.nonzero()[1])
    np.testing.assert_array_equal(np.diff(packed.cu_seqlens), is_inked.sum(1))


def test_nothing_packs_to_nothing():
    packed = AlignedRenderer(64).render_packed([])
    assert packed.pixels.shape == (0, 16, 16)
    assert packed.positions.shape == (0,)
    assert packed.cu_seqlens.tolist() == [0]


@pytest.mark.parametrize("patch_size", [8, 14, 16, 32])
def test_a_word_gives_the_same_patches_wherever_it_stands(patch_size):
    render = AlignedRenderer(12 * patch_size, patch_size=patch_size)
    word = patches_of(render, "astronaut")
    for before in ("a", "an", "the ", "(", "well-", "3.", "日本", "one two three four", "naïve "):
        joint = "" if before in ("(", "well-", "3.") else " "
        found = patches_of(render, f"{before}{joint}astronaut")
        np.testing.assert_array_equal(found[-len(word) :], word, err_msg=before)


def test_cells_depend_on_what_comes_before():
    render = AlignedRenderer(64, align="cell")
    word = patches_of(render, "dog")
    assert not np.array_equal(patches_of(render, "my dog")[-len(word) :], word)
    np.testing.assert_array_equal(patches_of(render, "an  dog")[-len(word) :], word)


def test_a_mark_stays_within_the_cell_of_its_letter():
    render = AlignedRenderer(32)
    letter, both = patches_of(render, "e"), patches_of(render, "e\u0301")
    assert letter.shape == both.shape == (1, 16, 16)
    assert (both[0, :, 8:] == 127).all()
    assert (both <= letter).all()
    assert (both < letter).any()
    # In scripts that are written from right to left, Unifont's marks come before their letter.
    assert (patches_of(render, "ש\u05b8")[0, :, 8:] == 127).all()
    # U+20DD encloses a letter of 16 px, of which a half-width one shows what is in its cell.
    assert (patches_of(render, "日\u20dd")[0] != patches_of(render, "日")[0]).any()


def test_zero_width_space_marks_words():
    render = AlignedRenderer(64)
    np.testing.assert_array_equal(render(["abc\u200bdef"]), render(["abc def"]))
    np.testing.assert_array_equal(*render(["ab\u200bcd", "abcd"]))


def test_all_letters_are_lowered():
    np.testing.assert_array_equal(*AlignedRenderer(64)(["ÄÉ Дом ΩẞİA", "äé дом ωßİa"]))
    images = AlignedRenderer(64, lower=False)(["A", "a"])
    assert (images[0] != images[1]).any()


def test_report():
    render = AlignedRenderer(64, max_chars=100)
    texts = ["a photo", "", "x" * 150, "\ud800 a", "👩\u200d🚀\ufe0f", "\U000e0fff\U0010ffff"]
    pixels, report = render.render(texts)
    np.testing.assert_array_equal(pixels, render(texts))
    np.testing.assert_array_equal(report.given, report.drawn + report.missing + report.unfit)
    assert report.drawn.tolist() == [7, 0, 32, 2, 4, 1]
    assert report.unfit.tolist() == [0, 0, 118, 0, 0, 0]
    assert report.missing.tolist() == [0, 0, 0, 1, 0, 1]
    assert report.height.tolist()[:3] == [16, 0, 62]
    assert report.inked[0, 0].tolist() == [True, True, True, True]  # a, ph, ot, o
    assert (report.font_size == 16).all()


def test_cut_strings_are_counted():
    render = AlignedRenderer(32, max_chars=9)
    render(["12345678", "123456789", "", "日日日日日", "a b c d e"])
    assert render.num_cut == 3
    render.render_packed(["12345678", "1234567 89", "1 2 3 4    "])
    assert render.num_cut == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"align": "none"}, 'align must be "word" or "cell", not \'none\''),
        ({"patch_size": 12}, "patch_size must be 8, 14, 16 or 32, not 12"),
        ({"size": 72}, "size must be a multiple of patch_size, 16 px, not 72"),
        ({"size": 0}, "size must be from 1 to 32767, not 0"),
        ({"background": 256}, "background must be from 0 to 255, not 256"),
    ],
)
def test_option_out_of_range(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        AlignedRenderer(**options)


def test_option_of_wrong_type():
    with pytest.raises(TypeError, match="lower must be a bool, not 1"):
        AlignedRendererConfig(lower=1)
    with pytest.raises(TypeError, match="texts must be a sequence of str, not one str"):
        AlignedRenderer(64).render_packed("text")


@pytest.mark.parametrize("ink", [127, 128])
def test_ink_of_the_background_draws_nothing(ink):
    render = AlignedRenderer(56, patch_size=14, ink=ink)
    [image] = render(["a dog"])
    is_blank = (image == 127).all()
    assert is_blank or ink == 128
    assert len(render.render_packed(["a dog"]).pixels) == max(1, inked_patches(image[None], 14, 127).sum())
