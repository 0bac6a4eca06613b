"""Parsers of bytes from outside, each with files that it can read and the errors that it may raise.

A parser reads one file, and is fast enough for hundreds of files a second. For any content it returns, or
raises a clear error: a `UserError`, a `BrokenExampleError`, or a plain `ValueError` where it reads weights.
Anything else, such as a KeyError, a crash of the process, or a file that takes long, is a bug.
"""

from __future__ import annotations

import io
import json
import tarfile
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch
from PIL import Image
from starlette.testclient import TestClient

from clippo.data.base import BrokenExampleError, Example
from clippo.data.convert import add_member
from clippo.data.decode import pixels_of
from clippo.data.records import open_once
from clippo.data.spec import source_config
from clippo.data.vqa2 import Vqa2Config
from clippo.demo.answers import Answers
from clippo.demo.server import make_app
from clippo.errors import UserError
from clippo.index import PictureIndex, build_index
from clippo.model import Clippo, ClippoConfig, load_big_vision, save_big_vision
from clippo.renderer import Renderer, renderer_configs
from clippo.training.history import read_records

__all__ = ["PARSERS", "Parser", "is_clear"]

NAMED_IN_SEEDS = ("a.png", "b.png", "a.jpg", "val2014/a.jpg", "images/0123456789abcdef.jpg")
MODEL_FILES = ("config.json", "renderer.json", "model.safetensors")


@dataclass(frozen=True)
class Parser:
    """A reader of one file.

    Attributes:
        read: reads the file at a path, in a folder of its own.
        seeds: make the contents of files that are read without an error.
        suffix: of the file's name.
    """

    read: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]
    suffix: str = ""

    def __call__(self, folder: Path, content: bytes) -> None:
        """Read a content; errors that tell a user what is wrong are swallowed."""
        path = folder / f"input{self.suffix}"
        path.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.read(path)
        except (ValueError, ImportError) as error:
            if not is_clear(error):
                raise


def is_clear(error: Exception) -> bool:
    """Say whether an error was made for a user, and not by a library that stumbled."""
    return isinstance(error, UserError | BrokenExampleError) or type(error) is ValueError


# -- pictures


@cache
def encoded_pictures() -> list[bytes]:
    colours = np.random.default_rng(0).integers(0, 256, (9, 12, 4), np.uint8)
    image = Image.fromarray(colours)
    found = []
    for mode, kind in [("RGB", "JPEG"), ("L", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("RGBA", "WebP"),
                       ("P", "GIF"), ("RGB", "BMP"), ("RGB", "TIFF")]:  # fmt: skip
        out = io.BytesIO()
        image.convert("RGB").convert(mode).save(out, kind) if mode != "RGBA" else image.save(out, kind)
        found.append(out.getvalue())
    return found


def decode_picture(path: Path) -> object:
    return pixels_of(Example("input", path.read_bytes(), ()), at_least=8)


# -- sources of examples


def examples_of(spec: str) -> Callable[[Path], object]:
    """A reader of all examples of a source; the path of the file is put into its specification."""

    def read(path: Path) -> list[object]:
        for name in NAMED_IN_SEEDS:
            picture = path.parent / name
            if not picture.exists():
                picture.parent.mkdir(exist_ok=True)
                picture.write_bytes(encoded_pictures()[0])
        open_once.cache_clear()  # another content may have had this path
        source = source_config(spec.format(path)).build("all", image_size=16)
        return [source[row] for row in range(min(4, len(source)))]

    return read


def as_json(*contents: object) -> Callable[[], list[bytes]]:
    return lambda: [json.dumps(content, ensure_ascii=False).encode() for content in contents]


def tars() -> list[bytes]:
    members = {
        "a.png": encoded_pictures()[2],
        "a.json": b'{"caption": {"en": "a dog"}}',
        "b.jpg": encoded_pictures()[0],
        "b.txt": b"a cat",
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in members.items():
            add_member(tar, name, content)
    return [out.getvalue()]


def parquet_files() -> list[bytes]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return []
    rows = [{"bytes": picture, "path": "a.png"} for picture in encoded_pictures()[:3]]
    table = pyarrow.table({"image": rows, "text": ["a dog", "a cat", "a cow"]})
    out = io.BytesIO()
    pyarrow.parquet.write_table(table, out)
    return [out.getvalue()]


COCO = {"images": [{"id": 9, "file_name": "a.jpg"}], "annotations": [{"image_id": 9, "caption": "A cat."}]}
KARPATHY = {
    "images": [
        {"filepath": "val2014", "filename": "a.jpg", "split": "test", "sentences": [{"raw": "A cat."}]}
    ]
}
XM3600 = {"image/key": "0123456789abcdef", "image/locale": "de", "de": {"caption": ["Eine Katze."]}}
QUESTIONS = {"questions": [{"image_id": 9, "question": "Is it red?", "question_id": 9000}]}
ANNOTATIONS = {
    "annotations": [
        {
            "image_id": 9,
            "question_id": 9000,
            "question_type": "is it",
            "answer_type": "yes/no",
            "multiple_choice_answer": "yes",
            "answers": [{"answer": "yes", "answer_confidence": "yes", "answer_id": 1}],
        }
    ]
}


def read_vqa2(path: Path) -> object:
    (path.parent / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(json.dumps(QUESTIONS))
    (path.parent / "val2014").mkdir(exist_ok=True)
    (path.parent / "val2014" / "COCO_val2014_000000000009.jpg").touch()
    path.replace(path.parent / "v2_mscoco_val2014_annotations.json")
    return Vqa2Config(root=str(path.parent)).build("held_out", 16)


# -- models, indices, runs, requests


@cache
def tiny_model() -> Clippo:
    torch.manual_seed(0)
    model = Clippo(
        ClippoConfig(width=16, depth=1, mlp_dim=16, num_heads=2, patch_size=8, image_size=32, embed_dim=4)
    )
    model.init_weights()
    _ = model.renderer
    return model.eval()


@cache
def model_folder() -> Path:
    """A model without the manifest, whose checksums would refuse any other content."""
    folder = Path(mkdtemp()) / "model"
    tiny_model().save_pretrained(folder)
    for path in folder.iterdir():
        if path.name not in MODEL_FILES:
            path.unlink()
    return folder


def model_with(name: str) -> Parser:
    """A reader of a model, one file of which comes from outside."""

    def read(path: Path) -> object:
        for other in MODEL_FILES:
            if other != name:
                (path.parent / other).write_bytes((model_folder() / other).read_bytes())
        path.replace(path.parent / name)
        return Clippo.from_pretrained(path.parent).renderer

    return Parser(read, lambda: [(model_folder() / name).read_bytes()])


def published_weights() -> list[bytes]:
    path = Path(mkdtemp()) / "tiny.npz"
    save_big_vision(tiny_model(), path)
    return [path.read_bytes()]


@cache
def index_file() -> Path:
    folder = Path(mkdtemp())
    (folder / "photos").mkdir()
    for number, picture in enumerate(encoded_pictures()[:3]):
        (folder / "photos" / f"{number}.png").write_bytes(picture)
    build_index(tiny_model(), str(folder / "photos"), folder / "photos.idx", name="tiny")
    return folder / "photos.idx"


def read_index(path: Path) -> None:
    with closing(PictureIndex.open(path)) as index:
        query = torch.nn.functional.normalize(torch.ones(1, max(1, index.about.embed_dim)))
        for hit in index.search(query, 3)[0]:
            index.entry(hit.id)
            index.thumbnail(hit.id)
        index.near_duplicates(0.9)
        list(index.broken)


@cache
def page() -> TestClient:
    answers = Answers(tiny_model(), PictureIndex.open(index_file()))
    return TestClient(make_app(answers), base_url="http://localhost")


def post_picture(path: Path) -> None:
    response = page().post("/api/picture", content=path.read_bytes())
    assert response.status_code < 500, response.text


def ask_text(path: Path) -> None:
    response = page().get("/api/text", params={"text": path.read_bytes()})
    assert response.status_code < 500, response.text


TEXTS = ["a dog", "كلب هنا", "कुत्ता", "狗\U0001f415", "e\u0301\u0301\u202eabc\u202c\u200d\ufe0f"]


def texts() -> list[bytes]:
    return [text.encode() for text in TEXTS]


@cache
def renderer(name: str) -> Renderer:
    return renderer_configs()[name]().build(64)


def draw_with(name: str) -> Callable[[Path], object]:
    return lambda path: renderer(name)([path.read_bytes().decode("utf-8", "surrogateescape")])


PARSERS = {
    "picture": Parser(decode_picture, encoded_pictures),
    "csv": Parser(
        examples_of("table:{}?image=path&text=en:caption"),
        lambda: [b"path,caption\na.png,a dog\nb.png,\"a, 'cat'\"\n"],
        ".csv",
    ),
    "jsonl": Parser(examples_of("table:{}"), as_json({"image": "a.png", "text": "a dog"}), ".jsonl"),
    "tar": Parser(examples_of("tars:{}"), tars, ".tar"),
    "parquet": Parser(examples_of("parquet:{}"), parquet_files, ".parquet"),
    "coco": Parser(examples_of("coco:{}"), as_json(COCO, KARPATHY), ".json"),
    "xm3600": Parser(examples_of("xm3600:{}"), as_json(XM3600), ".jsonl"),
    "vqa2": Parser(read_vqa2, as_json(ANNOTATIONS)),
    "weights": model_with("model.safetensors"),
    "config": model_with("config.json"),
    "renderer": model_with("renderer.json"),
    "npz": Parser(load_big_vision, published_weights, ".npz"),
    "index": Parser(read_index, lambda: [index_file().read_bytes()], ".idx"),
    "metrics": Parser(read_records, as_json({"step": 1, "loss": 2.5}), ".jsonl"),
    "unifont_text": Parser(draw_with("unifont"), texts),
    "paragraph_text": Parser(draw_with("paragraph"), texts),
    "aligned_text": Parser(draw_with("aligned"), texts),
    "posted_picture": Parser(post_picture, encoded_pictures),
    "asked_text": Parser(ask_text, texts),
}
