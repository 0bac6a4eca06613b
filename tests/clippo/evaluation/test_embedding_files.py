"""Files of embeddings hold what the encoders give, in the order of the data."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from clippo.data.base import BrokenExampleError, Example, Source, Text
from clippo.data.transform import SquashConfig
from clippo.errors import UserError
from clippo.evaluation import embedding_files
from clippo.evaluation.embedding_files import Block, blocks_of_lines, blocks_of_source, write_embeddings
from clippo.files import sha256
from clippo.model import ByteTextConfig, Clippo, ClippoConfig


class Examples(Source):
    """Seven examples; the third cannot be read, and the sixth has a picture that cannot be decoded."""

    def __init__(self) -> None:
        pictures = np.random.default_rng(0).integers(0, 256, (7, 40, 30, 3), np.uint8)
        texts = [(Text(f"a {number}", "en"), Text(f"ein {number}", "de")) for number in range(6)]
        texts.append((Text("half a character: \ud83d"),))
        self.examples = [
            Example(f"k{number}", pictures[number], own, ("odd", "one") if number % 2 else ())
            for number, own in enumerate(texts)
        ]
        self.examples[5] = Example("k5", b"no picture", texts[5])

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        if index == 2:
            raise BrokenExampleError("k2", "it is gone")
        return self.examples[index]


@pytest.fixture(scope="module")
def model() -> Clippo:
    torch.manual_seed(0)
    sizes = {"width": 32, "depth": 1, "mlp_dim": 32, "num_heads": 2, "patch_size": 16, "image_size": 32}
    return Clippo(ClippoConfig(**sizes, embed_dim=6, text=ByteTextConfig())).eval()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(embedding_files, "BLOCK", 2)
    monkeypatch.setattr(embedding_files, "ROW_GROUP", 4)


def read(out: Path) -> tuple[list[dict], np.ndarray]:
    """The rows and the embeddings of a file."""
    if out.suffix == ".npy":
        lines = out.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines], np.load(out)
    table = pq.read_table(out)
    rows = table.drop(["embedding"]).to_pylist()
    z = np.stack(table["embedding"].to_numpy())
    return [{name: value for name, value in row.items() if value is not None} for row in rows], z


def write(model: Clippo, out: Path, what: str = "both", **options) -> embedding_files.Written:
    blocks = blocks_of_source(Examples(), SquashConfig().build(32), what)
    return write_embeddings(model, blocks, out, total=7, **options)


@pytest.mark.parametrize("what", ["both", "images", "texts"])
def test_rows_are_those_of_the_source_in_its_order(model, tmp_path, what):
    written = write(model, tmp_path / "z.npy", what)
    rows, z = read(tmp_path / "z.npy")
    source, transform = Examples(), SquashConfig().build(32)
    broken = {2, 5} if what != "texts" else {2}  # nobody has looked at the picture of the sixth
    assert [key for key, _ in written.broken] == [f"k{number}" for number in sorted(broken)]
    expected: list[tuple] = []
    for number in sorted({*range(7)} - broken):
        example = source[number]
        if what != "texts":
            pixels = torch.from_numpy(transform(example.image))[None]
            row = {"key": example.key, "modality": "image", "label": "\n".join(example.labels) or None}
            expected.append((row, model.encode_image(pixels)[0]))
        for text in example.texts if what != "images" else ():
            row = {"key": example.key, "modality": "text", "text": text.text.replace("\ud83d", "?")}
            row |= {"language": text.language, "label": "\n".join(example.labels) or None}
            expected.append((row, model.encode_text([text.text])[0]))
    assert rows == [{name: value for name, value in row.items() if value is not None} for row, _ in expected]
    assert z.dtype == np.float32
    assert written.shape == z.shape
    np.testing.assert_allclose(z, torch.stack([own for _, own in expected]).numpy(), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_parquet_holds_what_a_npy_does(model, tmp_path, dtype):
    for name in ("a.npy", "b.parquet"):
        write(model, tmp_path / name, dtype=dtype)
    (rows, z), (same_rows, same_z) = read(tmp_path / "a.npy"), read(tmp_path / "b.parquet")
    assert rows == same_rows
    assert z.dtype == same_z.dtype == dtype
    np.testing.assert_array_equal(z, same_z)
    assert np.load(tmp_path / "a.npy", mmap_mode="r").shape == z.shape
    assert pq.ParquetFile(tmp_path / "b.parquet").num_row_groups > 1


def test_the_manifest_says_what_was_made_of_what(model, tmp_path):
    written = write(model, tmp_path / "z.npy", dtype="float16", data="folder:photos")
    found = json.loads((tmp_path / "z.manifest.json").read_text())
    assert found["data"] == "folder:photos"
    assert found["weights_sha256"] == model.weights_sha256()
    assert (found["shape"], found["dtype"], found["left_out"]) == ([14, 6], "float16", 2)
    assert found["sha256"] == {name: sha256(tmp_path / name) for name in ("z.npy", "z.jsonl")}
    assert [file.name for file in written.files] == ["z.npy", "z.jsonl", "z.manifest.json"]


@pytest.mark.parametrize("name", ["z.npy", "z.parquet"])
def test_lines_without_an_example_in_the_block_and_without_any(model, tmp_path, name):
    lines = ["one", "", "drei", "one", "fünf"]
    write_embeddings(model, blocks_of_lines(lines), tmp_path / name)
    rows, z = read(tmp_path / name)
    assert [(row["key"], row["text"]) for row in rows] == [(str(i), line) for i, line in enumerate(lines, 1)]
    np.testing.assert_allclose(z, model.encode_text(lines), atol=1e-6)
    write_embeddings(model, blocks_of_lines([]), tmp_path / f"no{name}")
    empty = tmp_path / f"no{name}"
    assert len(np.load(empty) if name == "z.npy" else pq.read_table(empty)) == 0


@pytest.mark.parametrize("name", ["z.npy", "z.parquet"])
def test_nothing_is_left_of_what_could_not_be_finished(model, tmp_path, name):
    def blocks():
        yield from blocks_of_lines(["one", "two", "three"])
        raise UserError("the disk is gone")

    with pytest.raises(UserError, match="the disk is gone"):
        write_embeddings(model, blocks(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(model, tmp_path, monkeypatch):
    for there, out in (("z.npy", "z.npy"), ("z.jsonl", "z.npy"), ("z.manifest.json", "z.parquet")):
        (tmp_path / there).write_text("mine")
        with pytest.raises(UserError, match=f"{there} is there already: remove it, or choose another name"):
            write(model, tmp_path / out)
        assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
        (tmp_path / there).unlink()
    with pytest.raises(UserError, match="must end in .npy or .parquet, got .*z.txt"):
        write(model, tmp_path / "z.txt")
    with pytest.raises(UserError, match="there is no folder .*/no"):
        write(model, tmp_path / "no" / "z.npy")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs pyarrow: pip install 'clippo-kernels\[parquet\]'"):
        write(model, tmp_path / "z.parquet")


@pytest.mark.long
def test_workers_read_the_same_blocks(model):
    transform = SquashConfig().build(32)
    alone, ahead = (list(blocks_of_source(Examples(), transform, "both", workers=n)) for n in (0, 1))
    assert isinstance(ahead[0], Block)
    for a, b in zip(alone, ahead, strict=True):
        assert (a.count, a.rows, a.broken) == (b.count, b.rows, b.broken)
        np.testing.assert_array_equal(a.pixels, b.pixels)
