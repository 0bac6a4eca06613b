"""Find images of a run's data by text."""

from __future__ import annotations

from pathlib import Path

from clippo.arguments import call
from clippo.errors import UserError
from clippo.pictures import check_picture_path, save_picture

__all__ = ["main"]


def search(run: Path, query: str, /, top: int = 10, out: Path | None = None) -> None:
    """Find images of a run's data by text, with the model that was trained on them.

    The first search embeds the images, and keeps the embeddings in the folder of the run.

    Lists the most similar images, best first, each with its cosine similarity:

        clippo search runs/emoji "strawberry"
        clippo search runs/emoji "Hund" --top 5 --out dogs.png

    Args:
        run: Folder of a run of `clippo train`.
        query: What to look for, in a language of the run.
        top: How many images to list.
        out: Draw the query, as the model reads it, and what was found, into this picture file.
    """
    from clippo.data.decode import read_all
    from clippo.evaluation.embedding import embed_images
    from clippo.evaluation.retrieval import find_images
    from clippo.evaluation.sheet import Finding, draw_sheet
    from clippo.training.run_folder import RunFolder, with_renderer

    if not query.strip():
        raise UserError("the query is empty")
    if top < 1:
        raise UserError(f"--top must be at least 1, got {top}")
    if out is not None:
        check_picture_path(out)
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
