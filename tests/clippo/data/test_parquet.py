import json
import pickle
import sys

import pytest

from clippo.data import parquet as module
from clippo.data.base import BrokenExampleError
from clippo.data.spec import source_config
from clippo.errors import UserError

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
ipc = pytest.importorskip("pyarrow.ipc")


def write(file, columns, group=2):
    table = columns if isinstance(columns, arrow.Table) else arrow.table(columns)
    if file.suffix == ".parquet":
        parquet.write_table(table, file, row_group_size=group)
        return
    kind = ipc.new_file if "file" in file.stem else ipc.new_stream
    with kind(str(file), table.schema) as writer:
        writer.write_table(table, max_chunksize=group)


def read(spec):
    records, images = source_config(spec).open()
    return list(records.keys), records, images


@pytest.mark.parametrize("name", ["a.parquet", "file.arrow", "stream.arrow", "file.feather"])
def test_bytes_and_several_texts(tmp_path, name):
    texts = [["a cat", "a tom"], ["a dog"], [], None, ["a cow"]]
    write(tmp_path / name, {"jpg": [b"0", b"1", b"2", b"3", b"4"], "captions": texts})
    keys, records, images = read(f"parquet:{tmp_path / name}")
    stem = name.partition(".")[0]
    assert keys == [f"{stem}/0/0", f"{stem}/0/1", f"{stem}/2/0"]
    assert [text.text for text in records.texts_of(0)] == ["a cat", "a tom"]
    assert [images.read(row) for row in (2, 0, 1)] == [b"4", b"0", b"1"]
    assert pickle.loads(pickle.dumps(images)).read(2) == b"4"  # noqa: S301 - our own
    assert records.num_bare == 2


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_the_image_feature_of_the_hub_and_paths(tmp_path, suffix):
    (tmp_path / "c.jpg").write_bytes(b"of a file")
    pictures = [
        {"bytes": b"0", "path": "x/a.jpg"},
        {"bytes": b"1", "path": None},
        {"bytes": None, "path": "c.jpg"},
    ]
    write(tmp_path / f"p.{suffix}", {"image": pictures, "text": ["a cat", "a dog", "a cow"]})
    keys, _, images = read(str(tmp_path / f"p.{suffix}"))
    assert keys == ["x/a", "p/0/1", "c"]
    assert [images.read(row) for row in range(3)] == [b"0", b"1", b"of a file"]
    write(tmp_path / f"q.{suffix}", {"file_name": ["c.jpg", "../d.jpg"], "de": ["eine Kuh", "ein Hund"]})
    keys, records, images = read(f"parquet:{tmp_path}/q.{suffix}?text=de:de")
    assert keys == ["c", "../d"]
    assert records.texts_of(0)[0].language == "de"
    assert images.read(0) == b"of a file"
    with pytest.raises(BrokenExampleError, match=r"the picture \.\./d\.jpg is not in"):
        images.read(1)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_classes_have_the_names_of_the_hub(tmp_path, suffix):
    feature = {"names": ["tabby cat", "7"], "_type": "ClassLabel"}
    for number, (labels, own) in enumerate(
        {(1, 0, -1): feature, ((0, 1), (), (1,)): {"feature": feature}}.items()
    ):
        about = json.dumps({"info": {"features": {"label": own}}})
        table = arrow.table({"image": [b"0", b"1", b"2"], "label": [*labels]})
        table = table.replace_schema_metadata({"huggingface": about})
        write(tmp_path / f"{number}.{suffix}", table)
    _, records, _ = read(str(tmp_path / f"0.{suffix}"))
    assert list(records.labels) == ["1", "0"]
    assert list(records.texts) == ["7", "tabby cat"]
    _, records, _ = read(str(tmp_path / f"1.{suffix}"))
    assert list(records.labels) == ["0\n1", "1"]
    assert list(records.texts) == ["tabby cat", "7", "7"]
    write(
        tmp_path / f"2.{suffix}", {"image": [b"0"], "label": ["golden_retriever"]}
    )  # of no schema of the Hub
    assert list(read(str(tmp_path / f"2.{suffix}"))[1].texts) == ["golden retriever"]


def test_few_row_groups_are_kept(tmp_path, monkeypatch):
    write(
        tmp_path / "a.parquet",
        {"jpg": [bytes([i]) * 100 for i in range(10)], "text": [f"number {i}" for i in range(10)]},
    )
    _, _, images = read(str(tmp_path / "a.parquet"))
    monkeypatch.setattr(module, "KEPT_BYTES", 500)
    for row in (0, 5, 9, 1, 4):
        assert images.read(row) == bytes([row]) * 100
        assert len(images._read) <= 2


@pytest.mark.parametrize(
    ("columns", "query", "message"),
    [
        ({"a": [1]}, "", r"a\.parquet has no column image, .* or filepath; its columns are a: set image="),
        ({"image": [b"x"], "a": [1]}, "", r"has no column title, .*; its columns are image, a: set text="),
        ({"image": [b"x"], "text": [3]}, "", r"row 0 of row group 0: a text must be a string.*; got '3'"),
    ],
)
def test_columns_that_are_missing(tmp_path, columns, query, message):
    write(tmp_path / "a.parquet", columns)
    with pytest.raises(UserError, match=message):
        read(f"parquet:{tmp_path}/a.parquet{query}")


def test_what_cannot_be_read(tmp_path, monkeypatch):
    file = tmp_path / "a.parquet"
    write(file, {"image": [3], "text": ["a cat"]})
    _, _, images = read(str(file))
    with pytest.raises(
        BrokenExampleError, match=r"a\.parquet, row 0 of row group 0: the path of a picture must be"
    ):
        images.read(0)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"a\.parquet cannot be read: .*Parquet magic bytes"):
        read(str(file))
    (tmp_path / "b.arrow").write_bytes(b"x" * 100)
    with pytest.raises(UserError, match=r"b\.arrow cannot be read"):
        read(str(tmp_path / "b.arrow"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs pyarrow: pip install 'clippo-kernels\[parquet\]'"):
        read(str(file))
