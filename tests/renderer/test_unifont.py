"""The CLIPPO renderer: against the published one's output, and against its layout rules spelled out."""

import copy
import json
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from clippo.renderer import AlignedRenderer, UnifontRenderer, find_font
from clippo.renderer.glyphs import UnifontFiles, unifont_glyphs, unifont_table

REFERENCE_OPTIONS = {
    "mono": {"monospace": True},
    "sp2mw6": {"spacing": 2, "min_width": 6},
    "mc20": {"max_chars": 20},
    "nolower": {"lower": False},
    "bw": {"ink": 0, "background": 255},
    "wb": {"ink": 255, "background": 0},
    "fs24": {"font_size": 24},
    "fs8": {"font_size": 8},
}
REFERENCE_TEXTS = [
    *("ascii", "prompt", "punct", "long", "unicode", "wide"),
    *("combining", "astral", "onechar", "spaces", "q_a"),
]
REFERENCE_CASES = [
    *(f"{text}__{size}" for size in (224, 384) for text in REFERENCE_TEXTS),
    *(f"{text}__224__{option}" for option in REFERENCE_OPTIONS for text in ("ascii", "long", "unicode")),
    "empty__224",
]

# Ranges of code points that random strings are drawn from.
SCRIPTS = {
    "ascii": (0x20, 0x7F),
    "control": (0x00, 0x20),
    "latin": (0xA0, 0x250),
    "combining": (0x300, 0x370),
    "cyrillic": (0x400, 0x530),
    "hebrew": (0x591, 0x5F5),
    "arabic": (0x600, 0x700),
    "devanagari": (0x900, 0x980),
    "thai": (0xE01, 0xE5C),
    "cjk": (0x4E00, 0x9FA6),
    "hangul": (0xAC00, 0xD7A4),
    "surrogate": (0xD800, 0xE000),
    "private": (0xE000, 0xF900),
    "cuneiform": (0x12000, 0x12400),
    "emoji": (0x1F300, 0x1F650),
    "beyond": (0xE0000, 0x110000),
}


def random_text(rng: np.random.Generator, max_length: int) -> str:
    ranges = rng.choice(list(SCRIPTS.values()), size=rng.choice([1, 3]))
    return "".join(chr(rng.integers(*rng.choice(ranges))) for _ in range(rng.integers(max_length + 1)))


class SlowRenderer:
    """The published layout, one character at a time. Glyph bitmaps come from unifont.hex in plane 0."""

    def __init__(self):
        self.higher_planes = UnifontFiles()
        self.hex = {}
        for line in find_font("unifont.hex", package="unifont").read_text().splitlines():
            code_point, digits = line.split(":")
            self.hex[int(code_point, 16)] = digits

    def cell(self, code_point: int) -> np.ndarray:
        """(16, 16) uint8, 1 = ink."""
        if code_point >= 0x10000:
            return self.higher_planes.bitmaps(np.array([code_point]))[0]
        cell = np.zeros((16, 16), np.uint8)
        digits = self.hex.get(code_point, "")
        per_row = len(digits) // 16
        for y in range(16 if digits else 0):
            row = digits[per_row * y : per_row * (y + 1)]
            cell[y, : 4 * per_row] = [int(bit) for bit in f"{int(row, 16):0{4 * per_row}b}"]
        return cell

    def glyph(self, character: str, lower: bool, monospace: bool, spacing: int, min_width: int) -> np.ndarray:
        """(16, width) uint8, 1 = ink."""
        cell = self.cell(ord(character.lower() if lower and character.isascii() else character))
        if monospace:
            return cell
        inked_columns = [x for x in range(16) if cell[:, x].any()] or [0]
        left = max(inked_columns[0] - spacing, 0)
        right = max(inked_columns[-1] + spacing, left + min_width)
        return cell[:, left:right]

    def __call__(
        self,
        text,
        size,
        max_chars=768,
        background=127,
        ink=0,
        lower=True,
        monospace=False,
        spacing=1,
        min_width=4,
    ):
        image = np.full((size, size), background, np.uint8)
        glyphs = [self.glyph(c, lower, monospace, spacing, min_width) for c in text[:max_chars]]
        room = size - max((glyph.shape[1] for glyph in glyphs), default=0)
        running_width = 0
        row_lengths: dict[int, int] = {}
        for glyph in glyphs:
            width = glyph.shape[1]
            running_width += width
            row = running_width // room
            x = row_lengths.get(row, 0)
            row_lengths[row] = x + width
            visible = image[16 * row : 16 * (row + 1), x : x + width]
            visible[glyph[: len(visible)] == 1] = ink
        return image


@pytest.fixture(scope="module")
def slow() -> SlowRenderer:
    return SlowRenderer()


@pytest.fixture(scope="module")
def render_64() -> UnifontRenderer:
    return UnifontRenderer(64)


# The published renderer


@pytest.mark.parametrize("case", REFERENCE_CASES)
def test_equals_published_renderer(reference_dir, case):
    expected_YXC = np.load(reference_dir / "renderer" / "render_ref.npz")[case]
    texts = json.loads((reference_dir / "renderer" / "texts.json").read_text()) | {"empty": ""}
    name, size, *option = case.split("__")
    render = UnifontRenderer(int(size), **(REFERENCE_OPTIONS[option[0]] if option else {}))
    np.testing.assert_array_equal(render([texts[name]])[0][..., None].repeat(3, axis=-1), expected_YXC)


def test_reference_cases_are_complete(reference_dir):
    assert sorted(REFERENCE_CASES) == sorted(np.load(reference_dir / "renderer" / "render_ref.npz").files)


# The layout rules


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "options"),
    [
        (224, {}),
        (64, {}),
        (100, {}),  # the last row is cut
        (17, {}),  # the smallest: one and a sixteenth rows, and rows are skipped
        (72, {"monospace": True}),
        (72, {"spacing": 3, "min_width": 9, "max_chars": 11}),
        (72, {"spacing": 0, "min_width": 0}),  # blank glyphs have no width at all
        (64, {"lower": False, "ink": 200, "background": 3}),
    ],
)
def test_equals_layout_rules(slow, size, options):
    rng = np.random.default_rng(size)
    texts = [random_text(rng, 2 * size // 5) for _ in range(150)]
    images = UnifontRenderer(size, **options)(texts)
    for text, image in zip(texts, images, strict=True):
        np.testing.assert_array_equal(image, slow(text, size, **options), err_msg=ascii(text))


@pytest.mark.slow
def test_every_glyph_of_plane_0_equals_the_hex_file(slow):
    code_points = np.array(sorted(slow.hex))
    bitmaps = UnifontFiles().bitmaps(code_points)
    digits_per_glyph = np.array([len(slow.hex[c]) for c in code_points])
    for digits in (32, 64):
        of_this_width = digits_per_glyph == digits
        packed = bytes.fromhex("".join(slow.hex[c] for c in code_points[of_this_width]))
        expected = np.unpackbits(np.frombuffer(packed, np.uint8).reshape(-1, 16, digits // 32), axis=2)
        np.testing.assert_array_equal(bitmaps[of_this_width, :, : digits // 4], expected)
        assert not bitmaps[of_this_width, :, digits // 4 :].any()


def assert_as_in_the_files(code_points: np.ndarray) -> None:
    table, files = unifont_glyphs(), UnifontFiles()
    np.testing.assert_array_equal(table.has_glyph(code_points), files.has_glyph(code_points))
    np.testing.assert_array_equal(table.bitmaps(code_points), files.bitmaps(code_points))
    for own, expected in zip(table.placement(code_points), files.placement(code_points), strict=True):
        np.testing.assert_array_equal(own, expected)
    assert table.fonts == files.fonts


def test_the_table_of_the_package_is_as_the_font_files():
    of_all_kinds = np.concatenate(
        [unifont_table().code_points[::100], np.arange(0x300, 0x320), [0, 0x378, 0x10FFFF]]
    )
    assert_as_in_the_files(np.random.default_rng(0).permutation(of_all_kinds))


@pytest.mark.long
def test_every_glyph_of_the_table_is_as_in_the_font_files():
    assert_as_in_the_files(np.arange(0x110000))


def test_no_font_file_is_needed(monkeypatch):
    monkeypatch.setattr("clippo.renderer.fonts.SYSTEM_FONT_FOLDERS", ())
    monkeypatch.delenv("CLIPPO_FONT_PATH", raising=False)
    for renderer in (UnifontRenderer, AlignedRenderer):
        assert (renderer(64)(["dog"]) != 127).any()


def test_marks_of_higher_planes_keep_their_ink():
    # Musical, Brahmi and SignWriting marks: drawn left of the origin, so lost if the shift were not undone.
    bitmaps = UnifontFiles().bitmaps(np.array([0x1D165, 0x11001, 0x1DA00]))
    assert bitmaps.any(axis=(1, 2)).all()


def test_combining_mark_takes_its_own_place(render_64):
    letter, mark, both = render_64(["e", "\u0301", "e\u0301"])
    assert (mark != 127).any()
    assert (both != 127).sum() == (letter != 127).sum() + (mark != 127).sum()


def test_only_ascii_is_lowered(render_64):
    np.testing.assert_array_equal(*render_64(["AZ @[`{", "az @[`{"]))
    for upper, lower in ("Éé", "Дд", "Ωω"):
        assert (np.diff(render_64([upper, lower]).astype(int), axis=0) != 0).any()


def test_unknown_characters_and_surrogates_are_gaps_like_spaces(render_64):
    expected = render_64(["a    b"])[0]
    for unknown in ("\ud83d", "\udfff", "\U0010ffff", "\U000e0fff"):
        np.testing.assert_array_equal(render_64([f"a{unknown * 4}b"])[0], expected)


def test_nul_is_drawn_as_a_box_and_ends_nothing(render_64):
    images = render_64(["\0", "", "\0a"])
    assert [(image != 127).any() for image in images] == [True, False, True]
    assert (images[2] != 127).sum() > (images[0] != 127).sum()


def test_empty(render_64):
    assert render_64([]).shape == (0, 64, 64)
    assert render_64([]).dtype == np.uint8
    assert (render_64(["", ""]) == 127).all()


def test_long_text_stays_in_its_own_image():
    render = UnifontRenderer(100, max_chars=10_000)
    images = render(["", "国" * 10_000, "", "x" * 10_000, ""])
    assert (images[::2] == 127).all()
    assert (images[1::2, 96:] != 127).any()  # the cut last row is drawn


def test_a_glyph_that_is_never_shown_still_sets_the_rows(render_64):
    # The published layout takes its widest glyph from the whole kept string: a trait to keep, not a fault.
    narrow, wide = render_64(["i" * 400, "i" * 400 + "国"])
    assert (narrow != wide).any()
    cut = UnifontRenderer(64, max_chars=400)(["i" * 400, "i" * 400 + "国"])
    np.testing.assert_array_equal(cut[0], cut[1])


@pytest.mark.parametrize("font_size", [5, 8, 12, 20, 24, 31, 48])
def test_other_font_sizes_stay_between_ink_and_background(font_size):
    images = UnifontRenderer(100, font_size=font_size, background=200, ink=50)(["Full block: █ 国", ""])
    assert images[0].min() == 50
    assert images[0].max() == 200
    assert (images[1] == 200).all()


# The batch interface


@pytest.mark.slow
def test_batch_equals_one_by_one(render_64):
    rng = np.random.default_rng(0)
    texts = [random_text(rng, 50) for _ in range(300)]
    together = render_64(texts)
    assert together.shape == (300, 64, 64)
    assert together.flags.c_contiguous
    cold = UnifontRenderer(64)
    np.testing.assert_array_equal(together, np.concatenate([cold([text]) for text in texts]))


def test_draws_into_out(render_64):
    shared = np.full((4, 64, 64), 99, np.uint8)
    out = shared[1:3]
    assert render_64(("one", "two"), out=out) is out
    np.testing.assert_array_equal(out, render_64(["one", "two"]))
    assert (shared[[0, 3]] == 99).all()


@pytest.mark.parametrize(
    ("out", "error"),
    [
        (np.empty((1, 64, 64), np.uint8), ValueError),
        (np.empty((2, 64, 64, 1), np.uint8), ValueError),
        (np.empty((2, 64, 128), np.uint8)[:, :, ::2], ValueError),
        (np.broadcast_to(np.uint8(0), (2, 64, 64)), ValueError),
        (np.empty((2, 64, 64), np.int8), TypeError),
        ([[0]], TypeError),
    ],
)
def test_out_is_checked(render_64, out, error):
    with pytest.raises(error, match=r"^out must be"):
        render_64(["one", "two"], out=out)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("abc", "not one str"),
        (b"abc", "not one bytes"),
        (None, "not NoneType"),
        (3, "not int"),
        (["a", None], r"texts\[1\] is NoneType"),
        (["a", b"b"], r"texts\[1\] is bytes"),
        ([["a"]], r"texts\[0\] is list"),
        ([1], r"texts\[0\] is int"),
    ],
)
def test_texts_are_checked(render_64, texts, message):
    with pytest.raises(TypeError, match=f"^texts must be a sequence of str.*{message}"):
        render_64(texts)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 16),
        ("size", -1),
        ("font_size", 0),
        ("max_chars", 0),
        ("background", 256),
        ("ink", -1),
        ("spacing", -1),
        ("min_width", -1),
    ],
)
def test_option_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .*{value}"):
        UnifontRenderer(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("size", 64.0), ("size", "64"), ("size", True), ("ink", None), ("lower", 1), ("monospace", "no")],
)
def test_option_of_wrong_type(name, value):
    with pytest.raises(TypeError, match=f"^{name} must be .*{value!r}"):
        UnifontRenderer(**{name: value})


def test_size_must_hold_a_glyph():
    UnifontRenderer(25, font_size=24)
    with pytest.raises(ValueError, match="size must be larger than font_size, 24 px, not 24 px"):
        UnifontRenderer(24, font_size=24)


def test_configuration_can_be_read_and_not_changed():
    render = UnifontRenderer(np.int64(48), ink=7, monospace=True)
    assert (render.size, render.font_size, render.ink, render.monospace) == (48, 16, 7, True)
    assert eval(repr(render)) == render  # noqa: S307
    assert render != UnifontRenderer(48)
    for name in ("size", "ink", "config"):
        with pytest.raises(AttributeError, match=f"{name} of a renderer cannot be changed"):
            setattr(render, name, 64)
    assert (render.size, render.ink, render.config.ink) == (48, 7, 7)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])  # noqa: S301
def test_copies_by_configuration(duplicate):
    render = UnifontRenderer(64, ink=30, spacing=2)
    expected = render(["before 国"])
    assert len(pickle.dumps(render)) < 1000  # the glyphs stay behind
    twin = duplicate(render)
    assert twin == render
    np.testing.assert_array_equal(twin(["before 国"]), expected)


def test_works_in_a_spawned_process(render_64):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        np.testing.assert_array_equal(pool.submit(render_64, ["worker"]).result(), render_64(["worker"]))


def test_copy_keeps_the_font_path(tmp_path):
    for name in ("unifont.otf", "unifont_upper.otf", "unifont.hex"):
        (tmp_path / name).symlink_to(find_font(name, package="unifont"))
    render = UnifontRenderer(64, font_path=tmp_path)
    twin = pickle.loads(pickle.dumps(render))  # noqa: S301
    assert twin.font_path == str(tmp_path)
    np.testing.assert_array_equal(twin(["e\u0301 😀"]), UnifontRenderer(64)(["e\u0301 😀"]))


def test_report():
    render = UnifontRenderer(64, max_chars=100)
    pixels, report = render.render(["a photo", "", "x" * 150, "\ud800 a", "\u202eab"])
    np.testing.assert_array_equal(pixels, render(["a photo", "", "x" * 150, "\ud800 a", "\u202eab"]))
    np.testing.assert_array_equal(report.given, report.drawn + report.missing + report.unfit)
    assert not report.removed.any()  # the published renderer does not sanitise
    assert report.drawn.tolist()[:2] == [7, 0]
    assert report.unfit[2] > 50
    assert report.missing[3] == 1
    assert report.scripts[0] == {"Latn"}
    assert report.inked_rows[0].tolist() == [True, False, False, False]


def test_fingerprint_tells_options_and_fonts():
    assert UnifontRenderer(64).fingerprint == UnifontRenderer(64).fingerprint
    assert UnifontRenderer(64).fingerprint != UnifontRenderer(64, spacing=2).fingerprint
    files = [font["file"] for font in UnifontRenderer(64).description["fonts"]]
    assert sorted(files) == ["unifont.hex", "unifont.otf", "unifont_upper.otf"]
