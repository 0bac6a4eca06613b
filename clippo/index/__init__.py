"""Search in one's own pictures: an index in one file, kept up to date with a folder or another source."""

from clippo.index.build import Report, build_index, remove_source
from clippo.index.query import Query
from clippo.index.search import Hit
from clippo.index.store import Broken, Entry, Filter, IndexAbout, PictureIndex

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
