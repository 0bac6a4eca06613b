"""Files of stores: in memory, and over HTTP from this machine where fsspec can."""

import dataclasses
import os
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from clippo.data import remote, webdataset
from clippo.data.base import BrokenExampleError
from clippo.data.order import order_of
from clippo.data.spec import source_config
from clippo.errors import UserError
from clippo.training.trainer import train
from tests.clippo.data.test_layouts import losses, tiny

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def store(layouts):
    """The layouts in a store, under memory://."""
    system = fsspec.filesystem("memory")
    root = layouts["folder"].removeprefix("folder:").removesuffix("/folder")
    system.put(root, "/data", recursive=True)
    yield system
    system.rm("/data", recursive=True)


SPECS = {
    "folder": "folder:memory://data/folder",
    "csv": "table:memory://data/folder/pairs.csv",
    "jsonl": "table:memory://data/folder/pairs.jsonl",
    "tars": "tars:memory://data/tars/{0000..0002}.tar",
    "wildcard": "tars:memory://data/tars/*.tar",
    "slash": "tars:memory://data/tars/",
    "parquet": "parquet:memory://data/*.parquet",
}


@pytest.mark.parametrize("name", SPECS)
def test_examples_are_those_of_local_files(store, layouts, name):
    local = source_config(layouts["folder"]).build("all", image_size=32)
    found = source_config(SPECS[name]).open()
    assert list(found[0].keys) == list(local.records.keys)
    assert [found[1].read(row) for row in range(24)] == [local[index].image for index in range(24)]


def test_a_run_on_remote_tars(store, tmp_path):
    config = dataclasses.replace(tiny(SPECS["tars"] + "?held_out=0"), checkpoint_every=2)
    train(config, tmp_path / "run")
    assert len(losses(tmp_path / "run")) == 6


def test_remote_tars_are_read_a_few_at_a_time(store, monkeypatch):
    monkeypatch.setattr(webdataset, "MOST_TARS", 1)
    source = source_config(SPECS["tars"] + "?held_out=0.01").build("all", image_size=32)
    assert source.runs.first.tolist() == [0, 10, 20]
    found = np.concatenate([order_of(source, 2, seed=0)(step) for step in range(12)])
    tars = source.images.places[found, 0].tolist()
    assert len(set(pairwise(tars))) == 5  # three within a tar, two from one to the next


def test_copies_are_kept_until_they_are_too_many(store, monkeypatch):
    paths = [f"memory://data/tars/{number:04}.tar" for number in range(3)]
    folder = remote.cache_folder("files")
    first = remote.local_copy(paths[0])
    assert first.read_bytes() == store.cat("/data/tars/0000.tar")
    monkeypatch.setattr(type(store), "get_file", lambda *args, **kwargs: pytest.fail("it was fetched again"))
    assert remote.local_copy(paths[0]) == first
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parents[1]))
    size = sum(store.size(f"/data/tars/{number:04}.tar") for number in (0, 1))
    monkeypatch.setenv("CLIPPO_CACHE_GB", str((size + 10) / 2**30))
    for file in folder.iterdir():
        os.utime(file, (1, 1))
    second = remote.local_copy(paths[1])
    time.sleep(0.01)
    remote.local_copy(paths[0])  # read again, so that it is not the oldest
    third = remote.local_copy(paths[2])
    assert set(folder.iterdir()) == {first, third}
    assert not second.exists()


def test_a_changed_file_is_fetched_again(store):
    before = remote.local_copy("memory://data/tars/0000.tar")
    store.pipe("/data/tars/0000.tar", store.cat("/data/tars/0001.tar"))
    after = remote.local_copy("memory://data/tars/0000.tar")
    assert before != after
    assert after.read_bytes() == store.cat("/data/tars/0001.tar")


def test_a_copy_that_breaks_off_leaves_nothing(store, monkeypatch):
    def broken(self, path, target, **kwargs):
        Path(target).write_bytes(b"half")
        raise ConnectionError("the line is dead")

    monkeypatch.setattr(type(store), "get_file", broken)
    with pytest.raises(UserError, match=r"cannot read memory://data/tars/0000\.tar: the line is dead"):
        remote.local_copy("memory://data/tars/0000.tar")
    monkeypatch.setattr(type(store), "get_file", lambda self, path, target: Path(target).write_bytes(b"half"))
    with pytest.raises(UserError, match="4 of .* bytes came"):
        remote.local_copy("memory://data/tars/0000.tar")
    assert not any(remote.cache_folder("files").iterdir())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("memory://data/folder", "name the kind, folder:memory://data/folder or tars:memory://data/folder"),
        ("folder:memory://nothing", "memory://nothing is not a folder, or is empty"),
        ("tars:memory://data/{7..9}.tar", r"cannot read memory://data/7\.tar: "),
        ("tars:memory://data/none*.tar", r"no file matches memory://data/none\*\.tar"),
        ("table:memory://data/none.csv", r"cannot read memory://data/none\.csv: "),
        ("parquet:memory://data/none.parquet", r"cannot read memory://data/none\.parquet: "),
        ("tars:nonsense://data/0.tar", "Protocol not known: nonsense"),
        (
            "table:s3://bucket/pairs.csv",
            "s3://bucket/pairs.csv needs fsspec: pip install 'clippo-kernels.remote.'",
        ),
    ],
)
def test_what_is_not_there(store, spec, message):
    if "s3:" in spec and find_spec("s3fs"):
        pytest.skip("s3fs is installed, and would ask Amazon")
    with pytest.raises(UserError, match=message):
        source_config(spec).open()


def test_a_picture_that_went_away_is_broken(store):
    _, images = source_config(SPECS["folder"]).open()
    store.rm("/data/folder/a/00.png")
    with pytest.raises(BrokenExampleError, match=r"^memory://data/folder/a/00\.png: "):
        images.read(0)


def test_the_size_of_the_cache_must_be_a_number(store, monkeypatch):
    for given in ("much", "-1", "0", "nan"):
        monkeypatch.setenv("CLIPPO_CACHE_GB", given)
        with pytest.raises(UserError, match=f"CLIPPO_CACHE_GB must be a positive number, got '{given}'"):
            remote.cached_bytes()
