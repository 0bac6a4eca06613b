"""Building an index, and bringing it up to date: what has not changed is not embedded again.

A file whose size and time of change are those that the index knows is not even read. Any other content is
known by its SHA-256: a file that was moved, copied or touched keeps its embedding.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from clippo.data.base import BrokenExampleError, Example, Source
from clippo.data.decode import pixels_of
from clippo.data.folder import PICTURE_SUFFIXES, read_file
from clippo.data.loader import made_ahead
from clippo.data.records import Strings
from clippo.data.spec import source_config
from clippo.data.transform import SquashConfig, Transform, TransformConfig
from clippo.errors import UserError
from clippo.index.search import Graph
from clippo.index.store import (
    EXACT_UP_TO,
    Broken,
    Described,
    IndexAbout,
    IndexWriter,
    NewPicture,
    PictureIndex,
    State,
    graph_path,
)
from clippo.model import Clippo

__all__ = ["Report", "build_index", "remove_source"]

THUMBNAIL_PX = 160  # longest side
QUALITY = 75
BLOCK = 64  # pictures that are read together, embedded and committed
EXIF, DATE_TIME_ORIGINAL = 0x8769, 0x9003  # tags
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # a tag, and its values that swap width and height


@dataclass
class Report:
    """Counts of what `build_index` has done.

    Attributes:
        embedded: pictures that went through the model.
        new: pictures that were not there before.
        changed: pictures with other content, or other texts, than before.
        moved: pictures that are gone, and whose content was found under another key.
        deleted: pictures that are gone.
        total: pictures of the index, of all its sources.
        broken: the pictures of this source that cannot be read.
    """

    embedded: int = 0
    new: int = 0
    changed: int = 0
    moved: int = 0
    deleted: int = 0
    total: int = 0
    broken: Sequence[Broken] = ()


@dataclass(frozen=True)
class ReadPicture:
    """A picture as a worker has read it.

    Attributes:
        described: all but its pixels.
        pixels, thumbnail: (S, S, 3) uint8 for the model, and WebP; None if the content is known.
    """

    described: Described
    pixels: np.ndarray | None
    thumbnail: bytes | None


@dataclass(frozen=True)
class UnreadPicture:
    """A picture that cannot be read, or whose content cannot be decoded; then `state` is that of the file."""

    key: str
    state: State | None
    reason: str


class FolderPictures(Source):
    """The pictures in a folder and the folders within it, without texts; hidden ones are left out.

    Args:
        root: the folder.

    Raises:
        UserError: it cannot be read, or holds no picture.

    Attributes:
        keys: the paths of the pictures in it, with "/".
        unreadable: folders in it that cannot be read, and names that are not UTF-8, and why.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.unreadable: dict[str, str] = {}
        found = sorted(self.walk(""))
        self.keys = Strings(key for key, _ in found)
        self.states = np.array([state for _, state in found], np.int64).reshape(len(found), 2)
        if not found:
            raise UserError(f"{root} holds no picture that ends in {', '.join(PICTURE_SUFFIXES)}")

    def walk(self, folder: str) -> Iterator[tuple[str, State]]:
        """The pictures below a folder, "" or a path that ends in "/", and the states of their files."""
        try:
            with os.scandir(f"{self.root}/{folder}") as inside:
                entries = [entry for entry in inside if not entry.name.startswith(".")]
        except OSError as error:
            if not folder:
                raise UserError(f"cannot read the folder {self.root}: {error.strerror}") from error
            self.unreadable[folder] = error.strerror or str(error)
            return
        for entry in entries:
            key = folder + entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if not is_folder and not key.lower().endswith(PICTURE_SUFFIXES):
                continue
            try:
                key.encode()
            except UnicodeEncodeError:
                self.unreadable[key.encode("utf-8", "backslashreplace").decode()] = "the name is not UTF-8"
                continue
            if is_folder:
                yield from self.walk(f"{key}/")
            else:
                with suppress(OSError):  # it has gone in the meantime, or is a link to nothing
                    if entry.is_file():
                        stat = entry.stat()
                        yield key, (stat.st_size, stat.st_mtime_ns)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Example:
        key = self.keys[index]
        try:
            return Example(key, read_file(f"{self.root}/{key}"), ())
        except BrokenExampleError as error:
            raise BrokenExampleError(key, error.reason) from error

    def state(self, index: int) -> State:
        size, mtime = self.states[index].tolist()
        return size, mtime

    def changed(self, states: Mapping[str, State]) -> np.ndarray:
        """The numbers of the pictures whose files are not in these states, by their keys, any more."""
        return np.array([i for i, key in enumerate(self.keys) if states.get(key) != self.state(i)], np.int64)


class Blocks(Dataset[list[ReadPicture | UnreadPicture] | Exception]):
    """Some pictures of a source, block by block; made in worker processes.

    Args:
        source: the pictures.
        rows: those to read.
        own: SHA-256 of the pictures that the index has, by their keys.
        known: SHA-256 of further content that the index has.
        transform: of pictures to pixels.
        thumbnail_px: longest side of a thumbnail.
    """

    def __init__(
        self,
        source: Source,
        rows: np.ndarray,
        own: dict[str, bytes],
        known: frozenset[bytes],
        transform: Transform,
        thumbnail_px: int,
    ) -> None:
        self.source = source
        self.rows = rows
        self.own = own
        self.known = known
        self.transform = transform
        self.thumbnail_px = thumbnail_px

    def __len__(self) -> int:
        return -(-len(self.rows) // BLOCK)

    def __getitem__(self, number: int) -> list[ReadPicture | UnreadPicture] | Exception:
        try:
            return [self.read(row) for row in self.rows[number * BLOCK : (number + 1) * BLOCK].tolist()]
        except Exception as error:  # see `made_ahead`
            return error

    def read(self, row: int) -> ReadPicture | UnreadPicture:
        state = self.source.state(row) if isinstance(self.source, FolderPictures) else None
        try:
            example = self.source[row]
        except BrokenExampleError as error:
            return UnreadPicture(error.key, None, error.reason)
        key, image = example.key, example.image
        if isinstance(image, np.ndarray):
            sha256 = hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).data).digest()
        else:
            sha256 = hashlib.sha256(image or b"").digest()
        pixels = thumbnail = None
        try:
            key.encode()
            if self.own.get(key) != sha256 and sha256 not in self.known:
                decoded = pixels_of(example, at_least=max(2 * self.transform.image_size, self.thumbnail_px))
                pixels, thumbnail = self.transform(decoded), thumbnail_of(decoded, self.thumbnail_px)
            width, height, date = size_and_date(image)
        except BrokenExampleError as error:
            return UnreadPicture(key, state, error.reason)
        except UnicodeEncodeError:
            return UnreadPicture(key.encode("utf-8", "replace").decode(), state, "the name is not UTF-8")
        if date is None and state is not None:
            date = datetime.fromtimestamp(state[1] // 10**9).isoformat()
        own = Described(key, sha256, state, date, width, height, example.texts)
        return ReadPicture(own, pixels, thumbnail)


def thumbnail_of(pixels: np.ndarray, longest_side: int) -> bytes:
    """A small picture as WebP, from (H, W, 3), or (H, W, 4) with premultiplied alpha; none is enlarged."""
    mode = "RGBa" if pixels.shape[2] == 4 else "RGB"
    size = pixels.shape[1], pixels.shape[0]
    image = Image.frombuffer(mode, size, np.ascontiguousarray(pixels), "raw", mode, 0, 1)
    image.thumbnail((longest_side, longest_side))
    content = io.BytesIO()
    (image.convert("RGBA") if mode == "RGBa" else image).save(content, "WEBP", quality=QUALITY)
    return content.getvalue()


def size_and_date(image: np.ndarray | bytes | None) -> tuple[int, int, str | None]:
    """Width and height of a picture, px, and the date when it was taken, if its EXIF data tell."""
    if not isinstance(image, bytes):
        assert image is not None  # it has been decoded
        return image.shape[1], image.shape[0], None
    with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(image)) as opened:
        exif = opened.getexif()
        width, height = opened.size
        if exif.get(ORIENTATION) in TURNED:
            width, height = height, width
        date = None
        with suppress(Exception):  # of damaged metadata, Pillow raises errors of many kinds
            taken = str(exif.get_ifd(EXIF)[DATE_TIME_ORIGINAL])
            date = datetime.strptime(taken[:19], "%Y:%m:%d %H:%M:%S").isoformat()
        return width, height, date


def build_index(
    model: Clippo,
    source: str,
    out: str | Path,
    *,
    name: str = "",
    transform: TransformConfig | None = None,
    thumbnail_px: int = THUMBNAIL_PX,
    workers: int = 0,
) -> Report:
    """Make an index of pictures, or bring it up to date with the pictures of a source.

    64 pictures are committed at a time: after a crash or a kill, the next call goes on from there. Those of
    other sources stay as they are.

    Args:
        model: in evaluation mode.
        source: a folder, whose pictures need no texts, or KIND:PATH as of `clippo.data.spec.source_config`.
        out: file of the index, which is made if it is missing.
        name: where the model was read from.
        transform: of pictures to pixels; by default the model's way to resize them, on the background of its
            text.
        thumbnail_px: longest side of a thumbnail. An index that is there keeps its own, and its transform.
        workers: processes that read and decode pictures ahead; 0 is this one.

    Raises:
        UserError: the source cannot be opened; the index is of another model, is being written by another
            process, or cannot be written; a worker was killed.
    """
    out = Path(out)
    if not out.absolute().parent.is_dir():
        raise UserError(f"cannot write the index {out}: there is no folder {out.parent}")
    pictures, source_name = open_source(source, model.config.image_size)
    if transform is None:
        transform = SquashConfig(resize=model.config.resize, background=model.image_background)
    with IndexWriter.open(out, IndexAbout.of(model, name, transform, thumbnail_px)) as writer:
        report = Update(model, writer, pictures, source_name).run(workers)
        with closing(PictureIndex.open(out)) as index:
            update_graph(index)
            report.total = len(index)
            report.broken = [broken for broken in index.broken if broken.source == source_name]
    return report


def remove_source(out: str | Path, source: str) -> int:
    """Remove the pictures of a source, which need not be there any more, from an index.

    Returns:
        How many there were.

    Raises:
        UserError: the index has none of it, or cannot be written.
    """
    out = Path(out)
    with closing(PictureIndex.open(out)) as index:
        about, sources = index.about, index.sources
    name = next((name for name in (source, os.path.abspath(source)) if name in sources), None)
    if name is None:
        raise UserError(
            f"{out} holds no picture of {source}; it holds those of {', '.join(sources) or 'nothing'}"
        )
    with IndexWriter.open(out, about) as writer:
        known = writer.known(name)
        writer.remove(name, [*known, *writer.broken_keys(name)])
        with closing(PictureIndex.open(out)) as index:
            update_graph(index)
    return len(known)


def open_source(source: str, image_size: int) -> tuple[Source, str]:
    """The pictures of a folder or of another source, and the name under which the index knows them.

    Raises:
        UserError: as of `build_index`.
    """
    if os.path.isdir(source):
        root = os.path.abspath(source)
        return FolderPictures(root), root
    config = source_config(source)
    has_kind = source.partition(":")[0] == config.name
    return config.build("all", image_size=image_size), source if has_kind else f"{config.name}:{source}"


class Update:
    """Bringing an index up to date with a source.

    Args:
        model: as of `build_index`.
        writer: of the index.
        source, name: as of `open_source`.
    """

    def __init__(self, model: Clippo, writer: IndexWriter, source: Source, name: str) -> None:
        self.model = model
        self.writer = writer
        self.source = source
        self.name = name
        self.known = writer.known(name)
        self.seen: set[str] = set()  # keys that the source has
        self.found_again: set[bytes] = set()  # known content under keys that were not known
        self.report = Report()

    def run(self, workers: int) -> Report:
        """Read what may have changed, embed what is new, and remove what is gone."""
        rows = np.arange(len(self.source))
        replaced: Container[str] = self.known.keys()
        unreadable: dict[str, str] = {}
        if isinstance(self.source, FolderPictures):
            rows, unreadable = self.source.changed(self.writer.states(self.name)), self.source.unreadable
            replaced = {self.source.keys[row] for row in rows.tolist()}
            self.seen = {*self.source.keys, *unreadable}
        about, size = self.writer.about, self.model.config.image_size
        blocks = Blocks(
            self.source,
            rows,
            {key: known.sha256 for key, known in self.known.items()},
            # A picture that may be replaced is not there any more for another that has its content now.
            self.writer.known_content(self.name, but=replaced),
            about.transform.build(size),
            about.thumbnail_px,
        )
        with tqdm(total=len(rows), desc="index", unit="picture", leave=False) as bar:
            for block in made_ahead(blocks, workers=workers, item_bytes=BLOCK * size**2 * 3):
                self.write(block)
                bar.update(len(block))
        self.writer.write(self.name, broken=[(key, None, reason) for key, reason in unreadable.items()])
        self.remove_gone(tuple(key for key in unreadable if key.endswith("/")))
        return self.report

    def write(self, block: Sequence[ReadPicture | UnreadPicture]) -> None:
        """Embed what is new of a block, and commit the block."""
        pictures = [picture for picture in block if isinstance(picture, ReadPicture)]
        pixels = [picture.pixels for picture in pictures if picture.pixels is not None]
        if pixels:
            z = self.model.encode_image(torch.from_numpy(np.stack(pixels))).cpu().numpy()
            embeddings = iter(z.astype(np.float16))
        written: list[NewPicture] = []
        touched = []
        for picture in pictures:
            now = picture.described
            own = self.known.get(now.key)
            is_same = own is not None and own.sha256 == now.sha256
            if own is not None and is_same and self.writer.has_texts(own.id, now.texts):
                if own.state != now.state:
                    touched.append((own.id, now.state, now.date))
                continue
            if picture.thumbnail is None:
                embedding, thumbnail = self.writer.embedded(now.sha256)
            else:
                embedding, thumbnail = next(embeddings).tobytes(), picture.thumbnail
            if own is None and picture.thumbnail is None:
                self.found_again.add(now.sha256)
            self.report.embedded += picture.thumbnail is not None
            self.report.new += own is None
            self.report.changed += own is not None
            written.append(NewPicture(now, embedding, thumbnail))
        unread = [picture for picture in block if isinstance(picture, UnreadPicture)]
        broken = [(picture.key, picture.state, picture.reason) for picture in unread]
        self.writer.write(self.name, written, touched, broken)
        self.seen.update(picture.described.key for picture in pictures)
        self.seen.update(picture.key for picture in unread)

    def remove_gone(self, unreadable: tuple[str, ...]) -> None:
        """Remove the pictures that the source has no more, but those in folders that cannot be read now."""
        known = {*self.known, *self.writer.broken_keys(self.name)}
        gone = [key for key in known - self.seen if not key.startswith(unreadable)]
        if gone:
            self.writer.remove(self.name, gone)
        pictures = [self.known[key] for key in gone if key in self.known]
        self.report.moved = sum(picture.sha256 in self.found_again for picture in pictures)
        self.report.deleted = len(pictures) - self.report.moved
        self.report.new -= self.report.moved


def update_graph(index: PictureIndex) -> None:
    """Bring the graph beside an index up to date, if it has so many pictures that a search needs one."""
    path = graph_path(index.path)
    if len(index) <= EXACT_UP_TO:
        path.unlink(missing_ok=True)
        return
    try:
        graph = Graph(index.about.embed_dim)
    except UserError as error:
        warnings.warn(f"a search will look at all {len(index):,} pictures: {error}", stacklevel=2)
        return
    graph.load(path)
    graph.update(index.ids, index.embeddings)
    graph.save(path)
