"""Write any source as WebDataset tars."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from clippo.data.base import BrokenExampleError, Example, Source
from clippo.data.decode import pixels_of
from clippo.errors import UserError
from clippo.files import atomic_path

__all__ = ["add_member", "convert", "png"]


def convert(source: Source, folder: Path, *, per_tar: int = 1000) -> tuple[list[Path], list[tuple[str, str]]]:
    """Write the examples of a source as tars, which `TarsConfig` reads, in their order.

    Pictures keep their bytes; those that are no files become PNG. An example NAME is NAME.jpg, or another
    format, and NAME.json with its texts by language.

    Args:
        source: the examples.
        folder: where `00000.tar` and so on are written; made if it is missing.
        per_tar: examples in each.

    Returns:
        The tars, and the keys of the examples that cannot be read and are left out, with the reasons.

    Raises:
        UserError: the folder holds tars already, or cannot be written.
    """
    if per_tar < 1:
        raise UserError(f"per_tar must be at least 1, got {per_tar}")
    tars: list[Path] = []
    broken: list[tuple[str, str]] = []
    names: set[str] = set()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.glob("*.tar")):
            raise UserError(f"{folder} holds tars already")
        for number, start in enumerate(range(0, len(source), per_tar)):
            tars.append(folder / f"{number:05}.tar")
            with atomic_path(tars[-1]) as unfinished, tarfile.open(unfinished, "w") as tar:
                rows = range(start, min(start + per_tar, len(source)))
                for index in tqdm(rows, desc=tars[-1].name, unit="example", leave=False):
                    try:
                        members = list(members_of(source[index], names))
                    except BrokenExampleError as error:
                        broken.append((error.key, error.reason))
                        continue
                    for name, content in members:
                        add_member(tar, name, content)
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}") from error
    return tars, broken


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append a file to a tar, without a time or an owner, so that equal contents make equal tars."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def members_of(example: Example, names: set[str]) -> Iterator[tuple[str, bytes]]:
    """The members of an example. A dot ends the name of one, so that there must be none in it."""
    if example.image is None:
        raise UserError(f"{example.key} is a pair of texts; tars are for pictures with texts")
    pixels = pixels_of(example)
    plain = example.key.replace(".", "-").strip("/")
    name = next(name for n in count(1) if (name := plain if n == 1 else f"{plain}-{n}") not in names)
    names.add(name)
    if isinstance(example.image, bytes):
        with Image.open(io.BytesIO(example.image)) as image:
            suffix = {"JPEG": "jpg", "MPO": "jpg"}.get(str(image.format), str(image.format).lower())
        yield f"{name}.{suffix}", example.image
    else:
        yield f"{name}.png", png(pixels)
    texts: dict[str, list[str]] = {}
    for text in example.texts:
        texts.setdefault(text.language or "", []).append(text.text)
    captions = texts[""] if texts.keys() == {""} else texts
    yield f"{name}.json", json.dumps({"captions": captions}, ensure_ascii=False).encode()
    if example.labels:
        yield f"{name}.cls", "\n".join(example.labels).encode()


def png(pixels: np.ndarray) -> bytes:
    """Pixels, RGB or RGBA with premultiplied alpha, as a PNG."""
    if pixels.shape[2] == 4:
        alpha = np.maximum(pixels[..., 3:].astype(np.uint32), 1)
        colors = np.minimum((pixels[..., :3] * np.uint32(255) + alpha // 2) // alpha, 255).astype(np.uint8)
        pixels = np.concatenate([colors, pixels[..., 3:]], axis=2)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
