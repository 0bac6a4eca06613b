"""An index follows its source: what changed is embedded, what moved is not, and a crash loses nothing."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clippo.data.records import open_once
from clippo.errors import UserError
from clippo.index import Entry, PictureIndex, build_index, remove_source
from clippo.index.build import Report
from clippo.index.store import IndexAbout, IndexWriter
from clippo.model import Clippo


@pytest.fixture
def index_file(tmp_path) -> Path:
    return tmp_path / "pics.idx"


def content(file: Path) -> dict[str, tuple[Entry, torch.Tensor, bytes]]:
    """All that an index holds, by key, without the ids, which depend on its history."""
    with closing(PictureIndex.open(file)) as index:
        rows = zip(index.ids, index.embeddings, strict=True)
        return {
            (entry := index.entry(id)).key: (
                (vars(entry) | {"id": 0}),
                z.tolist(),
                index.thumbnail(id),
            )
            for id, z in rows
        }


def counts(report: Report) -> dict[str, int]:
    """The counts that are not zero."""
    return {name: value for name, value in vars(report).items() if isinstance(value, int) and value}


def test_only_what_changed_is_embedded(model, photos, index_file, draw):
    first = build_index(model, str(photos), index_file)
    assert counts(first) == {"embedded": 10, "new": 10, "total": 10}
    assert counts(build_index(model, str(photos), index_file)) == {"total": 10}

    (photos / "trip").rename(photos / "journey")  # 5 pictures
    (photos / "0.png").unlink()
    shutil.copy(photos / "4.png", photos / "2.png")  # another content that is known
    draw(photos / "new.png")
    os.utime(photos / "6.png")
    shutil.copy(photos / "8.png", photos / "copy.png")
    report = build_index(model, str(photos), index_file)
    assert counts(report) == {
        "embedded": 1, "new": 2, "changed": 1, "moved": 5, "deleted": 1, "total": 11,
    }  # fmt: skip
    fresh = index_file.with_name("fresh.idx")
    build_index(model, str(photos), fresh)
    assert content(index_file).keys() == content(fresh).keys()
    for key, (entry, z, thumbnail) in content(fresh).items():
        assert content(index_file)[key][0] == entry
        np.testing.assert_allclose(content(index_file)[key][1], z, atol=2e-3)
        assert content(index_file)[key][2] == thumbnail


def test_pictures_that_exchange_their_names_keep_their_embeddings(model, photos, index_file):
    build_index(model, str(photos), index_file)
    before = content(index_file)
    for old, new in (("0.png", "x.png"), ("2.png", "0.png"), ("x.png", "2.png")):
        (photos / old).rename(photos / new)
    assert build_index(model, str(photos), index_file).changed == 2
    after = content(index_file)
    assert after["0.png"][2] == before["2.png"][2]
    assert after["2.png"][2] == before["0.png"][2]
    np.testing.assert_allclose(after["0.png"][1], before["2.png"][1], atol=2e-3)


def test_broken_files_are_listed_and_tried_again_when_they_change(model, photos, index_file, monkeypatch):
    whole = (photos / "0.png").read_bytes()
    (photos / "0.png").write_bytes(whole[:-40])
    (photos / "note.jpg").write_text("no picture")
    (photos / "link.png").symlink_to("nowhere.png")
    report = build_index(model, str(photos), index_file)
    assert [broken.key for broken in report.broken] == ["0.png", "note.jpg"]
    assert "not a picture in JPEG, PNG" in report.broken[1].reason
    assert report.total == 9
    monkeypatch.setattr("clippo.index.build.read_file", lambda file: pytest.fail(f"{file} is read"))
    assert len(build_index(model, str(photos), index_file).broken) == 2
    monkeypatch.undo()
    (photos / "0.png").write_bytes(whole)
    (photos / "note.jpg").unlink()
    (photos / "2.png").write_bytes(b"")
    report = build_index(model, str(photos), index_file)
    assert [(broken.key, broken.reason) for broken in report.broken] == [("2.png", "an empty file")]
    assert content(index_file).keys() == {"0.png", "4.png", "6.png", "8.png"} | {
        f"trip/sea/{i}.png" for i in (1, 3, 5, 7, 9)
    }


def test_a_folder_that_cannot_be_read_keeps_its_pictures(model, photos, index_file, monkeypatch):
    build_index(model, str(photos), index_file)
    scandir = os.scandir

    def refuse(path):
        if path.endswith("trip/"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("clippo.index.build.os.scandir", refuse)
    report = build_index(model, str(photos), index_file)
    assert [(broken.key, broken.reason) for broken in report.broken] == [("trip/", "Permission denied")]
    assert counts(report) == {"total": 10}
    monkeypatch.undo()
    assert not build_index(model, str(photos), index_file).broken


def test_a_folder_that_has_become_empty_loses_nothing(model, photos, index_file):
    """As when a drive is not mounted."""
    build_index(model, str(photos), index_file)
    photos.rename(photos.with_name("elsewhere"))
    photos.mkdir()
    with pytest.raises(UserError, match="holds no picture"):
        build_index(model, str(photos), index_file)
    assert len(content(index_file)) == 10


def test_names_and_entries_that_are_no_pictures(model, photos, index_file):
    (photos / ".hidden.png").write_bytes(b"")
    os.mkfifo(photos / "pipe.png")
    (photos / "folder.png").mkdir()
    with open(os.fsencode(photos) + b"/\xff.png", "wb"):
        pass
    report = build_index(model, str(photos), index_file)
    assert [(broken.key, broken.reason) for broken in report.broken] == [
        ("\\udcff.png", "the name is not UTF-8")
    ]
    assert report.total == 10


def test_dates_and_sizes_are_those_of_the_picture(model, tmp_path, index_file):
    image = Image.new("RGB", (300, 200), "red")
    exif = image.getexif()
    exif[0x0112] = 6  # turned by a quarter
    exif.get_ifd(0x8769)[0x9003] = "2019:05:31 18:00:01"
    (tmp_path / "photos").mkdir()
    image.save(tmp_path / "photos/taken.jpg", exif=exif)
    image.save(tmp_path / "photos/plain.png")
    os.utime(tmp_path / "photos/plain.png", (time.mktime((2020, 1, 2, 3, 4, 5, 0, 0, -1)),) * 2)
    build_index(model, str(tmp_path / "photos"), index_file, thumbnail_px=32)
    found = content(index_file)
    taken, plain = found["taken.jpg"][0], found["plain.png"][0]
    assert (taken["date"], taken["width"], taken["height"]) == ("2019-05-31T18:00:01", 200, 300)
    assert (plain["date"], plain["width"], plain["height"]) == ("2020-01-02T03:04:05", 300, 200)
    assert plain["path"] == str(tmp_path / "photos/plain.png")
    (tmp_path / "a.webp").write_bytes(found["taken.jpg"][2])
    with Image.open(tmp_path / "a.webp") as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("WEBP", (21, 32))


def test_a_source_with_texts(model, photos, index_file, tmp_path):
    """A text that changes is written; the picture is not embedded again. Other sources stay."""
    table = tmp_path / "pairs.jsonl"
    rows = [{"image": f"photos/{i}.png", "caption": f"picture {i}"} for i in (0, 4)]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = f"table:{table}?image=image&text=en:caption"
    build_index(model, str(photos), index_file)
    report = build_index(model, spec, index_file)
    assert counts(report) == {"new": 2, "total": 12}  # their content was known
    assert counts(build_index(model, spec, index_file)) == {"total": 12}
    rows[0]["caption"] = "a sea"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    open_once.cache_clear()  # of a process that has read the table before
    assert counts(build_index(model, spec, index_file)) == {"changed": 1, "total": 12}
    with closing(PictureIndex.open(index_file)) as index:
        entries = [index.entry(id) for id in index.ids]
        assert index.sources == {str(photos): 10, spec: 2}
    texts = {e.key: [(t.language, t.text) for t in e.texts] for e in entries if e.source == spec}
    assert sorted(texts.values()) == [[("en", "a sea")], [("en", "picture 4")]]
    assert {e.path for e in entries if e.source == spec} == {None}

    assert remove_source(index_file, spec) == 2
    with pytest.raises(UserError, match="holds no picture of .*; it holds those of .*photos"):
        remove_source(index_file, spec)
    shutil.rmtree(photos)
    assert remove_source(index_file, str(photos)) == 10
    with closing(sqlite3.connect(index_file)) as database:
        for table_name in ("pictures", "thumbnails", "texts", "broken"):
            assert database.execute(f"SELECT count(*) FROM {table_name}").fetchone() == (0,)  # noqa: S608


def test_workers_make_the_same_index(model, photos, index_file):
    build_index(model, str(photos), index_file)
    other = index_file.with_name("other.idx")
    build_index(model, str(photos), other, workers=1)
    assert content(other) == content(index_file)


def test_two_writers_exclude_each_other_and_no_reader(model, photos, index_file):
    build_index(model, str(photos), index_file)
    with closing(PictureIndex.open(index_file)) as index:
        about = index.about
    before = content(index_file)
    with IndexWriter.open(index_file, about):
        with pytest.raises(UserError, match="another process is writing .*pics.idx: try again"):
            build_index(model, str(photos), index_file)
        assert content(index_file) == before
    assert counts(build_index(model, str(photos), index_file)) == {"total": 10}


def test_another_model_is_refused_by_both_names(model, photos, index_file):
    build_index(model, str(photos), index_file, name="models/a")
    other = Clippo(model.config)
    torch.manual_seed(1)
    other.init_weights()
    with pytest.raises(UserError, match="made with the model models/a .*, not with models/b .weights"):
        build_index(other.eval(), str(photos), index_file, name="models/b")
    assert len(content(index_file)) == 10


DYING = """
import os, signal, sys
from clippo.index import build, store
from clippo.training.run_folder import load_model, with_renderer

build.BLOCK = 2
model, photos, out, commits = sys.argv[1:]
left = [int(commits)]
execute = store.IndexWriter._commit

def commit(self):
    left[0] -= 1
    if left[0] == 0:
        self._database.execute("PRAGMA cache_size = 1")
        self._database.execute("PRAGMA cache_spill = 1")  # into the file, before the commit
        self._database.execute("UPDATE pictures SET key = key || 'x', source = hex(zeroblob(9000))")
        os.kill(os.getpid(), signal.SIGKILL)
    execute(self)

store.IndexWriter._commit = commit
build.build_index(with_renderer(load_model(model)), photos, out)
"""


@pytest.mark.slow
@pytest.mark.parametrize("commits", [1, 2, 4])
def test_a_kill_leaves_what_was_committed(model, model_folder, photos, index_file, commits):
    """Killed in the middle of its first commit, or of a later one, with half of it in the file."""
    arguments = [sys.executable, "-c", DYING, model_folder, photos, index_file, str(commits)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    run = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == -signal.SIGKILL, run.stderr
    kept = 2 * (commits - 2) if commits > 1 else 0
    if commits > 1:
        assert index_file.with_name("pics.idx-journal").exists()
        assert len(content(index_file)) == kept
        assert all(key.endswith(".png") for key in content(index_file))
    assert counts(build_index(model, str(photos), index_file)) == {
        "embedded": 10 - kept, "new": 10 - kept, "total": 10,
    }  # fmt: skip
    fresh = index_file.with_name("fresh.idx")
    build_index(model, str(photos), fresh)
    assert content(fresh).keys() == content(index_file).keys()


def test_the_about_of_a_model_names_its_renderer(model):
    about = IndexAbout.of(model, "a", None, 160)
    assert about.renderer["renderer"] == "UnifontRenderer"
    assert "skia" not in about.renderer
