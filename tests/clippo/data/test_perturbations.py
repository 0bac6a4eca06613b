import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clippo.data.perturbations import LOOK_ALIKES, PERTURBATIONS, Perturbation
from clippo.errors import UserError
from clippo.renderer import UnifontRenderer

SENTENCES = Path(__file__).parents[3] / "docs" / "sentences.txt"


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """Sentences in many scripts."""
    return SENTENCES.read_text(encoding="utf-8").splitlines()


def num_letters(text):
    return sum(unicodedata.category(char)[0] == "L" for char in text)


@pytest.mark.parametrize(
    ("name", "text", "expected", "num_changed"),
    [
        ("swap", "abcd efg", "badc efg", 4),
        ("swap", "aabb", "abab", 2),
        ("swap", "पानीयम", "नीपामय", 4),  # signs move with their letters
        ("drop", "word, is", ", is", 4),
        ("double", "été x", "été x", 0),
        ("double", "étés", "ééttééss", 4),
        ("double", "e\u0301te\u0301s", "e\u0301e\u0301tte\u0301e\u0301ss", 4),
        ("neighbouring_key", "漢字漢字", "漢字漢字", 0),
        ("upper_case", "straße 7", "STRASSE 7", 6),
        ("upper_case", "А вот и Ёлка", "А ВОТ И ЁЛКА", 7),
        ("upper_case", "文字 אבג", "文字 אבג", 0),
        ("no_diacritics", "Việt Nam, Ökologie", "Viet Nam, Okologie", 2),
        ("no_diacritics", "ё e\u0301 ώ", "е e ω", 3),
        ("no_diacritics", "שָׁלוֹם", "שלום", 2),
        ("no_diacritics", "मैं がぎ 한국", "मैं がぎ 한국", 0),
        ("look_alikes", "сaj", "cај", 3),
        ("look_alikes", "a\u0301", "а\u0301", 1),
        ("leet", "Leet zoo", "1337 z00", 6),
        ("full_width", "a-Zé", "ａ-Ｚé", 2),
        ("typos", "a be see 1234567", "a be see 1234567", 0),
    ],
)
def test_all_letters_that_can_be_changed_are_at_a_rate_of_one(name, text, expected, num_changed):
    found = Perturbation(name, 1)(text, rng())
    assert found == (expected, num_changed, num_letters(text))


def test_a_neighbouring_key_touches_the_right_one_and_has_its_case():
    found = {Perturbation("neighbouring_key", 1)("GGGG", rng(seed)).text for seed in range(40)}
    assert set("".join(found)) == set("FHTYVB")
    found = {Perturbation("neighbouring_key", 1)("фффф", rng(seed)).text for seed in range(40)}
    assert set("".join(found)) == set("йцыя")


def test_typos_are_slips_of_all_kinds():
    found = {Perturbation("typos", 0.3)("word", rng(seed)).text for seed in range(300)}
    assert {"wrod", "wrd", "worrd", "eord", "word"} <= found


@pytest.mark.parametrize("name", PERTURBATIONS)
@pytest.mark.parametrize(
    "text", ["", " ", "\u0301", "\u0301abc", "\ud800 \udfff", "👩\u200d🚀", "7\ufe0f\u20e3"]
)
def test_texts_without_words_stay(name, text):
    found = Perturbation(name, 1)(text, rng())
    assert found.text[:1] == text[:1]
    if not num_letters(text):
        assert found == (text, 0, 0)


@pytest.mark.parametrize("name", PERTURBATIONS)
@given(text=st.text(st.characters(codec=None), max_size=30), rate=st.floats(0, 1))
def test_any_text_is_changed_by_as_many_letters_as_are_said(name, text, rate):
    found = Perturbation(name, rate)(text, rng())
    assert 0 <= found.num_changed <= found.num_letters == num_letters(text)
    if found.text != text:
        assert found.num_changed > 0
    if found.num_changed == 0:
        assert found.text == text
    assert Perturbation(name, 0)(text, rng()) == (text, 0, num_letters(text))


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_sentences_in_many_scripts(name, sentences):
    """What is no letter stays, in its order, and the number of letters changes as it must."""
    changes = 0
    for number, text in enumerate(sentences):
        found = Perturbation(name, 0.5)(text, rng(number))
        assert found == Perturbation(name, 0.5)(text, rng(number))
        changes += found.num_changed
        difference = num_letters(found.text) - num_letters(text)
        if name == "swap":
            assert sorted(found.text) == sorted(text)
        if name in ("drop", "double"):
            assert difference == {"drop": -1, "double": 1}[name] * found.num_changed
        if name in ("look_alikes", "full_width", "neighbouring_key"):
            assert difference == 0
            different = sum(a != b for a, b in zip(found.text, text, strict=True))
            assert different == found.num_changed
        if name != "leet":
            others = [[c for c in t if unicodedata.category(c)[0] not in "LM"] for t in (text, found.text)]
            assert others[0] == others[1]
    assert changes > 30


def test_the_rate_is_the_share_of_the_letters(sentences):
    for rate in (0.1, 0.5):
        counts = [Perturbation("look_alikes", rate)(text, rng(i)) for i, text in enumerate(sentences)]
        all_of_them = [Perturbation("look_alikes", 1)(text, rng()) for text in sentences]
        share = sum(one.num_changed for one in counts) / sum(one.num_changed for one in all_of_them)
        assert share == pytest.approx(rate, abs=0.02)


def test_a_higher_rate_hits_what_a_lower_one_does():
    text = "some of these letters are changed"
    by_rate = [Perturbation("leet", rate)(text, rng()).text for rate in (0.2, 0.5, 0.8)]
    hit = [{place for place, (a, b) in enumerate(zip(one, text, strict=True)) if a != b} for one in by_rate]
    assert hit[0] < hit[1] < hit[2]


def glyph(image, background):
    """The inked part of an image, as bools."""
    is_inked = image != background
    rows, columns = (np.flatnonzero(is_inked.any(axis)) for axis in (1, 0))
    return is_inked[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def test_look_alikes_have_the_same_pixels_in_unifont():
    """A few differ there by a serif or a curve, and not in most other fonts."""
    chars = "".join(LOOK_ALIKES)
    assert len(set(chars)) == len(chars)
    renderer = UnifontRenderer(32, lower=False)
    differing = []
    for row in LOOK_ALIKES:
        assert len({unicodedata.name(char).split()[0] for char in row}) == len(row)  # the scripts
        assert len({char.isupper() for char in row}) == 1
        first, *others = (glyph(image, renderer.background) for image in renderer(list(row)))
        differing += [row[0] for other in others if not np.array_equal(first, other)]
    assert "".join(differing) == "hlvydJKГПФ"


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ("typos", "a perturbation must be NAME=RATE, such as typos=0.1, got 'typos'"),
        ("typos=much", "a perturbation must be NAME=RATE, such as typos=0.1, got 'typos=much'"),
        ("typo=0.1", "a perturbation must be one of typos, swap, .*, got 'typo'"),
        ("swap=1.5", "the rate of swap must be from 0 to 1, got 1.5"),
        ("swap=nan", "the rate of swap must be from 0 to 1, got nan"),
    ],
)
def test_bad_specifications_are_refused(specification, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        Perturbation.of(specification)


def test_a_specification_is_read():
    assert Perturbation.of("upper_case=1") == Perturbation("upper_case", 1.0)
