"""What the page draws is what the Python renderer draws, to the pixel."""

import json
from pathlib import Path

import emoji
import numpy as np
import pytest

from clippo.renderer import AlignedRenderer
from clippo.renderer.code_points import CODE_POINTS, scripts
from clippo.renderer.packed import PackedText
from clippo.web.glyphs import glyph_table

SENTENCES = Path(__file__).parents[3] / "docs" / "sentences.txt"
# What may stand between the letters of any script: punctuation, digits, spaces of several kinds, joiners,
# selectors, directional marks, marks, emoji, full-width forms, letters of some scripts, unassigned ones.
ANYWHERE = (
    " .,:;!?'\"()[]-_/&%@0123456789 \t\n\u00a0\u3000\u200b\u00ad\u200c\u200d\u200e\u2067\u2069\ufe0e\ufe0f"
    "\u0301\u0327\u20e3\U0001f3fd\U0001f9d1\U0001f680❤🇫🇷ＡＢ１，。AÉßİΣЖ漢か한\u0378\ud800\uffff\U0010ffff"
)
LARGE = "a" * 700 + "\u200b" * 60 + "é中" * 20  # cut by the number of code points, in a large image


@pytest.fixture(scope="session")
def drawn(node, page, tmp_path_factory):
    """Draw strings by the page's code, with the table of a renderer."""
    tables: dict[AlignedRenderer, Path] = {}

    def draw(renderer: AlignedRenderer, texts: list[str]) -> PackedText:
        folder = tmp_path_factory.mktemp("drawn")
        if renderer not in tables:
            tables[renderer] = folder / "glyphs.bin"
            tables[renderer].write_bytes(glyph_table(renderer))
        (folder / "texts.json").write_text(json.dumps(texts))
        node("draw.mjs", page, tables[renderer], folder / "texts.json", folder / "out")
        out = (folder / "out").read_bytes()
        lengths = np.frombuffer(out, np.int32, len(texts))
        T, end = int(lengths.sum()), 4 * len(texts)
        positions = np.frombuffer(out, np.int32, T, end)
        pixels = np.frombuffer(out, np.uint8, offset=end + 4 * T).reshape(-1, 16, 16)
        return PackedText(pixels, positions, np.append(0, np.cumsum(lengths)).astype(np.int32))

    return draw


def check(drawn: PackedText, texts: list[str], renderer: AlignedRenderer) -> None:
    expected = renderer.render_packed(texts)
    differs = np.diff(drawn.cu_seqlens) != np.diff(expected.cu_seqlens)
    assert not differs.any(), f"another number of patches: {texts[differs.argmax()]!a}"
    np.testing.assert_array_equal(drawn.positions, expected.positions)
    differs = (drawn.pixels != expected.pixels).any((1, 2))
    string = np.searchsorted(expected.cu_seqlens, differs.argmax(), "right") - 1
    assert not differs.any(), f"other pixels: {texts[string]!a}"


@pytest.mark.slow
def test_real_texts(drawn):
    """Sentences in 30 languages, and the names of emoji in 13, as CLDR has them."""
    sentences = [line for line in SENTENCES.read_text(encoding="utf-8").splitlines() if line]
    emoji.config.load_language()
    names = {
        name.strip(":").replace("_", " ")
        for entry in emoji.EMOJI_DATA.values()
        for key, name in entry.items()
        if isinstance(name, str) and key.isalpha()
    }
    texts = [
        "",
        "\u200d",
        *sentences,
        *(line[20:] for line in sentences),
        *emoji.EMOJI_DATA,
        *sorted(names)[::5],
    ]
    assert len(texts) > 10_000
    check(drawn(AlignedRenderer(64), texts), texts, AlignedRenderer(64))


@pytest.mark.slow
def test_random_texts_of_all_scripts(drawn):
    """10,000 strings: letters and marks of a script in any order, and what may stand between them."""
    random = np.random.default_rng(0)
    names, script_of = scripts()
    by_script = [np.flatnonzero(script_of == script) for script in range(1, len(names))]
    assert len(by_script) > 100
    between = np.array([ord(character) for character in ANYWHERE])
    texts = []
    for number in range(10_000):
        letters = random.choice(by_script[number % len(by_script)], 40)
        is_between = random.random(40) < random.choice([0.05, 0.3])
        text = np.where(is_between, random.choice(between, 40), letters)[: random.integers(1, 41)]
        texts.append("".join(map(chr, text)))
    check(drawn(AlignedRenderer(64), texts), texts, AlignedRenderer(64))


@pytest.mark.slow
def test_options(drawn):
    """Capital letters, other grey levels, and the cut of a text that would fit into the image."""
    renderer = AlignedRenderer(256, lower=False, background=255, ink=20)
    texts = ["A big DOG", "ÀÉ中ΣİẞǅA\u0301", LARGE]
    check(drawn(renderer, texts), texts, renderer)


@pytest.mark.long
def test_all_code_points(drawn):
    """Between letters, first in a text, over a full-width character, and after punctuation."""
    renderer = AlignedRenderer(256)
    all_of = [chr(code_point) for code_point in range(CODE_POINTS)]
    texts = [" ".join(f"a{c}b" for c in all_of[i : i + 64]) for i in range(0, CODE_POINTS, 64)]
    texts += [f"{c}中{c}({c}x {c}" for c in all_of[:0x3000]]
    texts = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
    check(drawn(renderer, texts), texts, renderer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"align": "cell"}, "has align='cell'"),
        ({"patch_size": 32}, "patch_size=16, and the renderer .* has align='word' and patch_size=32"),
        ({"ink": 127}, "must not be its background, 127"),
    ],
)
def test_what_cannot_be_drawn(options, message):
    with pytest.raises(ValueError, match=message):
        glyph_table(AlignedRenderer(64, **options))
