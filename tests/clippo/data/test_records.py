import dataclasses
import pickle

import numpy as np
import pytest

from clippo.data import records as module
from clippo.data.folder import FolderConfig
from clippo.data.records import FilesSource, RecordsBuilder, Strings, held_out
from clippo.errors import UserError
from tests.clippo.data.conftest import write_folder

TEXTS = ["", "a", "猫", "x\ud800y", "\n"]


def test_strings():
    strings = Strings(TEXTS)
    assert list(strings) == TEXTS
    assert strings[1:3] == TEXTS[1:3]
    assert list(pickle.loads(pickle.dumps(strings))) == TEXTS  # noqa: S301 - our own
    with pytest.raises(IndexError):
        strings[5]
    assert len(Strings([])) == 0


def test_an_example_has_the_first_name_that_is_free():
    builder = RecordsBuilder(min_chars=2)
    assert builder.add(("a", "a.png"), [("a cat", "en"), ("3", "")])
    assert builder.add(("a", "a.jpg"), [("a  dog\n", "")], labels=["dogs", "", "big  dogs"])
    assert not builder.add(("b",), [("IMG_1", ""), ("2", "")])
    with pytest.raises(UserError, match=r"two examples have the name a\.jpg"):
        builder.add(("a", "a.jpg"), [("a cow", "")])
    records = builder.build()
    assert list(records.keys) == ["a", "a.jpg"]
    assert [text.text for text in records.texts_of(1)] == ["a dog"]
    assert records.texts_of(0)[0].language == "en"
    assert list(records.labels) == ["", "dogs\nbig dogs"]
    assert records.left_out == {"too short": 2, "the name of a file": 1}
    assert records.num_bare == 1


def test_a_part_is_held_out_by_key():
    keys = [f"picture {i}" for i in range(4000)]
    out = held_out(Strings(keys), 0.1)
    assert abs(out.mean() - 0.1) < 0.02
    more = held_out(Strings([*reversed(keys), "another"]), 0.1)
    assert np.array_equal(more[:4000][::-1], out)
    assert not held_out(Strings(keys), 0.0).any()


def test_no_more_is_held_out_than_fits(monkeypatch):
    monkeypatch.setattr(module, "MAX_HELD_OUT", 50)
    assert held_out(Strings(map(str, range(4000))), 0.1).sum() == 50


def test_parts(layouts, files):
    config = FolderConfig(path=layouts["folder"].removeprefix("folder:"), held_out=0.3)
    parts = {split: config.build(split) for split in ("train", "held_out", "all")}
    keys = {split: [part[i].key for i in range(len(part))] for split, part in parts.items()}
    assert sorted(keys["train"] + keys["held_out"]) == keys["all"]
    assert 1 < len(keys["held_out"]) < 14
    prints = {part.fingerprint for part in parts.values()}
    assert len(prints) == 3
    assert dataclasses.replace(config, min_chars=3).build("all").fingerprint == parts["all"].fingerprint


def test_the_fingerprint_follows_keys_texts_and_pictures(files, tmp_path):
    write_folder(tmp_path, files)

    def fingerprint():
        records, images = FolderConfig(path=str(tmp_path)).open()
        return FilesSource(records, images, np.arange(len(records))).fingerprint

    seen = [fingerprint()]
    name = next(iter(files))
    (tmp_path / name).write_bytes(b"another picture")
    seen.append(fingerprint())
    (tmp_path / name).with_suffix(".txt").write_text("another text")
    seen.append(fingerprint())
    (tmp_path / name).rename(tmp_path / "a/99.png")
    (tmp_path / name).with_suffix(".txt").rename(tmp_path / "a/99.txt")
    seen.append(fingerprint())
    assert len(set(seen)) == 4
    (tmp_path / "a/99.png").chmod(0)
    fingerprint()  # a picture that cannot be read does not stop it


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": ""}, "folder needs a path: folder:PATH"),
        ({"held_out": 1.0}, "held_out must be from 0 to below 1, got 1.0"),
        ({"min_chars": 0}, "min_chars must be at least 1, got 0"),
    ],
)
def test_values_out_of_range(change, message):
    with pytest.raises(UserError, match=message):
        FolderConfig(**({"path": "a"} | change))
