"""Files and folders that appear whole or not at all."""

import os

import pytest

from clippo import files
from clippo.errors import UserError
from clippo.files import atomic_path, read_lines, write_text


def test_a_file_is_replaced(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    write_text(tmp_path / "a.txt", "né")
    assert (tmp_path / "a.txt").read_bytes() == "né".encode()
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_appears_with_all_that_is_in_it(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(files, "flush_one", lambda path: flushed.append(path.name))
    with atomic_path(tmp_path / "folder") as path:
        (path / "deep").mkdir(parents=True)
        (path / "deep" / "file").write_text("x")
        assert not (tmp_path / "folder").exists()
    assert (tmp_path / "folder" / "deep" / "file").read_text() == "x"
    assert flushed == ["file", "deep", "unfinished-folder", tmp_path.name]  # the new name last


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_fails_leaves_what_was_there(tmp_path, is_folder):
    write_text(tmp_path / "a", "old")

    def fail() -> None:
        with atomic_path(tmp_path / "a") as path:
            if is_folder:
                path.mkdir()
                path = path / "b"
            path.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_what_a_killed_process_left_is_no_obstacle(tmp_path):
    (tmp_path / "unfinished-a").mkdir()
    write_text(tmp_path / "a", "new")
    assert os.listdir(tmp_path) == ["a"]


def test_lines_end_where_people_see_them_end(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_bytes("\ufeffa cat\r\na dog\u2028on a mat\n\na\x85bird\x0c".encode())
    assert read_lines(path) == ["a cat", "a dog\u2028on a mat", "", "a\x85bird\x0c"]
    path.write_bytes(b"")
    assert read_lines(path) == []
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match="captions.txt is not UTF-8 text"):
        read_lines(path)
