"""Sentences of text files, JSON Lines and Parquet, and of the descriptions of packages."""

import gzip
import json

import pytest

from clippo.data.packages import PackagesConfig
from clippo.data.sentences import SentencesConfig, plain
from clippo.data.spec import source_config
from clippo.errors import UserError

DOCUMENTS = (
    "The first document is short. It has two sentences.",
    "Ein zweiter Text, z. B. auf Deutsch.\nEr hat auch Umlaute: äöü.\n\nUnd einen Absatz.",
    "A third document speaks of kernels. It says that they are fast. Nobody has measured them yet.",
)
PAIRS = [
    ("The first document is short.", "It has two sentences."),
    ("Ein zweiter Text, z. B. auf Deutsch.", "Er hat auch Umlaute: äöü."),
    ("Er hat auch Umlaute: äöü.", "Und einen Absatz."),
    ("A third document speaks of kernels.", "It says that they are fast."),
    ("It says that they are fast.", "Nobody has measured them yet."),
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def rows():
    """The fields of C4, and two of FineWeb."""
    languages = ("en", "de", "en")
    return [
        {
            "text": text,
            "timestamp": "2019-04-25T12:57:54Z",
            "url": f"https://a.b/{i}",
            "language": languages[i],
        }
        for i, text in enumerate(DOCUMENTS)
    ]


def write_texts(folder):
    folder.mkdir()
    for number, text in enumerate(DOCUMENTS):
        (folder / f"{number}.txt").write_text(text, encoding="utf-8-sig")
    return f"{folder}/*.txt"


def write_lines(file, pack=lambda content: content):
    content = "".join(json.dumps(row) + "\n" for row in rows())
    file.write_bytes(pack(content.encode()))
    return str(file)


def write_zst(file):
    pyarrow = pytest.importorskip("pyarrow")
    lines = write_lines(file.with_name("plain.jsonl"))
    with pyarrow.output_stream(str(file), compression="zstd") as out, open(lines, "rb") as content:
        out.write(content.read())
    return str(file)


def write_parquet(file):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows()), file, row_group_size=2)
    return str(file)


LAYOUTS = {
    "txt": lambda root: write_texts(root / "texts"),
    "jsonl": lambda root: write_lines(root / "c4.jsonl"),
    "json.gz": lambda root: write_lines(root / "c4-train.00000-of-01024.json.gz", gzip.compress),
    "jsonl.zst": lambda root: write_zst(root / "c4.jsonl.zst"),
    "parquet": lambda root: write_parquet(root / "000_00000.parquet"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layouts_hold_the_same_pairs(layout, tmp_path):
    # The files of texts do not say which language they are in; "z. B." ends no sentence of German alone.
    query = "?held_out=0" + "&language=de" * (layout == "txt")
    source = source_config(f"sentences:{LAYOUTS[layout](tmp_path)}{query}").build("train", image_size=64)
    found = [source[i] for i in range(len(source))]
    assert [tuple(text.text for text in example.texts) for example in found] == PAIRS
    if layout != "txt":
        assert [example.texts[0].language for example in found] == ["en", "de", "de", "en", "en"]


def test_a_folder_is_read_whole_and_anew_when_it_changes(tmp_path):
    write_texts(tmp_path / "texts")
    (tmp_path / "texts" / "inner").mkdir()
    (tmp_path / "texts" / "inner" / "4.md").write_text("# A heading of Markdown\n\nAnd *one* sentence.")
    (tmp_path / "texts" / "no.pdf").write_bytes(b"%PDF")
    config = SentencesConfig(path=str(tmp_path / "texts"), held_out=0)
    before = config.build("all")
    assert len(before) == 6
    (tmp_path / "texts" / "0.txt").write_text("It is another text now. It has no old sentence.")
    after = config.build("all")
    assert after.fingerprint != before.fingerprint
    assert after[0].texts[0].text == "It is another text now."


def test_markdown_becomes_plain_text():
    markdown = """# Heading #

Some **bold** and *italic* text with `code`, a [link](https://a.b) and 2 * 3 * 4.

```python
def f(): pass
```
- an item
- another
1. numbered

> quoted text
![picture](a.png)

| a | b |
|---|---|
<!-- hidden -->
"""
    found = [" ".join(part.split()) for part in plain(markdown).split("\n\n") if part.strip()]
    assert found == [
        "Heading",
        "Some bold and italic text with code, a link and 2 * 3 * 4.",
        "an item",
        "another",
        "numbered",
        "quoted text",
    ]


def test_descriptions_of_packages(tmp_path):
    row = {
        "package": "libfoo-dev", "source": "foo", "section": "libs",
        "synopsis": {"en": "Foo for programmers", "de": "Foo für Programmierer"},
        "description": {
            "en": " Foo does what bar\n does not. It is fast.\n .\n Has:\n  * kernels\n  * a shape",
            "de": " Foo kann, was bar\n nicht kann.",
        },
    }  # fmt: skip
    (tmp_path / "packages.jsonl").write_text(json.dumps(row) + "\n")
    config = PackagesConfig(path=str(tmp_path / "packages.jsonl"), languages=(), held_out=0, min_chars=7)
    source = config.build("train")
    assert [tuple(text.text for text in source[i].texts) for i in range(len(source))] == [
        ("Foo for programmers", "Foo does what bar does not."),
        ("Foo does what bar does not.", "It is fast."),
        ("It is fast.", "kernels"),
        ("kernels", "a shape"),
        ("Foo für Programmierer", "Foo kann, was bar nicht kann."),
    ]
    with pytest.raises(UserError, match="`clippo data fetch texts` makes it"):
        PackagesConfig().build("train")
    (tmp_path / "packages.jsonl").write_text('{"source": "foo", "synopsis": {"en": "Foo"}}\n')
    with pytest.raises(UserError, match="line 1 must be JSON with source, and with synopsis"):
        PackagesConfig(path=str(tmp_path / "packages.jsonl")).build("train")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": 3}\n', r"line 2: the field 'text' must be a text, got '3'"),
        ("a.jsonl", b'{"text": "x"}\nnot json\n', "line 2 is not JSON"),
        ("a.jsonl", b"[1]\n", r"line 1 must be a JSON object, got '\[1\]"),
        ("a.jsonl", b"\xff\xfe\n", "cannot be read: 'utf-8' codec"),
        (
            "a.json.gz",
            gzip.compress(b'{"text": "x"}\n', mtime=0)[:-4],
            "cannot be read: Compressed file ended",
        ),
        ("a.JSON.GZ", gzip.compress(b"", mtime=0)[:10] + b"\xff" * 20, "cannot be read: Error -3"),
        ("a.PARQUET", b"no parquet", "a.PARQUET"),
        ("a.txt", b"\xff\xfe", "is not UTF-8 text"),
        ("a.doc", b"", r"must end in one of \.txt"),
    ],
)
def test_files_of_no_kind(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        SentencesConfig(path=str(tmp_path / name)).build("train")
    with pytest.raises(UserError, match="needs a path"):
        SentencesConfig(path="").build("train")


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    text = "The first sentence is here. The second sentence is here."
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}) + "\n", encoding="utf-8-sig")
    source = SentencesConfig(path=str(tmp_path / "a.jsonl"), held_out=0).build("train")
    assert [one.text for one in source[0].texts] == [f"{s}." for s in text[:-1].split(". ")]


def test_a_column_that_is_not_there(tmp_path):
    file = write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="has the columns text, timestamp, url, language; got text 'body'"):
        SentencesConfig(path=file, text="body").build("train")
