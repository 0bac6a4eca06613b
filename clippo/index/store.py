"""The file of an index: pictures with their embeddings, thumbnails and texts, in one SQLite database.

SQLite keeps each commit whole or not at all, whenever the process or the machine stops. A reader sees what
was committed when it read the embeddings; a writer keeps other writers out, and no readers.
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property, lru_cache, partial
from pathlib import Path
from threading import RLock
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from clippo.data.base import Text
from clippo.data.transform import TransformConfig
from clippo.errors import UserError
from clippo.index.search import Graph, Hit, exact_search, near_duplicates
from clippo.model import Clippo, RenderedText
from clippo.model.checkpoints.shipped import shipped_folder
from clippo.model.configs import flat, from_dict, to_dict

__all__ = [
    "EXACT_UP_TO",
    "Broken",
    "Described",
    "Entry",
    "Filter",
    "IndexAbout",
    "IndexWriter",
    "Known",
    "NewPicture",
    "PictureIndex",
    "State",
    "graph_path",
]

APPLICATION_ID = 0x436C6970  # in the header of the file, which says that it is an index
FORMAT = 1
EXACT_UP_TO = 1_000_000  # pictures; the graph is for more
GRAPH_TOP = 1000  # the most that are looked for along it; it has to visit many times as many
WAIT_S = 60  # for another process to finish a commit, or reading the embeddings
SHIPPED_FILE = "pictures.idx"  # the index in the folder of a model that comes with the package

# Thumbnails have a table of their own, so that reading all embeddings does not read past them. Ids are never
# used twice, so that they tell which embeddings a graph lacks.
SCHEMA = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE pictures (
    id INTEGER PRIMARY KEY AUTOINCREMENT, source TEXT NOT NULL, key TEXT NOT NULL, sha256 BLOB NOT NULL,
    bytes INTEGER, mtime_ns INTEGER, date TEXT, width INTEGER NOT NULL, height INTEGER NOT NULL,
    texts INTEGER, position INTEGER, embedding BLOB NOT NULL, UNIQUE (source, key)
);
CREATE INDEX pictures_by_sha256 ON pictures (sha256);
CREATE INDEX pictures_by_texts ON pictures (texts);
CREATE TABLE thumbnails (id INTEGER PRIMARY KEY, webp BLOB NOT NULL);
CREATE TABLE texts (id INTEGER PRIMARY KEY AUTOINCREMENT, content BLOB NOT NULL);
CREATE TABLE broken (
    source TEXT NOT NULL, key TEXT NOT NULL, bytes INTEGER, mtime_ns INTEGER, reason TEXT NOT NULL,
    PRIMARY KEY (source, key)
);
"""


@dataclass(frozen=True)
class Entry:
    """A picture of an index.

    Attributes:
        id: its number in the index, which no other picture gets later.
        source: the folder that it is in, or the specification of its source.
        key: its path in the folder, or its name in the source.
        path: its file, None for a picture of a source that is no folder.
        sha256: of its content, in hexadecimal.
        date: when it was taken, or else when its file was changed, as 2024-05-31T18:00:00 in local time; None
            if neither is known.
        width, height: of the picture as it is to be looked at, px.
        texts: its first text in each language.
    """

    id: int
    source: str
    key: str
    path: str | None
    sha256: str
    date: str | None
    width: int
    height: int
    texts: tuple[Text, ...]

    @property
    def title(self) -> str | None:
        """Its text in English, or else its first; None without texts."""
        text = min(self.texts, key=lambda text: text.language != "en", default=None)
        return None if text is None else text.text


@dataclass(frozen=True)
class Broken:
    """A picture that cannot be read or decoded, and why."""

    source: str
    key: str
    reason: str


@dataclass(frozen=True)
class IndexAbout:
    """The model and the settings that made the embeddings of an index.

    Attributes:
        model: where the model was read from.
        weights_sha256: as of `Clippo.weights_sha256`.
        renderer: the description of what draws its text; None for a model that reads bytes.
        embed_dim: D.
        transform: of pictures to the pixels that the model reads.
        thumbnail_px: longest side of a thumbnail.
    """

    model: str
    weights_sha256: str
    renderer: dict[str, Any] | None
    embed_dim: int
    transform: TransformConfig
    thumbnail_px: int

    @classmethod
    def of(cls, model: Clippo, name: str, transform: TransformConfig, thumbnail_px: int) -> IndexAbout:
        """Describe a model that was read from `name`."""
        renderer = None
        if isinstance(model.text_input, RenderedText):
            renderer = json.loads(json.dumps(model.renderer.description))
            # Skia's version changes neither the embeddings of pictures nor, to the eye, the text.
            renderer.pop("skia", None)
        return cls(name, model.weights_sha256(), renderer, model.config.embed_dim, transform, thumbnail_px)

    def check_same_model(self, other: IndexAbout, path: Path) -> None:
        """Check that another model, with what draws its text, is the one of the index.

        Raises:
            UserError: it is not; names both.
        """
        if self.weights_sha256 != other.weights_sha256:
            raise UserError(
                f"{path} was made with the model {self.model} (weights {self.weights_sha256[:12]}), "
                f"not with {other.model or 'this one'} (weights {other.weights_sha256[:12]})"
            )
        if self.renderer != other.renderer:
            made, given = (flat(about.renderer or {"renderer": None}) for about in (self, other))
            key = next(key for key in {**made, **given} if made.get(key) != given.get(key))
            raise UserError(
                f"{path} was made with text drawn by {made.get('renderer')}, not by {given.get('renderer')} "
                f"of {other.model or 'this model'}: {key} is {made.get(key)} there and {given.get(key)} here"
            )


@dataclass(frozen=True)
class Filter:
    """The pictures to search.

    Attributes:
        folder: those in this folder of their source, and in the folders within it.
        since, until: those of these dates and of the dates between them; the others have no date.
    """

    folder: str | None = None
    since: date | None = None
    until: date | None = None

    def condition(self) -> tuple[str, list[Any]]:
        """The condition in SQL, and its parameters."""
        terms: list[str] = ["1"]
        values: list[Any] = []
        if self.folder is not None and (folder := os.path.normpath(self.folder)) != ".":
            terms.append("substr(key, 1, ?) = ?")
            values += [len(folder) + 1, f"{folder}/"]
        if self.since is not None:
            terms.append("date >= ?")
            values.append(self.since.isoformat())
        if self.until is not None:
            terms.append("date < ?")
            values.append((self.until + timedelta(days=1)).isoformat())
        return " AND ".join(terms), values


class PictureIndex:
    """An index to search. Threads may share it.

    Attributes:
        path: its file.
        about: what it was made with.
    """

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self.path = path
        self._database = database
        self._lock = RLock()
        self._loaded: tuple[np.ndarray, Tensor] | None = None
        self.about = read_about(database)
        self._texts = lru_cache(maxsize=8)(partial(read_texts, database))

    @classmethod
    def open(cls, path: str | Path) -> PictureIndex:
        """Open the index in a file, or the one that comes with a model of this package, by its name.

        Raises:
            UserError: there is no such file, it is not an index or one of a newer format, or it is damaged.
        """
        path = Path(path)
        if not path.exists() and (shipped := shipped_folder(str(path))) is not None:
            path = shipped / SHIPPED_FILE
        if not path.is_file():
            raise UserError(f"there is no index {path}: `clippo index` makes one")
        with explained(path, "read"):
            # Not "ro", which cannot take back a commit that was cut off.
            database = connected(path, "rw")
            check_format(path, database)
            database.execute("PRAGMA query_only = 1")
            return cls(path, database)

    def close(self) -> None:
        self._database.close()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def ids(self) -> np.ndarray:
        """(N,) int64 ids of the pictures, ascending."""
        return self._rows()[0]

    @property
    def embeddings(self) -> Tensor:
        """(N, D) float16 embeddings of unit length, in the order of `ids`. They are read once."""
        return self._rows()[1]

    def _rows(self, where: Filter | None = None) -> tuple[np.ndarray, Tensor]:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._read_rows()
            ids, embeddings = self._loaded
        if where is None:
            return ids, embeddings
        condition, values = where.condition()
        found = self._execute(f"SELECT id FROM pictures WHERE {condition}", values)  # noqa: S608
        rows = np.flatnonzero(np.isin(ids, [id for (id,) in found]))
        return ids[rows], embeddings[torch.from_numpy(rows)]

    def _read_rows(self) -> tuple[np.ndarray, Tensor]:
        ids, content = [], bytearray()
        with explained(self.path, "read"):
            # Row by row: a million embeddings of 512 numbers take a gigabyte, and should not take two.
            for id, embedding in self._database.execute("SELECT id, embedding FROM pictures ORDER BY id"):
                ids.append(id)
                content += embedding
            embeddings = np.frombuffer(content, np.float16).reshape(len(ids), self.about.embed_dim)
        return np.array(ids, np.int64), torch.from_numpy(embeddings)

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock, explained(self.path, "read"):
            return self._database.execute(statement, values).fetchall()

    def entry(self, id: int) -> Entry:
        """Read the record of a picture.

        Raises:
            KeyError: no picture has this id.
        """
        columns = "source, key, sha256, date, width, height, texts, position"
        with self._lock, explained(self.path, "read"):
            rows = self._execute(f"SELECT {columns} FROM pictures WHERE id = ?", [int(id)])  # noqa: S608
            if not rows:
                raise KeyError(id)
            [(source, key, sha256, taken, width, height, block, position)] = rows
            texts = () if block is None else texts_at(position, self._texts(block))
        path = f"{source}/{key}" if os.path.isabs(source) else None
        return Entry(int(id), source, key, path, sha256.hex(), taken, width, height, texts)

    def thumbnail(self, id: int) -> bytes:
        """A small picture, as WebP.

        Raises:
            KeyError: no picture has this id.
        """
        rows = self._execute("SELECT webp FROM thumbnails WHERE id = ?", [int(id)])
        if not rows:
            raise KeyError(id)
        [(webp,)] = rows
        out: bytes = webp
        return out

    @property
    def broken(self) -> list[Broken]:
        """The pictures that are left out because they cannot be read."""
        rows = self._execute("SELECT source, key, reason FROM broken ORDER BY source, key")
        return [Broken(*row) for row in rows]

    @property
    def sources(self) -> dict[str, int]:
        """The number of pictures of each folder or source."""
        return dict(self._execute("SELECT source, count(*) FROM pictures GROUP BY source"))

    def check_model(self, model: Clippo, name: str = "") -> None:
        """Check that queries can be embedded with a model.

        Args:
            model: any model.
            name: names it in the message.

        Raises:
            UserError: the index was made with another model, or its text was drawn otherwise; names both.
        """
        about = IndexAbout.of(model, name, self.about.transform, self.about.thumbnail_px)
        self.about.check_same_model(about, self.path)

    def search(self, queries: Tensor, top: int, where: Filter | None = None) -> list[list[Hit]]:
        """Find the pictures that are most similar to each of Q queries, best first.

        The search is exact, up to the float16 of the embeddings. For up to 1,000 of more than a million
        pictures it follows the graph that `clippo index` has made beside the index, if it is up to date.

        Args:
            queries: (Q, D) embeddings of unit length.
            top: how many to find; fewer where there are fewer.
            where: search these alone.

        Raises:
            ValueError: queries of another shape, or a `top` below 1.
        """
        if queries.ndim != 2 or queries.shape[1] != self.about.embed_dim:
            raise ValueError(f"queries must be (Q, {self.about.embed_dim}), got {tuple(queries.shape)}")
        if top < 1:
            raise ValueError(f"top must be at least 1, got {top}")
        queries = queries.detach().float().cpu()
        if where is None and top <= GRAPH_TOP and self._graph is not None:
            return [
                self._ranked(query, ids)
                for query, ids in zip(queries, self._graph.find(queries, top), strict=True)
            ]
        ids, embeddings = self._rows(where)
        scores, rows = exact_search(queries, embeddings, top)
        return [
            [Hit(id, score) for id, score in zip(ids[row].tolist(), own.tolist(), strict=True)]
            for row, own in zip(rows.numpy(), scores, strict=True)
        ]

    @cached_property
    def _graph(self) -> Graph | None:
        """The graph of more than a million pictures, if it is up to date."""
        [(count,)] = self._execute("SELECT count(*) FROM pictures")
        if count <= EXACT_UP_TO:
            return None
        with suppress(UserError):  # there is no usearch
            graph = Graph(self.about.embed_dim)
            ids = [id for (id,) in self._execute("SELECT id FROM pictures ORDER BY id")]
            if graph.load(graph_path(self.path), view=True) and np.array_equal(graph.ids, ids):
                return graph
        return None

    def _ranked(self, query: Tensor, ids: Sequence[int]) -> list[Hit]:
        """Pictures by their similarity to a query, (D,), without those that are gone by now."""
        marks = ", ".join("?" * len(ids))
        rows = self._execute(f"SELECT id, embedding FROM pictures WHERE id IN ({marks})", ids)  # noqa: S608
        hits = [
            Hit(id, float(query @ torch.from_numpy(np.frombuffer(z, np.float16).astype(np.float32))))
            for id, z in rows
        ]
        return sorted(hits, key=lambda hit: -hit.score)

    def near_duplicates(self, min_similarity: float, where: Filter | None = None) -> list[list[int]]:
        """Group pictures that are almost the same; see `clippo.index.search.near_duplicates`.

        Returns:
            The ids of each group, ascending.
        """
        ids, embeddings = self._rows(where)
        return [ids[group].tolist() for group in near_duplicates(embeddings, min_similarity)]


State = tuple[int, int]  # of a file: its bytes, and the time of its last change, ns


@dataclass(frozen=True)
class Known:
    """The state in which an index read a picture.

    Attributes:
        id: as of `Entry`.
        sha256: of its content.
        state: of its file; None if it has none of its own.
    """

    id: int
    sha256: bytes
    state: State | None


@dataclass(frozen=True)
class Described:
    """A picture of a source, but for its pixels.

    Attributes:
        key, date, width, height: as of `Entry`.
        sha256, state: as of `Known`.
        texts: all texts; an index keeps the first in each language.
    """

    key: str
    sha256: bytes
    state: State | None
    date: str | None
    width: int
    height: int
    texts: tuple[Text, ...]


@dataclass(frozen=True)
class NewPicture:
    """A picture to write into an index.

    Attributes:
        described: all but its pixels.
        embedding: (D,) float16, as bytes.
        thumbnail: as WebP.
    """

    described: Described
    embedding: bytes
    thumbnail: bytes


class IndexWriter:
    """The one process that writes an index. What it has committed stays, whatever happens to it later.

    Args:
        path: of the index, which is made if it is missing.
        about: what the embeddings will be made with; those of an index that is there must have been made with
            the same model.
        database: a connection to it.

    Raises:
        UserError: another process is writing this index, or it is of another model.

    Attributes:
        about: what the index says.
    """

    def __init__(self, path: Path, about: IndexAbout, database: sqlite3.Connection) -> None:
        self.path = path
        self._database = database
        self._texts = lru_cache(maxsize=8)(partial(read_texts, database))
        database.execute("PRAGMA cache_spill = 0")  # a batch keeps no reader out before its commit
        self._begin()
        if not database.execute("SELECT 1 FROM sqlite_master").fetchall():
            self._create(about)
        check_format(path, database)
        self.about = read_about(database)
        self.about.check_same_model(about, path)

    @classmethod
    @contextmanager
    def open(cls, path: Path, about: IndexAbout) -> Iterator[IndexWriter]:
        """Open an index to write it, and close it at the end of the block.

        Raises:
            UserError: as of the class; or the file cannot be written, or is no index of this format.
        """
        with explained(path, "write"), closing(connected(path, "rwc")) as database:
            yield cls(path, about, database)

    def _create(self, about: IndexAbout) -> None:
        for statement in SCHEMA.split(";"):
            self._database.execute(statement)
        self._database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._database.execute(f"PRAGMA user_version = {FORMAT}")
        rows = [(key, json.dumps(value)) for key, value in to_dict(about).items()]
        self._database.executemany("INSERT INTO about VALUES (?, ?)", rows)
        self._commit()

    def _begin(self) -> None:
        """Take the lock with which writers exclude each other.

        It is held from one batch to the next but for a moment. Who takes it then, ends the writer before.
        """
        self._database.execute("PRAGMA busy_timeout = 0")
        try:
            self._database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            raise UserError(f"another process is writing {self.path}: try again when it is done") from error
        self._database.execute(f"PRAGMA busy_timeout = {1000 * WAIT_S}")

    def _commit(self) -> None:
        self._database.execute("COMMIT")
        self._begin()

    def known(self, source: str) -> dict[str, Known]:
        """The pictures of a source, by their keys."""
        statement = "SELECT key, id, sha256, bytes, mtime_ns FROM pictures WHERE source = ?"
        return {
            key: Known(id, sha256, None if mtime is None else (size, mtime))
            for key, id, sha256, size, mtime in self._database.execute(statement, [source])
        }

    def states(self, source: str) -> dict[str, State]:
        """The states in which the files of a source were read, by their keys, also of broken ones."""
        statement = (
            "SELECT key, bytes, mtime_ns FROM pictures WHERE source = :source AND mtime_ns IS NOT NULL "
            "UNION ALL "
            "SELECT key, bytes, mtime_ns FROM broken WHERE source = :source AND mtime_ns IS NOT NULL"
        )
        rows = self._database.execute(statement, {"source": source})
        return {key: (size, mtime) for key, size, mtime in rows}

    def broken_keys(self, source: str) -> list[str]:
        """The pictures of a source that cannot be read."""
        return [key for (key,) in self._database.execute("SELECT key FROM broken WHERE source = ?", [source])]

    def known_content(self, source: str, *, but: Container[str]) -> frozenset[bytes]:
        """SHA-256 of all pictures but those of a source with some keys."""
        rows = self._database.execute("SELECT source, key, sha256 FROM pictures")
        return frozenset(sha256 for own, key, sha256 in rows if own != source or key not in but)

    def has_texts(self, id: int, texts: Sequence[Text]) -> bool:
        """Say whether a picture was written with the same texts."""
        [(block, position)] = self._database.execute(
            "SELECT texts, position FROM pictures WHERE id = ?", [id]
        ).fetchall()
        kept = () if block is None else texts_at(position, self._texts(block))
        return packed_texts([kept]) == packed_texts([texts])

    def embedded(self, sha256: bytes) -> tuple[bytes, bytes]:
        """The embedding and the thumbnail of a picture with this content, which the index has."""
        statement = "SELECT embedding, webp FROM pictures JOIN thumbnails USING (id) WHERE sha256 = ? LIMIT 1"
        [row] = self._database.execute(statement, [sha256]).fetchall()
        out: tuple[bytes, bytes] = row
        return out

    def write(
        self,
        source: str,
        pictures: Sequence[NewPicture] = (),
        touched: Sequence[tuple[int, State | None, str | None]] = (),
        broken: Sequence[tuple[str, State | None, str]] = (),
    ) -> None:
        """Write what was found of a source, and commit it.

        Args:
            source: the folder or source.
            pictures: new ones, which take the place of those with the same keys.
            touched: ids of pictures that have not changed, and the states and dates of their files.
            broken: keys of pictures that cannot be read, the states of their files if these could be read but
                not decoded, and the reasons. They are no longer found.
        """
        new_keys = [new.described.key for new in pictures]
        keys = [(source, key) for key in (*new_keys, *(key for key, _, _ in broken))]
        run = self._database.executemany
        run("DELETE FROM thumbnails WHERE id = (SELECT id FROM pictures WHERE source = ? AND key = ?)", keys)
        run("DELETE FROM pictures WHERE source = ? AND key = ?", keys)
        run("DELETE FROM broken WHERE source = ? AND key = ?", keys)
        block = None
        if any(new.described.texts for new in pictures):
            content = packed_texts([new.described.texts for new in pictures])
            block = self._database.execute("INSERT INTO texts (content) VALUES (?)", [content]).lastrowid
        for position, new in enumerate(pictures):
            own = new.described
            size, mtime = own.state or (None, None)
            row = {
                "source": source, "key": own.key, "sha256": own.sha256, "bytes": size, "mtime_ns": mtime,
                "date": own.date, "width": own.width, "height": own.height, "embedding": new.embedding,
                "texts": block if own.texts else None, "position": position,
            }  # fmt: skip
            names = ", ".join(row)
            marks = ", ".join(f":{name}" for name in row)
            statement = f"INSERT INTO pictures ({names}) VALUES ({marks})"  # noqa: S608
            id = self._database.execute(statement, row).lastrowid
            self._database.execute("INSERT INTO thumbnails VALUES (?, ?)", [id, new.thumbnail])
        run(
            "UPDATE pictures SET bytes = ?, mtime_ns = ?, date = ? WHERE id = ?",
            [(*(state or (None, None)), date, id) for id, state, date in touched],
        )
        run(
            "INSERT INTO broken VALUES (?, ?, ?, ?, ?)",
            [(source, key, *(state or (None, None)), reason) for key, state, reason in broken],
        )
        self._commit()

    def remove(self, source: str, keys: Iterable[str]) -> None:
        """Remove what is known of these keys of a source, and the texts that no picture has any more."""
        rows = [(source, key) for key in keys]
        for table in ("pictures", "broken"):
            self._database.executemany(f"DELETE FROM {table} WHERE source = ? AND key = ?", rows)  # noqa: S608
        self._database.execute("DELETE FROM thumbnails WHERE id NOT IN (SELECT id FROM pictures)")
        self._database.execute(
            "DELETE FROM texts WHERE id NOT IN (SELECT texts FROM pictures WHERE texts IS NOT NULL)"
        )
        self._commit()


def connected(path: Path, mode: str) -> sqlite3.Connection:
    """Open a database: "rw", which must be there and is only read where it cannot be written, or "rwc"."""
    uri = f"file:{quote(os.path.abspath(path))}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=WAIT_S, isolation_level=None, check_same_thread=False)


@contextmanager
def explained(path: Path, doing: str) -> Iterator[None]:
    """Turn what SQLite raises, or damaged content, into one line that names the index.

    Raises:
        UserError: something was raised.
    """
    try:
        yield
    except UserError:
        raise
    # The last three come of damaged content: TypeError of a value that has another type, or is missing.
    except (sqlite3.Error, ValueError, TypeError, zlib.error) as error:
        raise UserError(f"cannot {doing} the index {path}: {error}") from error


def check_format(path: Path, database: sqlite3.Connection) -> None:
    """Check that a database is an index of this format.

    Raises:
        UserError: it is something else, or of a newer format.
    """
    [(application,)] = database.execute("PRAGMA application_id").fetchall()
    [(version,)] = database.execute("PRAGMA user_version").fetchall()
    if application != APPLICATION_ID:
        raise UserError(f"{path} is not an index of pictures: `clippo index` makes one")
    if version > FORMAT:
        raise UserError(f"{path} is an index of format {version}, and this version of clippo reads {FORMAT}")


def read_about(database: sqlite3.Connection) -> IndexAbout:
    """Read the model and the settings that an index was made with."""
    rows = database.execute("SELECT key, value FROM about")
    return from_dict(IndexAbout, {key: json.loads(value) for key, value in rows})


def packed_texts(texts: Sequence[Sequence[Text]]) -> bytes:
    """The first text in each language of some pictures, together: names in one language compress best so.

    Returns:
        Pairs of a language and of its texts by the position of the picture, as JSON, in the format of zlib.
    """
    by_language: dict[str | None, dict[int, str]] = {}
    for position, own in enumerate(texts):
        for text in own:
            by_language.setdefault(text.language, {}).setdefault(position, text.text)
    content = json.dumps([*by_language.items()], ensure_ascii=False, separators=(",", ":"))
    return zlib.compress(content.encode("utf-8", "replace"), 9)


def read_texts(database: sqlite3.Connection, block: int) -> list[tuple[str | None, dict[str, str]]]:
    """Read what `packed_texts` has packed: pairs of a language and of its texts by position."""
    [(content,)] = database.execute("SELECT content FROM texts WHERE id = ?", [block]).fetchall()
    return [(language, texts) for language, texts in json.loads(zlib.decompress(content))]


def texts_at(position: int, texts: Iterable[tuple[str | None, dict[str, str]]]) -> tuple[Text, ...]:
    """The texts of one of the pictures of `packed_texts`."""
    key = str(position)
    return tuple(Text(own[key], language) for language, own in texts if key in own)


def graph_path(path: Path) -> Path:
    """The file of the graph of an index."""
    return path.with_name(f"{path.name}.graph")
