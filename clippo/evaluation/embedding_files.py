"""Files of embeddings: .npy with a line of JSON for each row beside it, or .parquet with both.

The examples are read, embedded and written block by block, so that memory does not grow with their number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from clippo import __version__
from clippo.data.base import BrokenExampleError, Source
from clippo.data.decode import pixels_of
from clippo.data.loader import made_ahead
from clippo.data.transform import Transform
from clippo.errors import UserError
from clippo.files import atomic_path, sha256, write_text
from clippo.model import Clippo
from clippo.results import provenance

__all__ = ["Block", "Written", "blocks_of_lines", "blocks_of_source", "check_out", "write_embeddings"]

What = Literal["both", "images", "texts"]
DType = Literal["float32", "float16"]

BLOCK = 128  # examples that are read together
ROW_GROUP = 8192  # rows of a .parquet that are kept until they are written
ORDER = "that of the data; of an example first its image, then its texts"


@dataclass(frozen=True)
class Row:
    """The image or text of an embedding.

    Attributes:
        key: of the example, or the number of the line from 1.
        modality: "image" or "text".
        text, language: of a text; the language is None where it is not known.
        label: classes of the example, one a line, if it has any.
    """

    key: str
    modality: Literal["image", "text"]
    text: str | None = None
    language: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Block:
    """Some examples, ready to be embedded.

    Attributes:
        count: of the examples, with the broken ones.
        rows: of the embeddings.
        pixels: (I, S, S, 3) uint8, of the rows that are images.
        broken: keys of the examples that cannot be read, and why.
    """

    count: int
    rows: Sequence[Row]
    pixels: np.ndarray
    broken: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Written:
    """Result of `write_embeddings`.

    Attributes:
        files: the file that was asked for first.
        shape: number of rows, and features of an embedding.
        broken: keys of the examples that could not be read and were left out, and why.
    """

    files: Sequence[Path]
    shape: tuple[int, int]
    broken: Sequence[tuple[str, str]]


def blocks_of_source(
    source: Source, transform: Transform, what: What, *, workers: int = 0
) -> Iterator[Block]:
    """Read a source in its order.

    Args:
        source: the examples.
        transform: turns their images into pixels, without random changes.
        what: embed "images", "texts", or of each example "both", first its image and then its texts. A pair
            of texts has no image.
        workers: processes that read ahead; 0 reads in this one.

    Raises:
        UserError: a worker was killed.
    """
    num_bytes = BLOCK * transform.image_size**2 * 3
    return made_ahead(Blocks(source, transform, what), workers=workers, item_bytes=num_bytes)


class Blocks(Dataset[Block | Exception]):
    """The blocks of a source by their number; see `blocks_of_source`."""

    def __init__(self, source: Source, transform: Transform, what: What) -> None:
        self.source = source
        self.transform = transform
        self.what = what
        self.size = BLOCK

    def __len__(self) -> int:
        return -(-len(self.source) // self.size)

    def __getitem__(self, number: int) -> Block | Exception:
        try:
            return self.read(range(len(self.source))[number * self.size : (number + 1) * self.size])
        except Exception as error:  # see `made_ahead`
            return error

    def read(self, indices: range) -> Block:
        size = self.transform.image_size
        rows: list[Row] = []
        images: list[np.ndarray] = []
        broken: list[tuple[str, str]] = []
        for index in indices:
            try:
                example = self.source[index]
                label = "\n".join(example.labels) or None
                if self.what != "texts" and example.image is not None:
                    images.append(self.transform(pixels_of(example)))
                    rows.append(Row(example.key, "image", label=label))
            except BrokenExampleError as error:
                broken.append((error.key, error.reason))
                continue
            if self.what != "images":
                rows += [Row(example.key, "text", t.text, t.language, label) for t in example.texts]
        pixels = np.stack(images) if images else np.zeros((0, size, size, 3), np.uint8)
        return Block(len(indices), rows, pixels, broken)


def blocks_of_lines(lines: Iterable[str]) -> Iterator[Block]:
    """Texts, one a line. Blank lines are texts too, so that the rows are those of the lines."""
    no_pixels, numbered = np.zeros((0, 1, 1, 3), np.uint8), enumerate(lines, start=1)
    while part := list(islice(numbered, BLOCK)):
        yield Block(len(part), [Row(str(number), "text", line) for number, line in part], no_pixels)


def check_out(out: Path) -> None:
    """Check that embeddings can be written to a path, before the work of computing them.

    Raises:
        UserError: another ending than .npy and .parquet, no such folder, a file that is there already, or
            no pyarrow.
    """
    if out.suffix not in WRITERS:
        raise UserError(f"the file of embeddings must end in {' or '.join(WRITERS)}, got {out}")
    if not out.absolute().parent.is_dir():
        raise UserError(f"cannot write {out}: there is no folder {out.parent}")
    if there := [path for path in files_of(out) if path.exists()]:
        raise UserError(f"{there[0]} is there already: remove it, or choose another name")
    if out.suffix == ".parquet":
        parquet_modules(out)


def files_of(out: Path) -> list[Path]:
    """The file of embeddings, its keys if they are a file of their own, and its manifest."""
    keys = [out.with_suffix(".jsonl")] if out.suffix == ".npy" else []
    return [out, *keys, out.with_suffix(".manifest.json")]


def write_embeddings(
    model: Clippo,
    blocks: Iterable[Block],
    out: Path,
    *,
    dtype: DType = "float32",
    total: int | None = None,
    **about: Any,
) -> Written:
    """Embed blocks one after the other, and write embeddings of unit length with their keys and a manifest.

    The files appear when all is embedded; the manifest, with the checksums of the others, is the last.

    Args:
        model: in evaluation mode.
        blocks: of `blocks_of_source` or `blocks_of_lines`.
        out: a .npy, whose rows are named by the lines of the .jsonl beside it; or a .parquet.
        dtype: of the embeddings in the file.
        total: number of examples, for the progress bar.
        about: joins the manifest, such as the data and the transform.

    Raises:
        UserError: as of `check_out`.
    """
    check_out(out)
    *files, manifest = files_of(out)
    width, rows = model.config.embed_dim, 0
    broken: list[tuple[str, str]] = []
    with (
        WRITERS[out.suffix](out, width, np.dtype(dtype)) as write,
        tqdm(total=total, desc="embed", unit="example", leave=False) as bar,
    ):
        for block in blocks:
            write(block.rows, embedded(model, block).astype(dtype))
            rows += len(block.rows)
            broken += block.broken
            bar.update(block.count)
    described = provenance(
        clippo=__version__,
        weights_sha256=model.weights_sha256(),
        renderer=getattr(model.text_input, "description", None),
        **about,
        left_out=len(broken),
        order=ORDER,
        shape=[rows, width],
        dtype=dtype,
        sha256={file.name: sha256(file) for file in files},
    )
    write_text(manifest, json.dumps(described, indent=2) + "\n")
    return Written([*files, manifest], (rows, width), broken)


def embedded(model: Clippo, block: Block) -> np.ndarray:
    """The embeddings of a block, (rows, E) float32."""
    is_text = np.array([row.modality == "text" for row in block.rows], bool)
    z = np.empty((len(block.rows), model.config.embed_dim), np.float32)
    z[~is_text] = model.encode_image(torch.from_numpy(block.pixels)).cpu().numpy()
    z[is_text] = model.encode_text([row.text for row in block.rows if row.text is not None]).cpu().numpy()
    return z


Write = Callable[[Sequence[Row], np.ndarray], None]


@contextmanager
def npy_writer(out: Path, width: int, dtype: np.dtype[Any]) -> Iterator[Write]:
    """Write rows to a .npy and a .jsonl. The number of rows is entered into the header at the end."""
    with (
        atomic_path(out.with_suffix(".jsonl")) as keys_path,
        atomic_path(out) as array_path,
        keys_path.open("w", encoding="utf-8") as keys,
        array_path.open("wb") as array,
    ):
        write_header(array, 0, width, dtype)
        begin = array.tell()

        def write(rows: Sequence[Row], z: np.ndarray) -> None:
            array.write(np.ascontiguousarray(z).data)
            keys.writelines(line_of(row) for row in rows)

        yield write
        count = (array.tell() - begin) // (width * dtype.itemsize)
        array.seek(0)
        write_header(array, count, width, dtype)
        assert array.tell() == begin  # NumPy leaves room for the digits of the first axis


def write_header(file: BinaryIO, count: int, width: int, dtype: np.dtype[Any]) -> None:
    described = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (count, width),
    }
    np.lib.format.write_array_header_1_0(file, described)


def line_of(row: Row) -> str:
    """A row as a line of JSON, without what is not known."""
    content = {name: encodable(value) for name, value in vars(row).items() if value is not None}
    return json.dumps(content, ensure_ascii=False) + "\n"


def encodable(text: str | None) -> str | None:
    """A text in which a question mark stands for half of a character, which UTF-8 cannot hold."""
    return None if text is None else text.encode("utf-8", "replace").decode()


@contextmanager
def parquet_writer(out: Path, width: int, dtype: np.dtype[Any]) -> Iterator[Write]:
    """Write rows to a .parquet with the columns of `Row` and "embedding"."""
    arrow, parquet = parquet_modules(out)
    names = [field.name for field in fields(Row)]
    columns = [(name, arrow.string()) for name in names]
    schema = arrow.schema([*columns, ("embedding", arrow.list_(arrow.from_numpy_dtype(dtype), width))])
    waiting: list[Any] = []
    with atomic_path(out) as unfinished, parquet.ParquetWriter(unfinished, schema) as file:

        def write(rows: Sequence[Row], z: np.ndarray) -> None:
            values = [[encodable(getattr(row, name)) for row in rows] for name in names]
            embeddings = arrow.FixedSizeListArray.from_arrays(arrow.array(z.ravel()), width)
            arrays = [*(arrow.array(own, arrow.string()) for own in values), embeddings]
            waiting.append(arrow.record_batch(arrays, schema=schema))
            if sum(batch.num_rows for batch in waiting) >= ROW_GROUP:
                flush()

        def flush() -> None:
            file.write_table(arrow.Table.from_batches(waiting, schema))
            waiting.clear()

        yield write
        if waiting:
            flush()


def parquet_modules(out: Path) -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet.

    Raises:
        UserError: they are not installed.
    """
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError(f"{out} needs pyarrow: pip install 'clippo-kernels[parquet]'") from error


WRITERS: dict[str, Callable[[Path, int, np.dtype[Any]], AbstractContextManager[Write]]] = {
    ".npy": npy_writer, ".parquet": parquet_writer,
}  # fmt: skip
