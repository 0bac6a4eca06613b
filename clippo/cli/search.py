"""Find pictures by text or by a picture."""

from __future__ import annotations

import gc
import json as json_format
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clippo.arguments import call
from clippo.errors import UserError
from clippo.pictures import check_picture_path, save_picture

if TYPE_CHECKING:
    from clippo.index import Entry, Filter, PictureIndex

__all__ = ["main"]


def search(
    source: Path,
    query: str = "",
    /,
    *,
    image: Path | None = None,
    top: int = 10,
    folder: str | None = None,
    since: date | None = None,
    until: date | None = None,
    duplicates: float | None = None,
    json: bool = False,
    out: Path | None = None,
    model: str | None = None,
) -> None:
    """Find pictures of an index, or of a run's data, by text, by a picture, or by both.

    Lists the most similar pictures, best first, each with its cosine similarity:

        clippo search photos.idx "perro"
        clippo search photos.idx "at night" --image bridge.jpg --top 20 --out found.png
        clippo search photos.idx "dog" --folder holidays/2024 --since 2024-06-01 --json
        clippo search photos.idx --duplicates 0.99
        clippo search runs/emoji "Hund" --top 5 --out dogs.png

    Of a run, the first search embeds the pictures, and keeps the embeddings in its folder.

    Args:
        source: A file of `clippo index`, or the folder of a run of `clippo train`.
        query: What to look for, in a language of the model.
        image: Look for what is similar to this picture; with a query, to both alike.
        top: How many pictures to list.
        folder: Look at pictures in this folder of what was indexed, and in the folders within it.
        since: Look at pictures of this date (YYYY-MM-DD) and later: when they were taken, or else changed.
        until: Look at pictures of this date and earlier.
        duplicates: Instead, list groups of pictures whose similarity to the first of them is at least this.
        json: Print all that is known of what was found, as JSON.
        out: Draw the query, as the model reads it, and what was found, into this picture file.
        model: What embeds the query, where the model of the index has moved.
    """
    if duplicates is None and image is None and not query.strip():
        raise UserError("the query is empty")
    if duplicates is not None and (query or image is not None or out is not None):
        raise UserError("--duplicates goes with neither a query nor --image nor --out")
    if duplicates is not None and not 0 < duplicates < 1:
        raise UserError(f"--duplicates must be above 0 and below 1, got {duplicates}")
    if top < 1:
        raise UserError(f"--top must be at least 1, got {top}")
    if out is not None:
        check_picture_path(out)
    if source.is_dir():
        for_an_index = (image, folder, since, until, duplicates, model)
        if json or any(option is not None for option in for_an_index):
            raise UserError(
                f"{source} is a folder: of a run, clippo search takes a query, --top and --out alone"
            )
        search_run(source, query, top, out)
        return

    with no_garbage_collection():
        from clippo.index import Filter, PictureIndex

        where = Filter(folder, since, until) if folder or since or until else None
        with closing(PictureIndex.open(source)) as index:
            if duplicates is not None:
                groups = index.near_duplicates(duplicates, where)
                show_groups([[index.entry(id) for id in group] for group in groups], as_json=json)
            else:
                search_index(index, query, image, top, where, as_json=json, out=out, model_source=model)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Leave out the passes over all that PyTorch imports, which free nothing and take 0.5 s of 3."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def search_index(
    index: PictureIndex,
    text: str,
    image: Path | None,
    top: int,
    where: Filter | None,
    *,
    as_json: bool,
    out: Path | None,
    model_source: str | None,
) -> None:
    """Print the pictures of an index that are most similar to a text, a picture or both."""
    from clippo.data.base import Example
    from clippo.evaluation.sheet import Finding, draw_sheet
    from clippo.index import Query
    from clippo.training.run_folder import load_model, with_renderer

    model_source = model_source or index.about.model
    model = with_renderer(load_model(model_source))
    index.check_model(model, model_source)
    transform = index.about.transform.build(model.config.image_size)
    query = Query.of(model, transform, text, image)
    [hits] = index.search(query.embedding[None], top, where)
    entries = [index.entry(hit.id) for hit in hits]
    if as_json:
        found = [{"score": round(hit.score, 4), **content(e)} for hit, e in zip(hits, entries, strict=True)]
        print(json_format.dumps(found, ensure_ascii=False, indent=2))
    else:
        for hit, entry in zip(hits, entries, strict=True):
            print(f"{hit.score:6.3f}  {line(entry)}")
    if out is not None:
        examples = [Example(entry.key, index.thumbnail(entry.id), entry.texts) for entry in entries]
        finding = Finding(text, range(len(examples)), picture=query.pixels)
        save_picture(draw_sheet(model, examples, transform, [finding]), out)


def show_groups(groups: list[list[Entry]], *, as_json: bool) -> None:
    """Print groups of pictures, with a blank line after each."""
    if as_json:
        found = [[content(entry) for entry in group] for group in groups]
        print(json_format.dumps(found, ensure_ascii=False, indent=2))
        return
    for group in groups:
        print(*map(line, group), sep="\n", end="\n\n")
    print(f"{len(groups):,} groups of {sum(map(len, groups)):,} pictures")


def line(entry: Entry) -> str:
    """The file or the key of a picture, and its title."""
    return f"{entry.path or entry.key}{'' if entry.title is None else f'  {entry.title}'}"


def content(entry: Entry) -> dict[str, Any]:
    """The fields of an entry for JSON, with its texts by language, "und" where that is not known."""
    return vars(entry) | {"texts": {text.language or "und": text.text for text in entry.texts}}


def search_run(run: Path, query: str, top: int, out: Path | None) -> None:
    """Print the pictures of a run's data that are most similar to a text."""
    from clippo.data.decode import read_all
    from clippo.evaluation.embedding import embed_images
    from clippo.evaluation.retrieval import find_images
    from clippo.evaluation.sheet import Finding, draw_sheet
    from clippo.training.run_folder import RunFolder, with_renderer

    folder = RunFolder(run)
    config = folder.config()
    model = with_renderer(folder.load_model())
    image_size = model.config.image_size
    source, transform = config.data.build("all", image_size=image_size), config.transform.build(image_size)
    examples = read_all(source)
    images = folder.cached_embeddings(
        f"{source.fingerprint} {config.transform}", lambda: embed_images(model, examples, transform)
    )
    [scores], [found] = find_images(model, images, [query], top)
    for score, index in zip(scores, found, strict=True):
        print(f"{score:6.3f}  {examples[index].key}  {examples[index].texts[0].text}")
    if out is not None:
        save_picture(draw_sheet(model, examples, transform, [Finding(query, found)]), out)


def main(arguments: list[str]) -> None:
    call(search, arguments, prog="clippo search")
