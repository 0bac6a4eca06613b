"""Pictures for the page to search in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

from clippo.index import PictureIndex
from clippo.index.store import Entry

__all__ = ["WebPictures", "name_of", "pictures_of"]


class WebPictures(NamedTuple):
    """Pictures to search in.

    Attributes:
        names: N, shown under the pictures.
        thumbnails: N files, WebP.
        embeddings: (N, E) by the model, of unit length.
    """

    names: Sequence[str]
    thumbnails: Iterable[bytes]
    embeddings: Tensor


def pictures_of(index: PictureIndex) -> WebPictures:
    """The pictures of an index, with their names of `name_of`."""
    ids = index.ids.tolist()
    names = [name_of(index.entry(id)) for id in ids]
    return WebPictures(names, (index.thumbnail(id) for id in ids), index.embeddings)


def name_of(entry: Entry) -> str:
    """The title of a picture, or else the name of its file."""
    return entry.title or entry.key.rpartition("/")[2]
