"""The study of patch-aligned text: its layouts, its texts and its tables."""

import numpy as np
import pytest

from clippo.bench.captions import CLDR
from clippo.bench.studies import aligned_text
from clippo.bench.studies.aligned_text import EDITS, ScriptsConfig, Variant, table, table_of_patches
from clippo.data.base import Text
from clippo.renderer import AlignedRenderer


def begins(render, text: str) -> list[int]:
    """The columns of cells, in the first row of text, that hold ink."""
    row = render([text])[0][:16]
    return np.flatnonzero((row != 127).reshape(16, -1, 8).any((0, 2))).tolist()


def test_layouts_that_differ_from_the_renderers():
    plain = AlignedRenderer(128)
    assert begins(plain, "ab cd") == [0, 1, 2, 3]
    assert begins(Variant(128, table="WideSpaces"), "ab cd") == [0, 1, 4, 5]
    assert begins(plain, "(a-b) c") == [0, 2, 3, 4, 5, 6]
    assert begins(Variant(128, table="WholeWords"), "(a-b) c") == [0, 1, 2, 3, 4, 6]
    moved = f"{aligned_text.BLANK}ab cd"
    assert begins(Variant(128, table="BlankLetters"), moved) == [1, 2, 4, 5]


def test_edits_of_texts():
    text = Text("señora en el avión", "es", 0.6)
    [one] = EDITS["without diacritics"](text)
    assert one == Text("senora en el avion", "es", 0.6)
    [one] = EDITS["mistyped"](text)
    assert one.text != text.text
    assert abs(len(one.text) - len(text.text)) <= 1
    assert [one] == EDITS["mistyped"](text)
    assert EDITS["mistyped"](Text("a b", "en", 1.0)) == [Text("a b", "en", 1.0)]
    moved = EDITS["moved"](text)
    assert len(moved) == 5
    assert {one.text.replace(aligned_text.BLANK, "") for one in moved} == {text.text}
    assert sum(one.weight for one in moved) == pytest.approx(0.6)
    [one] = EDITS["shortened"](Text("a " * 40, "en", 1.0))
    assert len(one.text) == 32  # as cells they take most room: 32 fit into 64 x 64 px


def test_tables_of_runs():
    recalls = {column: [90.0, 92.0] for column in aligned_text.COLUMNS}
    of_scripts = {column: [50.0] for column in aligned_text.SCRIPTS_COLUMNS}
    rows = [
        {"run": "word", "title": "words", "recalls": recalls}
        | {"asked": {"not mistyped": 97.0, "mistyped": 40.0}}
        | {"patches": {"a name": 10.51, "per 1,000 words": 251.7}},
        {
            "run": "scripts-word",
            "title": "words",
            "recalls": of_scripts,
        },
    ]
    assert table(rows).splitlines()[2:] == [f"| words |{' 91.0 (90.0-92.0) |' * 7}"]
    assert table(rows, of_scripts=True).splitlines()[2:] == [f"| words |{' 50.0 |' * 8}"]
    assert table_of_patches(rows).splitlines()[2:] == ["| words | 97.0 | 40.0 | 10.5 | 252 |"]


@pytest.mark.slow
def test_names_in_other_scripts():
    if not CLDR.is_dir():
        pytest.skip("apt-get install unicode-cldr-core")
    source = ScriptsConfig().build("all", image_size=32)
    assert 3000 < len(source) == len(source.weights) < 3476
    for index in (0, 1000):
        texts = {text.language: text for text in source[index].texts}
        assert set(texts) == {"en", "ar", "hi", "th"}
        assert sum(text.weight for text in source[index].texts) == pytest.approx(1.0)
        assert "\u0621" <= texts["ar"].text[-1] <= "\u06ff" or texts["ar"].text[-1].isascii()
