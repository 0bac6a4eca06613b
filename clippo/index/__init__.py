"""Search in one's own pictures: an index in one file, kept up to date with a folder or another source."""

from typing import TYPE_CHECKING, Any

from clippo.index.query import Query
from clippo.index.search import Hit
from clippo.index.store import Broken, Entry, Filter, IndexAbout, PictureIndex

if TYPE_CHECKING:
    from clippo.index.build import Report, build_index, remove_source

__all__ = [
    "Broken",
    "Entry",
    "Filter",
    "Hit",
    "IndexAbout",
    "PictureIndex",
    "Query",
    "Report",
    "build_index",
    "remove_source",
]


def __getattr__(name: str) -> Any:
    # A search, which should answer at once, does not wait for the import of what reads pictures.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from clippo.index import build

    return getattr(build, name)
