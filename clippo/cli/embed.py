"""Write the embeddings of images and texts into a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from clippo.arguments import call
from clippo.errors import UserError

__all__ = ["main"]

SHOWN = 10  # of the examples that are left out


def embed(
    source: str,
    data: str | None = None,
    /,
    *,
    out: Path,
    texts: Path | None = None,
    what: Literal["both", "images", "texts"] = "both",
    dtype: Literal["float32", "float16"] = "float32",
    workers: int = 0,
) -> None:
    """Write the embeddings of images and texts, of unit length, into a file.

    A .npy has a row for each, and the .jsonl beside it a line that names it; a .parquet has all in one. The
    .manifest.json says what made them: weights, renderer, data, order, versions and checksums:

        clippo embed runs/photos folder:photos --out photos.npy
        clippo embed runs/photos "dictionary:?languages=en,de" --what texts --out names.parquet
        clippo embed clippo_b16_yfcc100m.npz tars:shards --dtype float16 --workers 8 --out shards.npy
        clippo embed runs/photos --texts captions.txt --out captions.npy
        sort names.txt | clippo embed runs/photos --texts - --out names.npy

    Examples that cannot be read are left out and counted.

    Args:
        source: A run of `clippo train`, a folder of `save_pretrained`, a .npz of big_vision, or hf://owner/name
            on the Hugging Face Hub.
        data: The examples, such as folder:photos; see `clippo data --help`.
        out: The file to write, .npy or .parquet; it must not be there yet.
        texts: Embed the lines of this text file instead, or of the standard input (-).
        what: Embed images, texts with all languages, or both, an image before its texts.
        dtype: Numbers of the embeddings in the file.
        workers: Processes that read and resize pictures ahead; 0 is the process that embeds.
    """
    import torch

    from clippo.data.spec import source_config
    from clippo.data.transform import SquashConfig
    from clippo.evaluation.embedding_files import (
        blocks_of_lines,
        blocks_of_source,
        check_out,
        write_embeddings,
    )
    from clippo.files import sha256
    from clippo.model.configs import to_dict
    from clippo.training.config import MAX_WORKERS
    from clippo.training.run_folder import load_model, trained_transform, with_renderer

    if (data is None) == (texts is None):
        raise UserError("clippo embed takes either data, such as folder:photos, or --texts FILE")
    if texts is not None and what == "images":
        raise UserError("--what images does not go with --texts")
    if texts is not None and str(texts) != "-" and (not texts.exists() or texts.is_dir()):
        raise UserError(f"there is no file {texts}")
    if not 0 <= workers <= MAX_WORKERS:
        raise UserError(f"--workers must be from 0 to {MAX_WORKERS}, got {workers}")
    check_out(out)
    model = with_renderer(load_model(source)).to("cuda" if torch.cuda.is_available() else "cpu")
    if data is None:
        assert texts is not None
        is_file = texts.is_file()
        total = sum(1 for _ in lines_of(texts)) if is_file else None
        blocks = blocks_of_lines(lines_of(texts))
        about = {"texts": str(texts), "fingerprint": sha256(texts) if is_file else ""}
    else:
        image_size = model.config.image_size
        transform = trained_transform(source) or SquashConfig(resize=model.config.resize)
        examples = source_config(data).build("all", image_size=image_size)
        total = len(examples)
        blocks = blocks_of_source(examples, transform.build(image_size), what, workers=workers)
        about = {
            "data": data,
            "fingerprint": examples.fingerprint,
            "what": what,
            "transform": to_dict(transform),
        }
    written = write_embeddings(model, blocks, out, dtype=dtype, total=total, model_source=source, **about)
    for key, reason in written.broken[:SHOWN]:
        print(f"left out: {key}: {reason}")
    rows, width = written.shape
    print(f"{rows:,} x {width} {dtype}, {len(written.broken):,} examples left out")
    print(f"written to {', '.join(map(str, written.files))}")


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a text file, or of the standard input, one at a time; see `clippo.files.read_lines`."""
    try:
        with open("/dev/stdin" if str(path) == "-" else path, encoding="utf-8-sig") as file:
            yield from (line.rstrip("\n") for line in file)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from error


def main(arguments: list[str]) -> None:
    call(embed, arguments, prog="clippo embed")
