"""The file of an index: read by threads, searched with filters, and refused when it is something else."""

import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clippo.data.base import Text
from clippo.errors import UserError
from clippo.index import Filter, Hit, PictureIndex, Query, build_index, store
from clippo.index.build import update_graph
from clippo.index.store import Described, IndexWriter, NewPicture, graph_path
from clippo.model import Clippo
from clippo.renderer import UnifontRenderer


@pytest.fixture
def index_file(model, photos, tmp_path) -> Path:
    build_index(model, str(photos), tmp_path / "pics.idx", name="models/a")
    return tmp_path / "pics.idx"


@pytest.fixture
def index(index_file):
    with closing(PictureIndex.open(index_file)) as opened:
        yield opened


def made_up(key: str, taken: str | None, texts: tuple[Text, ...] = ()) -> NewPicture:
    z = F.normalize(torch.randn(16), dim=0).half().numpy().tobytes()
    return NewPicture(Described(key, key.encode(), None, taken, 3, 2, texts), z, b"thumbnail")


def test_an_index_reads_what_was_built(model, index, photos):
    assert index.about.model == "models/a"
    assert index.about.weights_sha256 == model.weights_sha256()
    assert len(index) == 10
    assert index.ids.dtype == np.int64
    assert (np.diff(index.ids) > 0).all()
    assert index.embeddings.dtype == torch.float16
    for id, z in zip(index.ids, index.embeddings, strict=True):
        entry = index.entry(id)
        transform = index.about.transform.build(model.config.image_size)
        with Image.open(entry.path) as image:
            expected = model.encode_image(transform(np.asarray(image))[None])[0]
        torch.testing.assert_close(z.float(), expected, atol=1e-3, rtol=0)
        assert entry.path == f"{photos}/{entry.key}"
    for ask in (index.entry, index.thumbnail):
        with pytest.raises(KeyError, match="999"):
            ask(999)


def test_search_finds_a_picture_by_itself_and_by_text(model, index, photos):
    transform = index.about.transform.build(model.config.image_size)
    query = Query.of(model, transform, "", photos / "4.png")
    [hits] = index.search(query.embedding[None], 3)
    assert index.entry(hits[0].id).key == "4.png"
    assert hits[0].score == pytest.approx(1, abs=2e-3)
    text = Query.of(model, transform, "a dog")
    torch.testing.assert_close(text.embedding, model.encode_text(["a dog"])[0])
    assert text.pixels is None
    both = Query.of(model, transform, "a dog", photos / "4.png")
    torch.testing.assert_close(both.embedding, F.normalize(query.embedding + text.embedding, dim=0))
    assert [len(hits) for hits in index.search(torch.stack([text.embedding] * 2), 50)] == [10, 10]
    with pytest.raises(UserError, match="cannot read the picture .*none.png"):
        Query.of(model, transform, "", photos / "none.png")
    for queries, top in ((torch.zeros(16), 1), (torch.zeros(1, 8), 1), (torch.zeros(1, 16), 0)):
        with pytest.raises(ValueError, match=r"queries must be \(Q, 16\)|top must be at least 1"):
            index.search(queries, top)


def test_filters(index_file, index):
    with IndexWriter.open(index_file, index.about) as writer:
        dates = [
            None,
            "2024-05-31T23:59:59",
            "2024-06-01T00:00:00",
            "2024-06-02T12:00:00",
            "2024-06-03T00:00:00",
        ]
        keys = ["a/0", "a/b/1", "a/b_/2", "a%/3", "a/b/c/4"]
        writer.write("tars:x", [made_up(key, taken) for key, taken in zip(keys, dates, strict=True)])
    with closing(PictureIndex.open(index_file)) as opened:

        def found(**options) -> set[str]:
            [hits] = opened.search(torch.ones(1, 16), 99, Filter(**options))
            return {key for hit in hits if (key := opened.entry(hit.id).key) in keys}

        assert found(folder="a") == found(folder="./a/") == {"a/0", "a/b/1", "a/b_/2", "a/b/c/4"}
        assert found(folder="a/b") == {"a/b/1", "a/b/c/4"}
        assert found(folder=".") == {*keys}
        assert found(since=date(2024, 6, 1)) == {"a/b_/2", "a%/3", "a/b/c/4"}
        assert found(since=date(2024, 6, 1), until=date(2024, 6, 2)) == {"a/b_/2", "a%/3"}
        assert found(folder="a/b", until=date(2024, 5, 31)) == {"a/b/1"}
        assert found(folder="none") == set()
        assert opened.near_duplicates(0.5, Filter(folder="none")) == []
        groups = opened.near_duplicates(1e-3, Filter(folder="trip"))
        assert {opened.entry(id).key for group in groups for id in group} <= {
            f"trip/sea/{i}.png" for i in (1, 3, 5, 7, 9)
        }


def test_the_first_text_in_each_language_is_kept(index_file, index):
    texts = (Text("dog", "en"), Text("puppy", "en"), Text("\ud800犬", "ja"), Text("any"), Text("Hund", "de"))
    pictures = [made_up("a", None, texts), made_up("b", None), made_up("c", None, texts[3:])]
    with IndexWriter.open(index_file, index.about) as writer:
        writer.write("tars:x", pictures)
        ids = [known.id for known in writer.known("tars:x").values()]
        assert writer.has_texts(ids[0], texts)
        assert not writer.has_texts(ids[0], texts[1:])
        assert writer.has_texts(ids[1], ())
    expected = {("en", "dog"), ("ja", "?犬"), (None, "any"), ("de", "Hund")}
    found = [{(text.language, text.text) for text in index.entry(id).texts} for id in ids]
    assert found == [expected, set(), {(None, "any"), ("de", "Hund")}]


def test_threads_share_an_index(index):
    expected = [(index.entry(id), index.thumbnail(id)) for id in index.ids]

    def read(_: int) -> bool:
        [hits] = index.search(torch.ones(1, 16), 10)
        return len(hits) == 10 and expected == [(index.entry(id), index.thumbnail(id)) for id in index.ids]

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(40)))


def test_many_pictures_are_searched_along_the_graph(model, index_file, index, monkeypatch):
    """Only while it has the pictures of the index, and no filter."""
    monkeypatch.setattr(store, "EXACT_UP_TO", 5)
    monkeypatch.setattr("clippo.index.build.EXACT_UP_TO", 5)
    expected = index.search(torch.eye(16)[:3], 4)
    update_graph(index)
    assert graph_path(index_file).exists()

    def hits(where: Filter | None = None) -> list[list[Hit]]:
        with closing(PictureIndex.open(index_file)) as opened:
            return opened.search(torch.eye(16)[:3], 4, where)

    for own, exact in zip(hits(), expected, strict=True):
        assert [hit.id for hit in own] == [hit.id for hit in exact]
        assert [hit.score for hit in own] == pytest.approx([hit.score for hit in exact], abs=1e-6)
    monkeypatch.setattr(store, "exact_search", lambda *_: pytest.fail("all are searched"))
    hits()
    with (
        pytest.raises(pytest.fail.Exception, match="all are searched"),
        closing(PictureIndex.open(index_file)) as opened,
    ):
        opened.search(torch.ones(1, 16), 1001)
    with pytest.raises(pytest.fail.Exception, match="all are searched"):
        hits(Filter(folder="trip"))
    with IndexWriter.open(index_file, index.about) as writer:
        writer.write("tars:x", [made_up("a", None)])
    with pytest.raises(pytest.fail.Exception, match="all are searched"):
        hits()  # the graph lacks a picture
    monkeypatch.undo()
    update_graph(index)
    assert not graph_path(index_file).exists()


def test_a_query_of_another_model_or_renderer_is_refused(model, index):
    index.check_model(model)
    torch.manual_seed(1)
    other = Clippo(model.config)
    other.init_weights()
    with pytest.raises(UserError, match=r"made with the model models/a \(weights .*, not with b \(weights"):
        index.check_model(other, "b")
    other.load_state_dict(model.state_dict())
    index.check_model(other)
    other.text_input.renderer = UnifontRenderer(48, lower=False)
    with pytest.raises(UserError, match="by UnifontRenderer, .* options.lower is True there and False here"):
        index.check_model(other)


def test_what_is_no_index_is_refused(index_file, index, tmp_path):
    for name, content, message in (
        ("text", b"not a database at all" * 99, "cannot read the index .*file is not a database"),
        ("empty", b"", "empty is not an index of pictures"),
        (
            "cut",
            index_file.read_bytes()[:5000],
            "cannot read the index .*cut: database disk image is malformed",
        ),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            PictureIndex.open(tmp_path / name)
    with pytest.raises(UserError, match="there is no index .*none: `clippo index` makes one"):
        PictureIndex.open(tmp_path / "none")
    for statement, message in (
        ("PRAGMA user_version = 2", "is an index of format 2, and this version of clippo reads 1"),
        ("PRAGMA application_id = 0", "is not an index of pictures"),
        ("DELETE FROM about WHERE key = 'model'", "cannot read the index .*model is missing"),
        ("UPDATE about SET value = '{'", "cannot read the index"),
    ):
        shutil.copy(index_file, tmp_path / "other")
        with closing(sqlite3.connect(tmp_path / "other")) as database:
            database.execute(statement)
            database.commit()
        with pytest.raises(UserError, match=message):
            PictureIndex.open(tmp_path / "other")
    shutil.copy(index_file, tmp_path / "other")
    with closing(sqlite3.connect(tmp_path / "other")) as database:
        database.execute("UPDATE pictures SET embedding = x'00' WHERE key = '4.png'")
        database.commit()
    damaged = PictureIndex.open(tmp_path / "other")
    with pytest.raises(UserError, match="cannot read the index .*other: buffer size must be a multiple"):
        damaged.search(torch.ones(1, 16), 1)
    damaged.close()
    with closing(sqlite3.connect(tmp_path / "strange")) as database:
        database.execute("CREATE TABLE notes (text)")
    for name in ("strange", "text"):
        before = (tmp_path / name).read_bytes()
        with (
            pytest.raises(UserError, match="is not an index|not a database"),
            IndexWriter.open(tmp_path / name, index.about),
        ):
            pass
        assert (tmp_path / name).read_bytes() == before


def test_an_index_that_cannot_be_written_is_read(index_file, index):
    index_file.chmod(0o444)
    index_file.parent.chmod(0o555)
    try:
        with closing(PictureIndex.open(index_file)) as opened:
            assert torch.equal(opened.embeddings, index.embeddings)
    finally:
        index_file.parent.chmod(0o755)
