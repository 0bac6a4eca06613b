"""Text inside photographs."""

import numpy as np
import pytest

from clippo.model.preprocess import preprocess_image
from clippo.renderer import ParagraphRenderer, TextOverflowError, UnifontRenderer, compose, sentence_pairs
from clippo.renderer.resize import resize


@pytest.fixture(scope="module")
def render() -> ParagraphRenderer:
    return ParagraphRenderer(96)


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(128, 256, shape, np.uint8) for shape in ((50, 80, 3), (120, 70, 3), (33, 20))]


QUESTIONS = ["what is it", "how many cats are on the mat", ""]


@pytest.mark.parametrize(("position", "text_at"), [("top", 0), ("bottom", 80), ("middle", 32)])
def test_text_and_photograph_share_the_image(render, photographs, position, text_at):
    out = compose(photographs, QUESTIONS, render, position)
    assert out.shape == (3, 96, 96, 3)
    text = render(QUESTIONS)
    np.testing.assert_array_equal(out[0, text_at : text_at + 16], text[0, :16, :, None].repeat(3, -1))
    rest = np.delete(out[0], slice(text_at, text_at + 16), axis=0)
    np.testing.assert_array_equal(rest, resize(photographs[0], 80, 96))


@pytest.mark.parametrize("renderer", [ParagraphRenderer(96), UnifontRenderer(96)])
def test_without_text_an_image_is_as_the_tower_reads_it(renderer, photographs):
    out = compose(photographs, [""] * 3, renderer)
    for image, photograph in zip(out, photographs, strict=True):
        np.testing.assert_array_equal(image, preprocess_image(photograph, 96))


def test_height_of_the_text_is_measured(render, photographs):
    out = compose(photographs, QUESTIONS, render)
    assert (out[1, :48] <= 127).all()  # three lines
    assert (out[1, 48:] >= 127).all()
    assert (out[2] >= 127).all()  # no question, no text


def test_descenders_below_a_line_take_no_line(photographs):
    render = ParagraphRenderer(96, font_size=20)
    out = compose(photographs[:1], ["ggg"], render)
    np.testing.assert_array_equal(out[0, 16:], resize(photographs[0], 80, 96))


def test_long_questions_take_half_of_the_image(render, photographs):
    out = compose(photographs[:1], ["word " * 100], render)
    assert (out[0, :48] <= 127).all()
    assert (out[0, 48:] >= 128).all()
    # The published renderer lays text out for the whole image, and is cut at half of it.
    published = UnifontRenderer(96)
    out = compose(photographs[:1], ["word " * 100], published)
    np.testing.assert_array_equal(out[0, :48, :, 0], published(["word " * 100])[0, :48])
    with pytest.raises(TextOverflowError, match=r"texts\[0\]"):
        compose(photographs[:1], ["word " * 100], ParagraphRenderer(96, overflow="error"))


def test_renderers_adapt_to_a_height_if_they_can():
    published = UnifontRenderer(64)
    assert published.with_height(32) is published
    assert ParagraphRenderer(64, ink=9).with_height(32) == ParagraphRenderer((32, 64), ink=9)


def test_photographs_are_left_alone(render, photographs):
    before = [photograph.copy() for photograph in photographs]
    compose(photographs, QUESTIONS, render, "middle")
    for photograph, kept in zip(photographs, before, strict=True):
        np.testing.assert_array_equal(photograph, kept)


def test_bad_arguments_are_named(render, photographs):
    with pytest.raises(ValueError, match="position must be one of top, middle, bottom"):
        compose(photographs, QUESTIONS, render, "left")
    with pytest.raises(ValueError, match="questions must be as many as images, 3, got 1"):
        compose(photographs, QUESTIONS[:1], render)
    with pytest.raises(TypeError, match=r"images\[0\] must be a numpy array of uint8"):
        compose([photographs[0].astype(np.float32)], ["a"], render)
    with pytest.raises(ValueError, match=r"images\[0\] must be of shape"):
        compose([np.zeros((4, 4, 4), np.uint8)], ["a"], render)
    with pytest.raises(ValueError, match="room for two lines"):
        compose(photographs[:1], ["a"], ParagraphRenderer((16, 96)))


def test_sentence_pairs():
    assert sentence_pairs(["It rains.", "a"], ["It is wet.", "b"]) == [
        "It rains. [SEP] It is wet.",
        "a [SEP] b",
    ]
    with pytest.raises(ValueError, match="second must be as many as first, 1, got 0"):
        sentence_pairs(["a"], [])
