"""The shaping renderer: layout that can be stated in pixels, the quick route against Skia's, hostile text."""

import hashlib
import multiprocessing
import pickle
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clippo.bench.captions import captions
from clippo.renderer import (
    FontNotFoundError,
    ParagraphRenderer,
    TextOverflowError,
    UnifontRenderer,
    find_font,
)
from clippo.renderer.code_points import code_points_of
from clippo.renderer.paragraph import UNIFONT
from clippo.renderer.plain_text import Kind, kinds
from clippo.renderer.sanitize import MAX_MARKS, needs_sanitizing, sanitize, sanitize_all

INK, BACKGROUND = 0, 127
ZALGO = "e" + "\u0301" * 400
HINDI, ARABIC, HEBREW, THAI = "नमस्ते दुनिया", "مرحبا بالعالم", "שלום עולם", "ภาษาไทยนั้นง่ายมากจริงๆ"


@pytest.fixture(scope="module")
def render() -> ParagraphRenderer:
    return ParagraphRenderer(224)


class SkiaOnly(ParagraphRenderer):
    """Without the quick route."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._quick_path.draw = lambda texts, *_: np.full(len(texts), -1, np.intp)


def ink_box(image: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the ink, the latter two exclusive."""
    y, x = np.nonzero(image != BACKGROUND)
    return int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1


# -- layout


def test_lines_sit_on_rows_of_patches(render):
    image = render(["x\nx\nx"])[0]
    rows = [image[y : y + 16] for y in (0, 16, 32)]
    assert (rows[0] != BACKGROUND).any()
    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_array_equal(rows[0], rows[2])
    assert (image[48:] == BACKGROUND).all()


def test_unifont_is_exact_at_16_px(render):
    assert set(np.unique(render(["cat 猫 " + HINDI + ARABIC + THAI]))) == {INK, BACKGROUND}


def test_breaks_at_words(render):
    narrow = ParagraphRenderer((64, 48))
    image = narrow(["abcd efgh"])[0]  # nine letters of 8 px; six fit
    np.testing.assert_array_equal(image[:16], narrow(["abcd"])[0, :16])
    np.testing.assert_array_equal(image[16:32], narrow(["efgh"])[0, :16])


def test_long_word_breaks_anywhere():
    narrow = ParagraphRenderer((64, 48))
    image = narrow(["abcdefgh"])[0]
    np.testing.assert_array_equal(image[16:32], narrow(["gh"])[0, :16])


def test_thai_breaks_between_words_of_its_dictionary():
    narrow = ParagraphRenderer((64, 72))  # nine consonants wide
    words = narrow(["ภาษาไทย ประเทศ"])[0]
    joined = narrow(["ภาษาไทยประเทศ"])[0]
    np.testing.assert_array_equal(joined, words)  # the same two lines, although there is no space


@pytest.mark.parametrize("text", [ARABIC, HEBREW])
def test_right_to_left_text_is_set_at_the_right_edge(render, text):
    left, _, right, _ = ink_box(render([text])[0])
    assert right > 216
    assert left > 100


def test_right_to_left_order_of_mixed_text(render):
    # The Latin word comes first in memory, after the Hebrew one; in the image it is on the left of it.
    image = render(["שלום cat"])[0]
    latin_width = 24
    at = ink_box(image)[0] - ink_box(render(["cat"])[0])[0]
    np.testing.assert_array_equal(image[:16, at : at + latin_width], render(["cat"])[0, :16, :latin_width])


def test_every_line_of_right_to_left_text_keeps_its_direction(render):
    one, two = render(["שלום cat"])[0], render(["עולם\nשלום cat"])[0]
    np.testing.assert_array_equal(two[16:32], one[:16])


def test_arabic_letters_join(render):
    apart = "\u200c".join("مرحبا")  # with non-joiners
    assert (render(["مرحبا"]) != render([apart])).any()


def test_emoji_sequences_are_one_picture():
    render = ParagraphRenderer((64, 224), fonts=(*UNIFONT, "NotoColorEmoji.ttf"))
    first = ParagraphRenderer((64, 224), fonts=("NotoColorEmoji.ttf", *UNIFONT))
    widths = [ink_box(image)[2] for image in first(["👩", "👩‍🚀", "🇩🇪", "👍🏽"])]
    assert max(widths) - min(widths) <= 3
    assert len(np.unique(first(["👍🏽"]))) > 10  # in colour, so in many greys
    assert set(np.unique(render(["👩"]))) == {INK, BACKGROUND}  # Unifont, earlier in the list, has it too


@pytest.mark.parametrize("ink", range(0, 256, 15))
def test_grey_levels_are_exact(ink):
    pixels = ParagraphRenderer((16, 64), ink=ink, background=200, line_height=16)(["abc " + HINDI])
    assert set(np.unique(pixels)) == {ink, 200}


def test_images_do_not_bleed(render):
    tall = "क" + "\u0301\u0323" * 2 + "\n" * 13 + "gg" + "\u0323" * 4
    together = render([tall, "", tall, ""])
    assert (together[1] == BACKGROUND).all()
    assert (together[3] == BACKGROUND).all()
    np.testing.assert_array_equal(together[0], together[2])


def test_sizes_need_not_be_multiples_of_the_line_height():
    image = ParagraphRenderer((40, 100))(["x\nx\nx\nx"])[0]
    assert image.shape == (40, 100)
    assert (image[32:] == BACKGROUND).all()  # no part of a line


def test_out_and_empty_batches(render):
    out = np.full((2, 224, 224), 9, np.uint8)
    assert render(["a", ""], out=out) is out
    np.testing.assert_array_equal(out, render(["a", ""]))
    assert render([]).shape == (0, 224, 224)
    with pytest.raises(ValueError, match=r"out must be .*\(1, 224, 224\)"):
        render(["a"], out=out)


# -- the quick route gives the pixels of Skia's paragraphs


def random_texts(rng: random.Random, count: int) -> list[str]:
    """Text of the kinds that the quick route knows, in all their combinations."""
    of_kind = {kind: np.flatnonzero(kinds() == kind).tolist() for kind in Kind}
    alphabets = {
        "latin": [Kind.LETTER] * 30
        + [Kind.DIGIT] * 3
        + [Kind.STOP, Kind.EXCLAMATION, Kind.PARENTHESIS, Kind.QUOTE, Kind.HYPHEN, Kind.CURLY_CLOSING],
        "punctuation": list(Kind)[1:-1],
        "cjk": [Kind.IDEOGRAPH] * 12
        + [Kind.WIDE_STOP] * 2
        + [Kind.LETTER, Kind.DIGIT, Kind.STOP, Kind.EXCLAMATION],
        "indic": [Kind.LETTER] * 8 + [Kind.MARK] * 4 + [Kind.DANDA, Kind.HYPHEN],
        "emoji": [Kind.EMOJI, Kind.PERSON] * 4
        + [Kind.TONE, Kind.JOINER, Kind.SELECTOR, Kind.IDEOGRAPH, Kind.LETTER, Kind.STOP],
        "rtl": [Kind.RTL] * 16 + [Kind.MARK] * 2 + [Kind.RTL_ENDING, Kind.STOP],
    }

    def word(alphabet: str, block: int) -> str:
        letters = []
        for _ in range(rng.randint(1, rng.choice([3, 8, 16]))):
            kind = rng.choice(alphabets[alphabet])
            members = of_kind[kind]
            if alphabet == "indic" and kind in (Kind.LETTER, Kind.MARK):
                members = [c for c in members if block <= c < block + 0x80]
            elif alphabet in ("latin", "punctuation") and kind == Kind.LETTER and rng.random() < 0.7:
                members = list(range(ord("a"), ord("z")))
            letters.append(chr(rng.choice(members)))
        return "".join(letters)

    texts = []
    for _ in range(count):
        alphabet, block = rng.choice(list(alphabets)), rng.randrange(0x900, 0xE00, 0x80)
        joint = rng.choice([" "] * 10 + ["  "])
        texts.append(joint.join(word(alphabet, block) for _ in range(rng.randint(1, rng.choice([2, 8, 30])))))
    return texts


@pytest.mark.parametrize(
    "size",
    [
        (32, 16),
        *(pytest.param(size, marks=pytest.mark.slow) for size in (224, (48, 64), (64, 40), (96, 336))),
    ],
)
def test_quick_route_equals_skia(size):
    rng = random.Random(str(size))
    quick, skia = ParagraphRenderer(size), SkiaOnly(size)
    shares = []
    draw = quick._quick_path.draw

    def counting(*arguments):
        fit = draw(*arguments)
        shares.append((fit >= 0).mean())
        return fit

    quick._quick_path.draw = counting
    for _ in range(6):
        texts = random_texts(rng, 64)
        for _ in range(30):  # until all words are known
            quick(texts)
        pixels, report = quick.render(texts, patch_size=8)
        expected, expected_report = skia.render(texts, patch_size=8)
        for text, image, wanted in zip(texts, pixels, expected, strict=True):
            np.testing.assert_array_equal(image, wanted, err_msg=ascii(text))
        np.testing.assert_array_equal(report.inked, expected_report.inked)
    assert max(shares) > 0.1


@pytest.mark.slow
def test_captions_with_emoji_take_the_quick_route():
    try:
        texts = captions("emoji", 512)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    quick, skia = ParagraphRenderer((96, 336)), SkiaOnly((96, 336))
    for _ in range(12):
        pixels = quick(texts)
    np.testing.assert_array_equal(pixels, skia(texts))
    kept, _ = sanitize_all(texts, 448)
    code_point_C, length_B = code_points_of(kept)
    fit_B = quick._quick_path.draw(kept, code_point_C, length_B, pixels)
    assert (fit_B >= 0).mean() > 0.9


def test_signs_within_neighbouring_emoji_are_left_to_skia():
    """Skia looks for the font of neighbouring emoji together, so they depend on one another."""
    rower = "\U0001f6a3\U0001f3fc\u200d\u2642"
    texts = [rower, f"a {rower}", f"4\U0001f9fb{rower}", f"\U0001f94c{rower} \U0001f470\u200d\u2640"]
    quick = ParagraphRenderer(96)
    for _ in range(5):
        images = quick(texts)
    np.testing.assert_array_equal(images, SkiaOnly(96)(texts))


def test_other_fonts_and_sizes_equal_skia():
    texts = ["a cat, two cats", HINDI, ARABIC, "猫が好き 猫"]
    for options in ({"font_size": 12}, {"font_size": 32, "line_height": 32}, {"line_height": 24}):
        np.testing.assert_array_equal(
            ParagraphRenderer(224, **options)(texts), SkiaOnly(224, **options)(texts)
        )


@pytest.mark.slow
def test_cache_is_bounded(monkeypatch):
    monkeypatch.setattr("clippo.renderer.quick_path.CACHE_BYTES", 20_000)
    render, rng = ParagraphRenderer(224), random.Random(0)
    largest = 0
    for _ in range(20):
        render(random_texts(rng, 64))
        largest = max(largest, render._quick_path._pool.nbytes)
    assert largest < 600_000  # a block more than the bound


def test_words_that_are_no_unit_are_forgotten_too(monkeypatch):
    monkeypatch.setattr("clippo.renderer.quick_path.CACHE_WORDS", 100)
    render, rng = ParagraphRenderer(32), random.Random(0)
    for _ in range(10):
        render(["ש" + "".join(rng.choices("אבגדהוזח", k=9)) for _ in range(64)])  # wider than the image
    assert 0 < len(render._quick_path._unit_of_word) < 100 + 2 * 64


# -- the report


def test_report_counts_every_code_point_once(render):
    texts = ["cat", "", "a\x00b\u202e", "x" * 2000, "\ud800", ZALGO, "猫 cat", "\U000e1234\U0002ebf0", "\x00"]
    _, report = render.render(texts)
    np.testing.assert_array_equal(report.given, report.drawn + report.missing + report.unfit + report.removed)
    np.testing.assert_array_equal(report.given, list(map(len, texts)))
    assert report.drawn.tolist()[:3] == [3, 0, 2]
    assert report.removed.tolist()[:3] == [0, 0, 2]
    assert report.unfit[3] == 2000 - 14 * 28
    assert report.cleaned[4] == {"surrogates replaced": 1}
    assert report.removed[5] == 400 - MAX_MARKS
    assert report.missing[7] >= 1
    assert report.removed[8] == 1
    assert report.scripts[6] == {"Latn", "Hani"}
    assert report.scripts[1] == frozenset()


@pytest.mark.parametrize("text", ["word " * 200, THAI * 20, "猫" * 400, HINDI * 60, "a\n" * 40])
@pytest.mark.parametrize("renderer_type", [ParagraphRenderer, SkiaOnly])
def test_report_says_where_text_was_cut(text, renderer_type):
    render = renderer_type((32, 224))
    _, report = render.render([text])
    kept = text[: report.drawn[0]]
    tall = renderer_type((224, 224))
    np.testing.assert_array_equal(render([kept])[0], tall([text])[0, :32])
    assert report.unfit[0] == len(text) - len(kept)


def test_report_lists_inked_patches(render):
    pixels, report = render.render(["ab", "", "x\n\nx", HEBREW])
    expected = (pixels.reshape(4, 14, 16, 14, 16) != BACKGROUND).any(axis=(2, 4))
    np.testing.assert_array_equal(report.inked, expected)
    assert report.inked_rows[2].tolist() == [True, False, True] + [False] * 11
    assert report.inked.sum(axis=(1, 2)).tolist()[:3] == [1, 0, 2]
    with pytest.raises(ValueError, match="patch_size must divide"):
        render.render(["a"], patch_size=15)


def test_report_reads_as_a_line(render):
    _, report = render.render(["cat" * 400, "a\x00"])
    assert str(report) == (
        "2 strings, 1202 code points; 808 did not fit (in 1); 1 removed (in 1); scripts Latn"
    )


# -- text that does not fit


def test_overflow_error_names_the_string():
    render = ParagraphRenderer(64, overflow="error")
    render(["short"] * 70)
    with pytest.raises(TextOverflowError, match=r"texts\[69\]"):
        render(["short"] * 69 + ["long " * 40])
    with pytest.raises(TextOverflowError, match=r"texts\[1\] has 800 characters, more than max_chars=448"):
        render(["", " " * 800])
    with pytest.raises(TextOverflowError, match=r"texts\[1\] changes its script more than 127 times"):
        render(["", "aб" * 200])


def test_overflow_shrinks_as_little_as_it_must():
    render = ParagraphRenderer(64, overflow="shrink")
    texts = ["cat", "seven words that do not fit in here", "word " * 80]
    pixels, report = render.render(texts)
    np.testing.assert_array_equal(pixels[0], ParagraphRenderer(64)(texts[:1])[0])
    assert report.font_size[0] == 16
    assert 8 <= report.font_size[1] < 16
    assert report.unfit.tolist()[:2] == [0, 0]
    assert report.font_size[2] == 8
    assert report.unfit[2] > 0


@pytest.mark.parametrize(("font_size", "line_height"), [(24, 16), (16, 12), (20, 16)])
@pytest.mark.parametrize("text", ["ÂÂÂ", "word Â", "word word word"])
def test_lines_that_do_not_fit_leave_no_ink(font_size, line_height, text):
    """A font taller than its lines reaches into those above, but not from a line that is not drawn."""
    render = ParagraphRenderer(64, font_size=font_size, line_height=line_height)
    fitting = "\n".join(["xxx"] * (64 // line_height))
    images, report = render.render([fitting, f"{fitting}\n{text}"], patch_size=4)
    np.testing.assert_array_equal(images[1], images[0])
    np.testing.assert_array_equal(report.inked[1], report.inked[0])
    assert report.unfit.tolist() == [0, len(text) + 1]
    np.testing.assert_array_equal(render([f"{fitting}\n{text}"]), images[:1])


def test_free_rows_below_the_last_line_hold_its_descenders():
    tall, low = (ParagraphRenderer((height, 224), font_size=20) for height in (224, 24))
    image = tall(["gjpq"])[0]
    assert (image[16:24] != BACKGROUND).any()
    np.testing.assert_array_equal(low(["gjpq"])[0], image[:24])


def test_height_of_the_lines(render):
    texts = ["", "cat", "cat\ncat", "word " * 300]
    assert render.render(texts)[1].height.tolist() == [0, 14, 30, 222]
    tall = ParagraphRenderer((64, 224), font_size=20)  # its descenders lie below the line
    assert tall.render(["gjpq", "gjpq\n" * 9])[1].height.tolist() == [16, 64]


COUNTING = {"shaped": ParagraphRenderer, "by Skia alone": SkiaOnly, "unifont": UnifontRenderer}


@pytest.mark.parametrize("renderer_type", COUNTING.values(), ids=COUNTING)
def test_strings_that_do_not_fit_are_counted(renderer_type):
    renderer = renderer_type(64)
    before = renderer.num_cut
    renderer(["cat", "word " * 80, "", "a" * 5000, "नमस्ते " * 80, "\u202ecat"])
    assert renderer.num_cut - before == 3


# -- sanitising


@pytest.mark.parametrize(
    ("text", "clean", "done"),
    [
        ("plain", "plain", {}),
        ("a\x00b\x1b", "ab", {"controls removed": 2}),
        ("a\tb", "a b", {"tabs": 1}),
        ("a\r\nb\rc\u2028d\x85e", "a\nb\nc\nd\ne", {"line ends": 4}),
        ("\u202eabc\u202c\u2067", "abc", {"bidi controls removed": 3}),
        ("\ud800x\udfff", "\ufffdx\ufffd", {"surrogates replaced": 2}),
        (ZALGO, "e" + "\u0301" * 4, {"marks removed": 396}),
        ("e" + "\u0301\u200d" * 9, "e" + "\u0301\u200d" * 4, {"marks removed": 10}),
        ("a\u200fb\u200e", "a\u200fb\u200e", {}),
        ("\u2764\ufe0f 1\ufe0f\u20e3", "\u2764\ufe0f 1\ufe0f\u20e3", {}),
        ("☝🏽 👍🏽 ☝\ufe0f🏽", "☝🏽 👍🏽 ☝\ufe0f🏽", {}),
        ("a🏽 🏽👍🏽🏽", "a 👍🏽", {"skin tones removed": 3}),
        ("\ufe0fa \ufe0f\u0301\ufe0f", "a \u0301", {"variation selectors removed": 3}),
        ("x" * 40, "x" * 32, {"cut off": 8}),
        ("a б" * 64, "a б" * 64, {}),
        ("a, б" * 64 + "b!", "a, б" * 64, {"cut off": 2}),
        ("aб" * 200, "aб" * 64, {"cut off": 272}),
    ],
)
def test_sanitize(text, clean, done):
    assert sanitize(text, 32 if text[0] == "x" else 10_000) == (clean, done)
    # Also behind other strings, with which it is looked at together.
    code_points = np.frombuffer(f"abc{text}".encode("utf-32-le", "surrogatepass"), "<u4")
    if not needs_sanitizing(code_points, np.array([3, 0, len(text)])).any():
        assert not done.keys() - {"cut off"}
    assert sanitize(clean, 10_000) == (clean, {})


def test_overrides_do_not_change_what_is_read(render):
    np.testing.assert_array_equal(render(["\u202euser\u202c"]), render(["user"]))


def test_megabytes_take_no_longer_than_what_is_kept(render):
    text = "a\u0301" * 5_000_000
    start = time.perf_counter()
    render([text])
    assert time.perf_counter() - start < 1  # laying all of it out takes hours


def test_text_that_skia_crashes_on(render):
    for invisible in ("\ufeff", "\u2060"):
        for mark in ("\u0301", "\u094d"):
            render([f"\n\n{mark}{invisible}\ufe0f{mark}\U0001f3fd"] * 50)
    render(["\u200c\n \ufeff\u0e33\U0001f3fd"] * 50)


hostile_text = st.text(st.characters(codec=None, exclude_categories=()), max_size=300) | st.text(
    st.sampled_from("e\u0301\u0489\u202e\u2067\u200d\U0001f469\ufe0f\u0e33 \n\tاक्ष한가\x00\ud83d"),
    max_size=300,
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(hostile_text, max_size=4))
def test_any_text_is_drawn_the_same_way_twice(texts):
    fresh, used = (
        ParagraphRenderer(64),
        test_any_text_is_drawn_the_same_way_twice.__dict__.setdefault("used", ParagraphRenderer(64)),
    )
    pixels, report = used.render(texts)
    np.testing.assert_array_equal(pixels, fresh(texts))
    np.testing.assert_array_equal(report.given, report.drawn + report.missing + report.unfit + report.removed)


# -- configuration


def digest_in_other_process(configuration: bytes, texts: list[str]) -> str:
    return hashlib.sha256(pickle.loads(configuration)(texts).tobytes()).hexdigest()  # noqa: S301 - our own


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_same_bits_in_another_process(render, method):
    texts = [*random_texts(random.Random(1), 40), HINDI, ARABIC, THAI, "👩‍🚀"]
    with multiprocessing.get_context(method).Pool(1) as pool:
        found = pool.apply(digest_in_other_process, (pickle.dumps(render), texts))
    assert found == hashlib.sha256(render(texts).tobytes()).hexdigest()


def test_fingerprint_tells_fonts_of_one_name(tmp_path):
    fonts = []
    for i, name in enumerate(UNIFONT):
        (tmp_path / str(i)).mkdir()
        fonts.append(tmp_path / str(i) / "Regular.otf")
        fonts[-1].write_bytes(find_font(name, package="fonts-unifont").read_bytes())
    both, second = ParagraphRenderer(64, fonts=fonts), ParagraphRenderer(64, fonts=fonts[1:])
    assert len(both.description["fonts"]) == 2
    assert both.fingerprint != second.fingerprint


@pytest.mark.parametrize(
    "renderer", [ParagraphRenderer(64), pytest.param(UnifontRenderer(64), marks=pytest.mark.slow)]
)
def test_threads_take_turns(renderer):
    rng = random.Random(0)
    batches = [random_texts(rng, 16) for _ in range(8)]
    expected = [type(renderer)(64, **vars(renderer.config))(batch) for batch in batches]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(renderer, batches))
    finally:
        sys.setswitchinterval(interval)
    for ours, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, wanted)


def test_system_fonts_are_never_used(tmp_path):
    latin = find_font("unifont_upper.otf", package="fonts-unifont")
    render = ParagraphRenderer(64, fonts=(latin,))
    _, report = render.render(["猫"])
    assert report.missing.tolist() == [1]  # although the system has a font with it


def test_fonts_are_used_in_order_even_with_one_family_name(tmp_path):
    copy = tmp_path / "copy.otf"
    copy.symlink_to(find_font("unifont.otf", package="fonts-unifont"))
    both = ParagraphRenderer(64, fonts=(copy, *UNIFONT))
    np.testing.assert_array_equal(both(["abc 猫"]), ParagraphRenderer(64)(["abc 猫"]))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"size": 15}, ValueError, "size must hold a line"),
        ({"size": (64, 64, 3)}, ValueError, "size must be one integer or two"),
        ({"size": "64"}, TypeError, "size must be an integer"),
        ({"size": 40_000}, ValueError, "size must be from 1 to 32767"),
        ({"font_size": 0}, ValueError, "font_size must be from 1"),
        ({"line_height": 2.5}, TypeError, "line_height must be an integer"),
        ({"max_chars": 0}, ValueError, "max_chars must be at least 1"),
        ({"ink": 256}, ValueError, "ink must be from 0 to 255"),
        ({"background": -1}, ValueError, "background must be from 0 to 255"),
        ({"overflow": "wrap"}, ValueError, "overflow must be one of clip, shrink, error"),
        ({"fonts": "unifont.otf"}, TypeError, "fonts must be a sequence"),
        ({"fonts": ()}, TypeError, "fonts must be a sequence"),
        ({"fonts": 5}, TypeError, "fonts must be a sequence of file names, not 5"),
        ({"fonts": ("unifont.otf", b"a.otf")}, TypeError, r"fonts\[1\] must be a path, not b'a.otf'"),
        ({"fonts": ("no such.otf",)}, FontNotFoundError, "no such.otf"),
        ({"fonts": (Path(__file__),)}, OSError, "is not a font"),
    ],
)
def test_bad_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        ParagraphRenderer(**({"size": 64} | options))


@pytest.mark.parametrize("texts", ["one string", b"bytes", 5, {"a"}, ["a", None], [b"a"]])
def test_bad_texts_are_named(render, texts):
    with pytest.raises(TypeError, match="texts"):
        render(texts)


def test_fingerprint_tells_options_and_fonts(render):
    assert render.fingerprint == pickle.loads(pickle.dumps(render)).fingerprint  # noqa: S301 - our own
    assert render.fingerprint != ParagraphRenderer(224, overflow="shrink").fingerprint
    assert render.fingerprint != ParagraphRenderer(224, fonts=UNIFONT[:1]).fingerprint
    assert render.fingerprint != ParagraphRenderer(224, fonts=UNIFONT[::-1]).fingerprint
    assert render.description["icu"].isdecimal()
