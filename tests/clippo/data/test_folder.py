import json
import os

import pytest

from clippo.data.base import BrokenExampleError
from clippo.data.folder import FolderConfig
from clippo.errors import UserError


def texts_of(root) -> dict[str, list[tuple[str, str | None]]]:
    source = FolderConfig(path=str(root)).build("all")
    examples = (source[index] for index in range(len(source)))
    return {example.key: [(text.text, text.language) for text in example.texts] for example in examples}


def test_files_beside_pictures(tmp_path):
    for name in ("a.JPG", "b.png", "c/d.webp", "e.gif", ".hidden/f.png", ".g.png", "h.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a.txt").write_text("a cat\na black cat\n")
    (tmp_path / "b.caption").write_text("a dog")
    (tmp_path / "c/d.json").write_text(json.dumps({"captions": {"en": "a cow", "de": ["eine Kuh"]}}))
    (tmp_path / "e.txt").write_text("")
    (tmp_path / ".hidden/f.txt").write_text("a secret")
    assert texts_of(tmp_path) == {
        "a": [("a cat", None), ("a black cat", None)],
        "b": [("a dog", None)],
        "c/d": [("a cow", "en"), ("eine Kuh", "de")],
    }
    assert FolderConfig(path=str(tmp_path)).build("all").records.num_bare == 2  # e and h


def test_folders_are_classes_where_no_picture_has_a_text(tmp_path):
    for name in ("golden_retriever/1.jpg", "tabby/1.jpg", "birds/blue-tit/1.jpg", "1.jpg", "7/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "readme.txt").write_text("not a caption")
    source = FolderConfig(path=str(tmp_path)).build("all")
    found = [(source[i].texts[0].text, source[i].labels) for i in range(len(source))]
    assert found == [
        ("7", ("7",)),
        ("blue tit", ("birds/blue-tit",)),
        ("golden retriever", ("golden_retriever",)),
        ("tabby", ("tabby",)),
    ]


def test_two_pictures_of_one_name_have_the_same_texts(tmp_path):
    for name in ("a.jpg", "a.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a.txt").write_text("a cat")
    assert texts_of(tmp_path) == {"a": [("a cat", None)], "a.png": [("a cat", None)]}


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere is not a folder"):
        texts_of(tmp_path / "nowhere")
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="holds no example with a text"):
        texts_of(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"a\.txt: text that is not UTF-8, at byte 3"):
        texts_of(tmp_path)
    (tmp_path / "a.txt").write_text("7")
    with pytest.raises(UserError, match="no example with a text: 1 texts: too short"):
        texts_of(tmp_path)


def test_a_picture_that_went_away_is_broken(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "a.txt").write_text("a cat")
    source = FolderConfig(path=str(tmp_path), held_out=0.0).build("all")
    os.remove(tmp_path / "a.jpg")
    with pytest.raises(BrokenExampleError, match=r"^a: .*a\.jpg: No such file"):
        source[0]
