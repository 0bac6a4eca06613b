import json

import pytest

from clippo.data.spec import source_config
from clippo.errors import UserError


def texts_of(spec) -> dict[str, list[tuple[str, str | None]]]:
    source = source_config(spec).build("all", image_size=0)
    examples = [source.records.keys[row] for row in range(len(source))]
    return {
        key: [(t.text, t.language) for t in source.records.texts_of(row)] for row, key in enumerate(examples)
    }


def test_rows_of_one_picture_are_one_example(tmp_path):
    table = tmp_path / "pairs.csv"
    table.write_text('filepath,title\na.jpg,a cat\n./b.jpg,"a dog, ""Rex"""\na.jpg,a black cat\n')
    assert texts_of(f"table:{table}") == {
        "a": [("a cat", None), ("a black cat", None)],
        "b": [('a dog, "Rex"', None)],
    }


def test_columns_and_languages(tmp_path):
    table = tmp_path / "pairs.tsv"
    table.write_text("id\tpath_of\ten\tde\n1\tx/a.jpg\ta cat\teine Katze\n")
    spec = f"table:{table}?image=path_of&text=en:en,de:de"
    assert texts_of(spec) == {"x/a": [("a cat", "en"), ("eine Katze", "de")]}
    lines = tmp_path / "pairs.jsonl"
    lines.write_text(json.dumps({"file_name": "a.jpg", "text": ["a cat", "a tom"]}) + "\n\n")
    assert texts_of(str(lines)) == {"a": [("a cat", None), ("a tom", None)]}


def test_labels_stand_in_for_texts(tmp_path):
    table = tmp_path / "classes.csv"
    table.write_text("path,cls\na.jpg,tabby_cat\nb.jpg,3\na.jpg,dog\nc.jpg,\n")
    assert texts_of(str(table)) == {"a": [("tabby cat", None), ("dog", None)], "b": [("3", None)]}
    source = source_config(str(table)).build("all", image_size=0)
    assert [source.described(row).labels for row in range(2)] == [("tabby_cat", "dog"), ("3",)]
    lines = tmp_path / "pairs.jsonl"
    rows = [{"path": "a.jpg", "text": "a cat", "kind": [7, "x"]}, {"path": "b.jpg", "text": "", "kind": -1}]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = source_config(f"table:{lines}?label=kind").build("all", image_size=0)
    assert len(source) == 1
    assert source.described(0).labels == ("7", "x")
    assert source.described(0).texts[0].text == "a cat"


@pytest.mark.parametrize(
    ("content", "query", "message"),
    [
        (
            "filepath,class\na.jpg,b\n",
            "?label=x",
            r"no column 'x'; its columns are filepath, class: set label=",
        ),
        ("a,b\n1,2\n", "", r"has no column filepath, .* or path; its columns are a, b: set image="),
        ("filepath,b\n1,2\n", "", r"no column title, .* or texts; its columns are filepath, b: set text="),
        ("filepath,title\n1,2\n", "?image=x", r"has no column 'x'; its columns are filepath, title"),
        ('filepath,title\na.jpg,"a "cat"\n', "", r"pairs\.csv, line 2: ',' expected after '\"'"),
        ('filepath,title\na.jpg,"a cat\n', "", r"pairs\.csv, line 2: unexpected end of data"),
        ("filepath,title\na.jpg\n", "", r"line 2: a row must have 2 fields, as the first line has"),
        ("filepath,title\na.jpg,b,c\n", "", r"line 2: a row must have 2 fields"),
        ("filepath,title\n../a.jpg,a cat\n", "", r"line 2: the picture \.\./a\.jpg is not in "),
        ("filepath,title\n/etc/passwd,a cat\n", "", r"line 2: the picture /etc/passwd is not in "),
        (
            "filepath,title\nhttps://x.y/a.jpg,a cat\n",
            "",
            r"line 2: the picture https://x\.y/a\.jpg is on the web",
        ),
        ("filepath,title\n,a cat\n", "", r"line 2: the path of a picture must be a string, got ''"),
        ("", "", "holds no example with a text"),
    ],
)
def test_broken_tables_name_the_line(tmp_path, content, query, message):
    table = tmp_path / "pairs.csv"
    table.write_text(content)
    with pytest.raises(UserError, match=message):
        texts_of(f"table:{table}{query}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"file_name": "a.jpg", "text": "a"}\n{"file_name": "a.jpg"', r"pairs\.jsonl, line 2: Expecting"),
        (b"[1]\n", "line 1: a line must hold a JSON object"),
        (b'{"file_name": "a.jpg", "text": 3}', r"line 1: a text must be a string.*; got '3'"),
        (b'{"file_name": "a.jpg", "label": {}}', r"line 1: a label must be a string.*; got '\{\}'"),
        (b'{"file_name": 3, "text": "a cat"}', r"line 1: the path of a picture must be a string, got 3"),
        (b'{"file_name": "a.jpg", "text": "caf\xe9"}', "text that is not UTF-8"),
    ],
)
def test_broken_lines_name_the_line(tmp_path, content, message):
    table = tmp_path / "pairs.jsonl"
    table.write_bytes(content)
    with pytest.raises(UserError, match=message):
        texts_of(f"table:{table}")


def test_what_is_no_table(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none\.csv: No such file"):
        texts_of(f"table:{tmp_path}/none.csv")
    with pytest.raises(UserError, match=r"x\.txt must be a \.csv, \.tsv or \.jsonl file"):
        texts_of(f"table:{tmp_path}/x.txt")
