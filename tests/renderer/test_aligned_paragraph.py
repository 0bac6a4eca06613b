"""Shaped words on the patch grid."""

import json

import numpy as np
import pytest

from clippo.renderer import (
    AlignedParagraphRenderer,
    ParagraphRenderer,
    aligned_paragraph,
    from_description,
    inked_patches,
)

TEXTS = [
    *(
        "A well-known (dog)",
        "cafe\u0301 vu",
        "क्या हिन्दी में लिखा है",
        "ภาษาไทย\u200bที่นี่",
        "שָׁלוֹם עולם abc def 12 34",
    ),
    *(
        "مُحَمَّد العربية hello world نص",
        "漢字 abc",
        "👩\u200d🚀 🇩🇪",
        "",
        " \n",
        "\u200d",
        "word " * 60,
        "x" * 300,
        "a\n\x00b",
    ),
]


@pytest.fixture(scope="module")
def render() -> AlignedParagraphRenderer:
    return AlignedParagraphRenderer(96)


def patches_of(image: np.ndarray, patch_size: int = 16) -> np.ndarray:
    side = len(image) // patch_size
    grid = image.reshape(side, patch_size, side, patch_size).swapaxes(1, 2)
    return grid.reshape(-1, patch_size, patch_size)


@pytest.mark.parametrize(("size", "patch_size"), [(96, 16), (60, 20)])
def test_packed_patches_are_the_inked_patches_of_the_images(size, patch_size):
    render = AlignedParagraphRenderer(size, patch_size=patch_size, background=255)
    images, packed = render(TEXTS), render.render_packed(TEXTS)
    is_inked = inked_patches(images, patch_size, 255).reshape(len(TEXTS), -1)
    is_inked[:, 0] |= ~is_inked.any(1)
    patches = np.stack([patches_of(image, patch_size) for image in images])
    np.testing.assert_array_equal(packed.pixels, patches[is_inked])
    np.testing.assert_array_equal(packed.positions, is_inked.nonzero()[1])
    np.testing.assert_array_equal(np.diff(packed.cu_seqlens), is_inked.sum(1))
    assert render.render_packed([]).pixels.shape == (0, patch_size, patch_size)


@pytest.mark.parametrize("word", ["हिन्दी", "العربية", "ที่นี่", "astronaut"])
def test_a_word_is_what_skia_draws_alone_and_gives_the_same_patches_anywhere(render, word):
    other = "و" if word == "العربية" else "a"
    alone = render.render_packed([word]).pixels
    line = ParagraphRenderer((16, 96))([word])[0]
    assert (render([word])[0, :16] == line).all()
    together = render.render_packed([f"{other} {word}"]).pixels
    if word == "العربية":  # from right to left, so it comes first
        np.testing.assert_array_equal(together[: len(alone)], alone)
    else:
        np.testing.assert_array_equal(together[-len(alone) :], alone)


def test_right_to_left_text_fills_lines_from_the_right(render):
    image = render(["שלום abc def עולם"])[0]
    expected = render(["שלום"])[0]
    np.testing.assert_array_equal(image[:16, -32:], expected[:16, -32:])
    # Words of the other direction are read in their own: abc stands left of def.
    latin = render(["abc def"])[0]
    np.testing.assert_array_equal(image[:16, :64], latin[:16, :64])
    # Numbers have no direction of their own, and follow each other from right to left.
    numbers, reversed_numbers = (patches_of(image) for image in render(["של 12 345", "345 12"]))
    np.testing.assert_array_equal(numbers[2:5], reversed_numbers[:3])
    assert (numbers[:2] == 127).all()


def test_words_move_to_the_next_line_as_a_whole(render):
    _, report = render.render(["astronaut dog cats"])  # of five, two and two patches, of six in a row
    assert report.inked[0].sum(axis=1).tolist() == [5, 4, 0, 0, 0, 0]
    _, report = render.render(["x" * 20])  # of ten: it is broken
    assert report.inked[0].sum(axis=1).tolist() == [6, 4, 0, 0, 0, 0]


def test_report_and_count_of_cut_strings():
    render = AlignedParagraphRenderer(32, max_chars=20)
    texts = ["ab cd", "ab cd ef gh ij", "", "a b c d " * 4, "\ud800\x01 a"]
    _, report = render.render(texts)
    np.testing.assert_array_equal(report.given, report.drawn + report.missing + report.unfit + report.removed)
    assert report.unfit.tolist() == [0, 2, 0, 24, 0]
    assert report.removed.tolist() == [0, 0, 0, 0, 1]
    assert render.num_cut == 2
    render.render_packed(texts)
    assert render.num_cut == 4


def test_the_cache_is_bounded(monkeypatch):
    monkeypatch.setattr(aligned_paragraph, "CACHE_BYTES", 2**17)
    render, fresh = AlignedParagraphRenderer(64), AlignedParagraphRenderer(64)
    for start in range(0, 2000, 100):
        render([str(number) for number in range(start, start + 100)])
    assert len(render._words) < 1500
    np.testing.assert_array_equal(render(["1999 dogs"]), fresh(["1999 dogs"]))


def test_description_makes_it_again(render):
    again = from_description(json.loads(json.dumps(render.description)))
    assert again.fingerprint == render.fingerprint
    np.testing.assert_array_equal(again(TEXTS), render(TEXTS))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"size": 100}, ValueError, "size must be a multiple of patch_size, 16 px, not 100"),
        ({"patch_size": 0}, ValueError, "patch_size must be from 1 to 1024, not 0"),
        ({"fonts": "unifont.otf"}, TypeError, "fonts must be a sequence of file names"),
        ({"fonts": ["nowhere.ttf"]}, FileNotFoundError, "font file nowhere.ttf not found"),
    ],
)
def test_options_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        AlignedParagraphRenderer(**options)
