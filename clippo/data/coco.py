"""Captions in the layouts of COCO: its own, and that of Karpathy's splits of COCO and Flickr30k."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from clippo.data.folder import FilesOfFolder
from clippo.data.records import FilesConfig, Images, Records, RecordsBuilder, Strings
from clippo.data.remote import opened
from clippo.data.table import path_in
from clippo.errors import UserError

__all__ = ["CocoConfig"]


@dataclass(frozen=True, kw_only=True)
class CocoConfig(FilesConfig):
    """Pictures and captions of COCO, Flickr30k, and others in their layouts.

    The file is one of COCO's own, such as captions_val2014.json (arXiv 1504.00325),

        {"images": [{"id": 9, "file_name": "a.jpg"}], "annotations": [{"image_id": 9, "caption": "A cat."}]}

    or a split of Karpathy and Fei-Fei (arXiv 1412.2306), such as dataset_coco.json or dataset_flickr30k.json,

        {"images": [{"filepath": "val2014", "filename": "a.jpg", "split": "test",
                     "sentences": [{"raw": "A cat."}]}]}

    Attributes:
        images: the folder of the pictures, or for dataset_coco.json the folder of train2014 and val2014; by
            default the folder of the file.
        parts: the parts of Karpathy's split to take, of train, restval, val and test; all by default.
        language: of the captions.
    """

    name: ClassVar[str] = "coco"
    images: str = ""
    parts: tuple[str, ...] = ()
    language: str = "en"

    def open(self) -> tuple[Records, Images]:
        root = self.images.rstrip("/") or os.path.dirname(self.path) or "."
        builder, kept = RecordsBuilder(self.min_chars), []
        for name, captions in captions_in(read_json(self.path), self.parts, self.path):
            path = path_in(root, name, self.path)
            texts = [(caption, self.language) for caption in captions]
            if builder.add((os.path.splitext(path)[0], path), texts):
                kept.append(path)
        return builder.build(), FilesOfFolder(root, Strings(kept))


def read_json(file: str) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: it cannot be read, or is not JSON.
    """
    with opened(file) as content:
        encoded = content.read()
    try:
        return json.loads(encoded)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} must be JSON: {error}") from error


def captions_in(content: Any, parts: tuple[str, ...], file: str) -> Iterator[tuple[str, list[str]]]:
    """The path of each picture in the folder of pictures, and its captions.

    Raises:
        UserError: a field is missing or of another type, or no picture is in one of the parts.
    """
    images = list(rows_in(content, "images", file))
    splits = {str(image.get("split", "")) for image, _ in images}
    if unknown := [part for part in parts if part not in splits]:
        known = ", ".join(sorted(splits - {""})) or "none"
        raise UserError(f"{file}: parts must be among those of the file, {known}; got {unknown[0]!r}")
    captions: dict[Any, list[str]] = {}
    if "annotations" in content:
        for annotation, where in rows_in(content, "annotations", file):
            caption = field_of(annotation, "caption", str, where)
            captions.setdefault(field_of(annotation, "image_id", int, where), []).append(caption)
    for image, where in images:
        if parts and str(image.get("split", "")) not in parts:
            continue
        if "annotations" in content:
            yield (
                field_of(image, "file_name", str, where),
                captions.get(field_of(image, "id", int, where), []),
            )
        else:
            path = os.path.join(str(image.get("filepath", "")), field_of(image, "filename", str, where))
            sentences = rows_in(image, "sentences", where)
            yield path, [field_of(sentence, "raw", str, place) for sentence, place in sentences]


def rows_in(content: Any, name: str, where: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The objects of a list, and the place of each for messages.

    Raises:
        UserError: it is no list of objects.
    """
    for number, row in enumerate(field_of(content, name, list, where)):
        place = f"{where}, {name}[{number}]"
        if not isinstance(row, dict):
            raise UserError(f"{place} must be an object, got {str(row)[:80]}")
        yield row, place


def field_of(row: Any, name: str, kind: type, where: str) -> Any:
    """A field of a JSON object.

    Raises:
        UserError: it is missing, or of another type.
    """
    if not isinstance(row, dict) or not isinstance(row.get(name), kind):
        raise UserError(f"{where} must be an object with {name!r}, a {kind.__name__}; got {str(row)[:80]}")
    return row[name]
