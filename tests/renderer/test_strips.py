"""Strips of patches for language models of pixels."""

import numpy as np
import pytest

from clippo.renderer import AlignedRenderer, ParagraphRenderer, render_strips
from clippo.renderer.strips import shared

LINE = ParagraphRenderer((16, 20 * 16), background=255)
GRID = AlignedRenderer(64, background=255)  # 16 patches in four rows


def test_a_text_is_what_the_renderer_draws_and_a_black_patch():
    texts = ["A dog's life", "", "ab"]
    strips = render_strips(LINE, texts)
    expected = LINE(texts)
    for i, length in enumerate([7, 1, 2]):
        expected[i, :, 16 * (length - 1) : 16 * length] = 0
    assert strips.lengths.tolist() == [7, 1, 2]
    assert not strips.is_cut.any()
    np.testing.assert_array_equal(strips.pixels, expected)
    np.testing.assert_array_equal(strips.attention_mask.sum(1), [7, 1, 2])
    assert strips.attention_mask[:, 0].all()


def test_a_text_from_right_to_left_begins_at_the_first_patch():
    strips = render_strips(LINE, ["שלום עולם"])
    image = LINE(["שלום עולם"])[0]
    length = int(strips.lengths[0]) - 1
    np.testing.assert_array_equal(strips.pixels[0, :, : 16 * length], image[:, -16 * length :])


def test_a_pair_has_a_separator_after_each():
    [one], [two] = (render_strips(LINE, [text]).pixels for text in ("one dog", "two"))
    strips = render_strips(LINE, ["one dog"], ["two"])
    n, m = 4 + 1, 2 + 1
    np.testing.assert_array_equal(strips.pixels[0, :, : 16 * n], one[:, : 16 * n])
    np.testing.assert_array_equal(strips.pixels[0, :, 16 * n : 16 * (n + m)], two[:, : 16 * m])
    assert (strips.pixels[0, :, 16 * (n + m) :] == 255).all()
    assert strips.lengths.tolist() == [n + m]


def test_aligned_rows_are_joined():
    text = "words of various lengths here"  # two rows and a half
    wide = AlignedRenderer(256, background=255)([text])[0, :16]
    strips = render_strips(GRID, [text])
    length = int(strips.lengths[0]) - 1
    assert length > 8
    np.testing.assert_array_equal(strips.pixels[0, :, : 16 * length], wide[:, : 16 * length])


def test_what_does_not_fit_is_cut_and_said():
    strips = render_strips(GRID, ["ab " * 99, "ab " * 15, "ab " * 16])
    assert strips.lengths.tolist() == [16, 16, 16]
    assert strips.is_cut.tolist() == [True, False, True]
    assert (strips.pixels[:, :, -16:] == 0).all()
    strips = render_strips(GRID, ["ab " * 4, "ab " * 12], ["cd " * 12, "cd " * 12])
    separators = (strips.pixels.reshape(2, 16, 16, 16) == 0).all((1, 3))
    assert [np.flatnonzero(row).tolist() for row in separators] == [[4, 15], [7, 15]]
    assert strips.is_cut.all()


@pytest.mark.parametrize("lengths", [(0, 0), (3, 4), (10, 2), (2, 10), (10, 10), (9, 8), (20, 5), (5, 20)])
def test_the_longer_text_is_cut_first(lengths):
    room = 13
    a, b = shared(list(lengths), room)
    slow = list(lengths)
    while sum(slow) > room:
        slow[int(slow[1] >= slow[0])] -= 1
    assert [a, b] == slow


def test_bad_arguments():
    with pytest.raises(TypeError, match="texts"):
        render_strips(LINE, "one")
    with pytest.raises(ValueError, match="pairs must be as many as texts, 1, got 2"):
        render_strips(LINE, ["a"], ["b", "c"])
    with pytest.raises(ValueError, match=r"lines of 16 px must divide its images of 16 x 100"):
        render_strips(ParagraphRenderer((16, 100)), ["a"])
    with pytest.raises(ValueError, match="must have 4 patches, they have 2"):
        render_strips(ParagraphRenderer((16, 32)), ["a"], ["b"])
    empty = render_strips(GRID, [])
    assert empty.pixels.shape == (0, 16, 256)
    assert empty.attention_mask.shape == (0, 16)
