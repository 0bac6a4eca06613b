"""Pages of documents."""

import threading
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from clippo.renderer import FontNotFoundError, PageRenderer, PageStyle, pages, render_pages
from clippo.renderer.fonts import find_named_font
from clippo.renderer.typesetter import Fonts, Typesetter

ENGLISH = (
    "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse, "
    "and nothing particular to interest me on shore, I thought I would sail about a little.\n\n"
    "It is a way I have of driving off the spleen, and regulating the circulation.\n"
) * 4
MIXED = (
    "漢字かな交じり文。「かぎ括弧」\nΕλληνικά и русский\nשלום abc def עולם מה נשמע\nمرحبا بالعالم 123\n"
    "क्या हिन्दी ภาษาไทย\u200bที่นี่\tcafe\u0301 👩\u200d🚀\r\nend"
)
SIZE = (260, 240)
STYLE = PageStyle(margin=20, paragraph_gap=5)
RENDER = PageRenderer(SIZE, STYLE)


def slow_pages(text: str, style: PageStyle) -> np.ndarray:
    """Text from left to right, word by word; each word is cut from a page of its own."""
    height, width = SIZE
    typesetter = Typesetter(Fonts([find_named_font(n) for n in style.fonts]), style.font_size, 20, style.ink)

    def px(word: str) -> float:
        return typesetter.paragraph(word, 32_000).MaxIntrinsicWidth

    line_height = round(style.line_spacing * style.font_size)
    column_width = (width - 2 * style.margin - (style.columns - 1) * style.column_gap) // style.columns
    space = max(2, round(px("x x") - px("xx")))
    out = [np.full(SIZE, style.background, np.uint8)]
    column, y = 0, style.margin

    def alone(word: str) -> np.ndarray:
        page = PageRenderer(SIZE, replace(style, align="left", indent=0, columns=1))(word)[0]
        return page[style.margin : style.margin + line_height, style.margin - 1 :]

    def put(line: list[str], is_first: bool, is_last: bool) -> None:
        nonlocal column, y
        if y + line_height > height - style.margin:
            column, y = column + 1, style.margin
            if column == style.columns:
                out.append(np.full(SIZE, style.background, np.uint8))
                column = 0
        indent = style.indent if is_first else 0
        widths = [int(np.ceil(px(word))) for word in line]
        slack = column_width - indent - sum(widths) - space * (len(line) - 1)
        x = style.margin + column * (column_width + style.column_gap) + indent
        x += {"right": slack, "center": slack // 2}.get(style.align, 0)
        for i, (word, of_word) in enumerate(zip(line, widths, strict=True)):
            extra = 0
            if style.align == "justify" and not is_last and len(line) > 1:
                extra = i * slack // (len(line) - 1)
            image = alone(word)[:, : of_word + 2]
            is_ink = image != style.background
            out[-1][y : y + line_height, x + extra - 1 : x + extra + of_word + 1][is_ink] = image[is_ink]
            x += of_word + space
        y += line_height

    for number, paragraph in enumerate(text.split("\n")):
        y += style.paragraph_gap if number else 0
        lines: list[list[str]] = [[]]
        used = style.indent
        for word in paragraph.split():
            needed = int(np.ceil(px(word)))
            if lines[-1] and used + space + needed > column_width:
                lines.append([])
                used = 0
            used += needed + (space if lines[-1] else 0)
            lines[-1].append(word)
        for i, line in enumerate(lines):
            put(line, i == 0, i == len(lines) - 1)
    return np.stack(out)


@pytest.mark.parametrize(
    "style",
    [
        STYLE,
        replace(STYLE, align="right", background=30, ink=220),
        replace(STYLE, align="center", line_spacing=1.5, indent=24),
        replace(STYLE, align="justify", columns=2, column_gap=16, font_size=12, fonts=("DejaVuSans.ttf",)),
    ],
)
def test_pages_are_those_of_a_word_by_word_layout(style):
    expected = slow_pages(ENGLISH, style)
    assert len(expected) > 2
    np.testing.assert_array_equal(PageRenderer(SIZE, style)(ENGLISH), expected)


@pytest.mark.parametrize("text", [ENGLISH, MIXED, "", "\n\n", "x" * 500, "a\x00b \ue000\ufffe c"])
def test_a_page_is_the_words_in_their_boxes(text):
    out = RENDER.render(text)
    np.testing.assert_array_equal(out.pixels, RENDER(text))
    assert len(out.words) == len(out.boxes)
    is_covered = np.zeros(out.pixels.shape, bool)
    for page, left, top, right, bottom in out.boxes:
        is_covered[page, top:bottom, left:right] = True
    assert (out.pixels[~is_covered] == 255).all()
    assert "".join(out.words) == "".join(text.split()).replace("\u200b", "")
    assert out.report.given == len(text) == out.report.drawn + out.report.missing + out.report.removed


def test_words_are_given_in_reading_order_with_boxes_around_their_ink():
    out = RENDER.render("first שלום abc\nשלום abc def עולם")
    assert out.words == ["first", "שלום", "abc", "שלום", "abc", "def", "עולם"]
    left = out.boxes[:, 1]
    assert left[0] < left[1] < left[2]
    assert left[6] < left[4] < left[5] < left[3]  # the Latin words keep their own order
    for page, x0, y0, x1, y1 in out.boxes:
        is_inked = out.pixels[page, y0:y1, x0:x1] != 255
        for edge in (is_inked[0], is_inked[-1], is_inked[:, 0], is_inked[:, -1]):
            assert edge.any()


def test_right_to_left_paragraphs_begin_at_the_right_edge():
    ragged = RENDER.render("שלום").boxes[0]
    assert ragged[3] > SIZE[1] - 20 - 4
    other = PageRenderer(SIZE, replace(STYLE, align="right")).render("שלום").boxes[0]
    assert other[1] < 24


def test_ideographs_break_anywhere_but_before_closing_marks():
    text = "漢字、" * 30
    out = RENDER.render(text)
    assert "".join(out.words) == text
    assert len(set(out.boxes[:, 2].tolist())) > 3
    assert not any(word.startswith("、") for word in out.words)
    assert max(out.boxes[:, 3]) > SIZE[1] - 20 - 40  # lines are filled


def test_long_words_are_broken_but_not_before_a_mark():
    text = "e\u0301" * 200
    out = RENDER.render(text)
    assert "".join(out.words) == text
    assert len(out.words) > 5
    assert not any(word.startswith("\u0301") for word in out.words)
    assert max(out.boxes[:, 3]) <= SIZE[1] - 20 + 1


def test_what_is_not_drawn_is_reported():
    lone_surrogate, unassigned, control = "\ud800", "\U000e1000", "\x01"
    text = f"a{lone_surrogate}b c{unassigned} {control}d"
    assert RENDER.render(text).report == pages.PageReport(9, 6, 2, 1)
    assert RENDER.render(text * 50).report == pages.PageReport(450, 300, 100, 50)
    broken = RENDER.render(f"{control}{lone_surrogate}" + "x" * 500)
    assert broken.report == pages.PageReport(502, 500, 1, 1)
    assert RENDER.render("plain").report == pages.PageReport(5, 5, 0, 0)


def test_a_stream_gives_the_same_pages(tmp_path):
    file = tmp_path / "book.txt"
    file.write_text(ENGLISH + MIXED, encoding="utf-8", newline="")
    with file.open(encoding="utf-8", newline="") as lines:
        streamed = list(RENDER.stream(lines))
    np.testing.assert_array_equal(streamed, RENDER(ENGLISH + MIXED))
    endless = RENDER.stream(iter(lambda: "word\n", None))
    assert next(endless).shape == SIZE  # a page comes as soon as it is full


def test_threads_and_a_bounded_cache(monkeypatch):
    monkeypatch.setattr(pages, "CACHE_BYTES", 20_000)
    texts = [f"{ENGLISH} {i} {MIXED}" for i in range(4)]
    expected = [PageRenderer(SIZE, STYLE)(text) for text in texts]
    render, found = PageRenderer(SIZE, STYLE), [None] * 4

    def work(i: int) -> None:
        found[i] = [render(texts[i]) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        for one in found[i]:
            np.testing.assert_array_equal(one, expected[i])


def test_render_pages_takes_the_options_of_a_style():
    page = render_pages("two words", (200, 300), background=0, ink=255, margin=10)
    assert (page.shape, page.dtype) == ((1, 200, 300), np.uint8)
    assert (page[0, 0, 0], page.max()) == (0, 255)
    assert render_pages("").shape == (1, 1056, 816)
    np.testing.assert_array_equal(render_pages("x", 64, margin=4), render_pages("x", (64, 64), margin=4))


def test_random_styles_all_draw_and_have_the_stated_distribution():
    rng = np.random.default_rng(0)
    styles = [PageStyle.random(rng) for _ in range(2000)]
    assert styles[:3] == [PageStyle.random(r) for r in [np.random.default_rng(0)] for _ in range(3)]
    share = {align: n / 2000 for align, n in Counter(style.align for style in styles).items()}
    assert share == pytest.approx({"left": 0.5, "justify": 0.3, "center": 0.1, "right": 0.1}, abs=0.04)
    assert np.mean([style.columns == 2 for style in styles]) == pytest.approx(0.3, abs=0.04)
    assert np.mean([style.background > style.ink for style in styles]) == pytest.approx(0.8, abs=0.04)
    assert {style.font_size for style in styles} == set(range(10, 25))
    assert all(abs(style.background - style.ink) >= 120 for style in styles)
    for style in styles[:20]:
        assert len(PageRenderer((1056, 816), style)(ENGLISH)) >= 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"margin": -1}, ValueError, "margin"),
        ({"font_size": 0}, ValueError, "font_size"),
        ({"font_size": 2.5}, TypeError, "font_size"),
        ({"columns": 99}, ValueError, "too little"),
        ({"margin": 600}, ValueError, "too little"),
        ({"align": "middle"}, ValueError, "align must be one of left, right, center, justify"),
        ({"line_spacing": 0}, ValueError, "line_spacing"),
        ({"line_spacing": float("nan")}, ValueError, "line_spacing"),
        ({"ink": 256}, ValueError, "ink"),
        ({"fonts": ()}, TypeError, "fonts"),
        ({"fonts": "unifont.otf"}, TypeError, "fonts"),
        ({"fonts": ("nowhere.ttf",)}, FontNotFoundError, r"nowhere\.ttf"),
        ({"size": 0}, ValueError, "size"),
        ({"size": (100,)}, ValueError, "size"),
        ({"color": 1}, TypeError, "color"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        render_pages("text", **options)
    with pytest.raises(TypeError, match="text"):
        render_pages(None)
