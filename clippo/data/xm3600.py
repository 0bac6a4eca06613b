"""Captions in the layout of Crossmodal-3600."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

from clippo.data.captions import texts_of
from clippo.data.folder import FilesOfFolder
from clippo.data.records import FilesConfig, Images, Records, RecordsBuilder, Strings
from clippo.data.table import path_in, rows_of
from clippo.errors import UserError

__all__ = ["Xm3600Config"]

KEY = "image/key"


@dataclass(frozen=True, kw_only=True)
class Xm3600Config(FilesConfig):
    """Pictures and captions of Crossmodal-3600 (arXiv 2205.12522), in 36 languages.

    The file is captions.jsonl, with an object for each picture on a line of its own:

        {"image/key": "0123456789abcdef", "image/locale": "de", "de": {"caption": ["Eine Katze."]}, "en": ...}

    Attributes:
        images: the folder of the pictures, such as 0123456789abcdef.jpg; by default the folder "images"
            beside the file.
    """

    name: ClassVar[str] = "xm3600"
    images: str = ""

    def open(self) -> tuple[Records, Images]:
        root = self.images.rstrip("/") or os.path.join(os.path.dirname(self.path), "images")
        builder, kept = RecordsBuilder(self.min_chars), []
        for number, row in rows_of(self.path):
            where = f"{self.path}, line {number}"
            if not isinstance(row.get(KEY), str):
                raise UserError(f"{where}: {KEY!r} must be a string, got {row.get(KEY)!r}")
            captions = {
                code: own["caption"]
                for code, own in row.items()
                if isinstance(own, dict) and "caption" in own
            }
            try:
                texts = list(texts_of(captions))
            except ValueError as error:
                raise UserError(f"{where}: {error}") from error
            path = path_in(root, f"{row[KEY]}.jpg", where)
            if builder.add((row[KEY],), texts):
                kept.append(path)
        return builder.build(), FilesOfFolder(root, Strings(kept))
