import gzip
import json
import os
import pickle
from pathlib import Path

import pytest

from clippo.data import webdataset as module
from clippo.data.base import BrokenExampleError
from clippo.data.spec import source_config
from clippo.data.webdataset import expanded
from clippo.errors import UserError
from tests.clippo.data.conftest import write_tar


def open_tars(pattern):
    return source_config(f"tars:{pattern}").open()


def texts_of(pattern) -> dict[str, list[tuple[str, str | None]]]:
    records, _ = open_tars(pattern)
    return {
        key: [(t.text, t.language) for t in records.texts_of(row)] for row, key in enumerate(records.keys)
    }


def test_members(tmp_path):
    write_tar(tmp_path / "0.tar", {
        "x/a.jpg": b"1", "x/a.txt": b"a cat\na tom", "x/a.json": b'{"caption": {"de": "eine Katze"}}',
        "b.left.png": b"22", "b.right.png": b"333", "b.txt": b"two views",
        "c.cls": b"golden_retriever\ndog", "c.webp": b"4444",
        "d.jpg": b"5", "e.txt": b"a text alone", "f.npy": b"6", "._a.jpg": b"7",
    })  # fmt: skip
    records, images = open_tars(tmp_path / "0.tar")
    assert texts_of(tmp_path / "0.tar") == {
        "x/a": [("a cat", None), ("a tom", None), ("eine Katze", "de")],
        "b.left": [("two views", None)],
        "b.right": [("two views", None)],
        "c": [("golden retriever", None), ("dog", None)],
    }
    assert [images.read(row) for row in range(4)] == [b"1", b"22", b"333", b"4444"]
    assert list(records.labels) == ["", "", "", "golden_retriever\ndog"]
    assert records.num_bare == 1
    copy = pickle.loads(pickle.dumps(images))  # noqa: S301 - our own
    assert copy.read(3) == b"4444"


@pytest.mark.parametrize("place", ["classnames.txt", "test/classnames.txt"])
def test_classes_of_clip_benchmark_are_numbers_of_lines(tmp_path, monkeypatch, place):
    (tmp_path / "test").mkdir()
    tar = {
        "s0.webp": b"1",
        "s0.cls": b"2",
        "s1.webp": b"2",
        "s1.cls": b"0",
        "s2.webp": b"3",
        "s2.cls": b"1\n2",
    }
    write_tar(tmp_path / "test" / "0.tar", tar)
    (tmp_path / place).write_text("tench\n7\ntiger cat\n")
    found = {
        "s0": [("tiger cat", None)], "s1": [("tench", None)], "s2": [("7", None), ("tiger cat", None)],
    }  # fmt: skip
    assert texts_of(tmp_path / "test") == found
    assert list(open_tars(tmp_path / "test")[0].labels) == ["2", "0", "1\n2"]
    monkeypatch.chdir(tmp_path / "test")
    assert texts_of("0.tar") == found
    (tmp_path / place).write_text("tench\n")
    with pytest.raises(
        UserError, match=r"0\.tar, s0: the class 2 has no line in classnames\.txt, which has 1"
    ):
        open_tars(tmp_path / "test" / "0.tar")
    (tmp_path / place).write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"classnames\.txt: text that is not UTF-8"):
        open_tars(tmp_path / "test" / "0.tar")


def test_names_that_come_in_several_tars(tmp_path):
    for number in range(2):
        write_tar(tmp_path / f"{number}.tar", {"0.jpg": b"x", "0.txt": f"number {number}".encode()})
    assert texts_of(tmp_path) == {"0": [("number 0", None)], "1/0": [("number 1", None)]}


def test_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a-000.tar", "a-001.tar", "a-002.tar", "b-000.tar", "c.txt"):
        Path(name).write_bytes(b"")
    assert expanded("a-{000..002}.tar", ".tar") == ["a-000.tar", "a-001.tar", "a-002.tar"]
    assert expanded("{a,b}-{000..000}.tar", ".tar") == ["a-000.tar", "b-000.tar"]
    assert expanded("a-*.tar", ".tar") == ["a-000.tar", "a-001.tar", "a-002.tar"]
    assert len(expanded(".", ".tar")) == 4
    with pytest.raises(UserError, match=r"no file matches z\*\.tar"):
        expanded("z*.tar", ".tar")
    with pytest.raises(UserError, match=r"there is no file a-003\.tar, which a-\{000\.\.009\}\.tar names"):
        expanded("a-{000..009}.tar", ".tar")
    with pytest.raises(UserError, match="names more than 1,048,576 files"):
        expanded("a-{0..99999999999}.tar", ".tar")


@pytest.mark.parametrize("kept", [700, 1536, 2000, 512 * 5])
def test_a_tar_that_is_cut_off_is_named(tmp_path, kept):
    tar = tmp_path / "0.tar"
    write_tar(tar, {"a.txt": b"a cat", "a.jpg": b"x" * 2000, "b.txt": b"a dog", "b.jpg": b"y" * 2000})
    tar.write_bytes(tar.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"0\.tar is (cut off|not a whole tar): "):
        open_tars(tar)


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(UserError, match=r"a\.tar\.gz is compressed, so that it cannot be read at random"):
        open_tars(tmp_path / "a.tar.gz")
    (tmp_path / "b.tar").write_bytes(gzip.compress(b"x" * 5000, 0)[:512])
    with pytest.raises(UserError, match=r"b\.tar is not a whole tar"):
        open_tars(tmp_path / "b.tar")
    write_tar(tmp_path / "c.tar", {"a.jpg": b"x", "a.json": b"{"})
    with pytest.raises(UserError, match=r"c\.tar, a\.json: Expecting property name"):
        open_tars(tmp_path / "c.tar")
    write_tar(tmp_path / "d.tar", {"a.jpg": b"x", "a.txt": b"caf\xe9"})
    with pytest.raises(UserError, match=r"d\.tar, a\.txt: text that is not UTF-8"):
        open_tars(tmp_path / "d.tar")


def test_the_index_is_kept_until_the_tar_changes(tmp_path, monkeypatch):
    tar = tmp_path / "0.tar"
    write_tar(tar, {"a.jpg": b"x", "a.txt": b"a cat"})
    assert list(texts_of(tar)) == ["a"]
    with monkeypatch.context() as context:
        context.setattr(module, "read_pictures", lambda tar: pytest.fail("the tar was read again"))
        assert list(texts_of(tar)) == ["a"]
    write_tar(tar, {"b.jpg": b"x", "b.txt": b"a dog"})
    os.utime(tar, ns=(1, 1))
    assert list(texts_of(tar)) == ["b"]
    [index] = (tmp_path / "cache/clippo/tars").iterdir()
    content = json.loads(index.read_text())
    for damaged in (
        "{",
        "[]",
        json.dumps(content | {"pictures": 3}),
        json.dumps(content | {"pictures": [[1]]}),
    ):
        index.write_text(damaged)
        assert list(texts_of(tar)) == ["b"]


def test_more_tars_than_a_process_may_open(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "OPEN_TARS", 2)
    for number in range(5):
        write_tar(tmp_path / f"{number}.tar", {f"{number}.jpg": bytes([number]), f"{number}.txt": b"a cat"})
    _, images = open_tars(tmp_path)
    for row in (0, 1, 2, 3, 4, 0, 3):
        assert images.read(row) == bytes([row])
    assert len(images._opened) == 2


def test_a_tar_that_became_shorter_or_went_away(tmp_path):
    tar = tmp_path / "0.tar"
    write_tar(tar, {"a.txt": b"a cat", "a.jpg": b"x" * 2000})
    _, images = open_tars(tar)
    os.truncate(tar, 2048)
    with pytest.raises(BrokenExampleError, match=r"0\.tar: the tar has become shorter"):
        images.read(0)
    _, images = pickle.loads(pickle.dumps((None, images)))  # noqa: S301 - our own
    tar.unlink()
    with pytest.raises(BrokenExampleError, match=r"0\.tar: No such file"):
        images.read(0)
