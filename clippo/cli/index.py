"""Make an index of pictures to search, or bring it up to date."""

from __future__ import annotations

import os
from pathlib import Path

from clippo.arguments import call
from clippo.errors import UserError

__all__ = ["main"]


def index(
    source: str,
    /,
    *,
    out: Path,
    model: str | None = None,
    workers: int = 0,
    thumbnail_px: int = 160,
    remove: bool = False,
) -> None:
    """Make an index of pictures to search, or bring it up to date.

    The index is one file, which may hold several sources. Again with the same source, only files that have
    changed are read, and only new content is embedded; what is gone is removed. It can be stopped at any
    moment, and goes on from there:

        clippo index photos --model runs/photos --out photos.idx
        clippo index photos --out photos.idx --workers 4
        clippo index emoji: --model runs/emoji --out emoji.idx
        clippo index photos/2019 --out photos.idx --remove

    Pictures that cannot be read are listed and left out.

    Args:
        source: A folder of pictures, which need no texts, or other data, such as tars:shards; see
            `clippo data --help`.
        out: File of the index.
        model: What embeds the pictures of a new index: a run of `clippo train`, a folder of
            `save_pretrained`, a .npz of big_vision, hf://owner/name, or a model that comes with the package.
            An index that is there names its own, and needs it only where that has moved.
        workers: Processes that read and decode pictures ahead; 0 is the process that embeds.
        thumbnail_px: Longest side of the small pictures that a new index keeps.
        remove: Remove the source from the index; it need not be there any more.
    """
    from clippo.index import PictureIndex, build_index, remove_source

    if remove:
        print(f"{out}: {remove_source(out, source):,} pictures removed")
        return

    import torch

    from clippo.training.config import MAX_WORKERS
    from clippo.training.run_folder import load_model, trained_transform, with_renderer

    if not 0 <= workers <= MAX_WORKERS:
        raise UserError(f"--workers must be from 0 to {MAX_WORKERS}, got {workers}")
    if not 16 <= thumbnail_px <= 1024:
        raise UserError(f"--thumbnail-px must be from 16 to 1024, got {thumbnail_px}")
    if model is None:
        if not out.exists():
            raise UserError(f"{out} will be a new index: name a --model, such as runs/photos")
        model = PictureIndex.open(out).about.model
    elif os.path.exists(model):
        model = os.path.abspath(model)
    report = build_index(
        with_renderer(load_model(model)).to("cuda" if torch.cuda.is_available() else "cpu"),
        source,
        out,
        name=model,
        transform=trained_transform(model),
        thumbnail_px=thumbnail_px,
        workers=workers,
    )
    for broken in report.broken:
        print(f"left out: {broken.key}: {broken.reason}")
    print(
        f"{out}: {report.total:,} pictures; {report.new:,} new, {report.changed:,} changed, "
        f"{report.moved:,} moved, {report.deleted:,} deleted, {len(report.broken):,} left out"
    )


def main(arguments: list[str]) -> None:
    call(index, arguments, prog="clippo index")
