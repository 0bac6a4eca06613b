"""Tasks on texts, by name: classification and regression of texts and of pairs of texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from clippo.data.remote import cache_folder
from clippo.errors import UserError
from clippo.evaluation.text_tasks import fetched, wordnet
from clippo.evaluation.text_tasks.base import Part, TextTask, checksum_of
from clippo.evaluation.text_tasks.fetched import rows_of
from clippo.evaluation.text_tasks.glue import GLUE, load_glue

__all__ = ["FETCHED", "GLUE", "TASKS", "Part", "TextTask", "checksum_of", "load_task", "rows_of"]

FETCHED: dict[str, Callable[[Path], TextTask]] = {
    "sentiment": fetched.sentiment,
    "rating": fetched.rating,
    "domain": fetched.domain,
    "language": fetched.language,
    "section": fetched.section,
    "noun_class": wordnet.noun_class,
    "is_a": wordnet.is_a,
    "words_in_context": wordnet.words_in_context,
    "relatedness": wordnet.relatedness,
}
TASKS = (*FETCHED, *(f"glue/{name}" for name in GLUE))


def load_task(name: str, path: str = "") -> TextTask:
    """Read a task.

    Args:
        name: in `TASKS`.
        path: folder of the texts that are fetched, by default the one in the user's cache; or of GLUE.

    Raises:
        UserError: there is no such task, its data are not there, or they are not what they should be.
    """
    if name in FETCHED:
        return FETCHED[name](Path(path or cache_folder("texts")))
    if name not in TASKS:
        raise UserError(f"task must be one of {', '.join(TASKS)}; got {name!r}")
    if not path:
        raise UserError(f"path must be the folder of GLUE's data, as {name} is read from there; got none")
    return load_glue(name.removeprefix("glue/"), Path(path))
