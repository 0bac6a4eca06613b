"""The `clippo` program: train, search, render."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from clippo.errors import UserError
from clippo.training import recipes
from clippo.training.config import TrainConfig
from renderer import SystemLibraryError, UnifontRenderer

if TYPE_CHECKING:
    from PIL import Image

app = tyro.extras.SubcommandApp()


@app.command
def train(
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = recipes.emoji(),  # noqa: B008
    out: Path = Path("runs/emoji"),
    resume: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Train a CLIPPO on emoji and their names in several languages, then test what it can find.

    The defaults are the emoji recipe: a few minutes on two CPU cores. Under torchrun every process takes its
    share of each batch:

        clippo train --out runs/mine --seed 1
        clippo train --out runs/wide --model.width 192 --model.mlp-dim 768
        torchrun --nproc-per-node 8 -m clippo train --batch-size 2048

    The folder then holds config.json, metrics.jsonl, the newest checkpoint (safetensors weights and the state
    to resume from), results.json and retrieval.png.

    Args:
        config: What to train.
        out: Folder of the run.
        resume: Go on with the run in that folder, or start it if there is none yet.
    """
    from clippo.training.loop import train as run

    run(config, out, resume=resume)


@app.command
def search(run: Path, query: str, /, top: int = 10, out: Path | None = None) -> None:
    """Find emoji by text, with a model that was trained here.

    Lists the most similar pictures, best first, each with its cosine similarity:

        clippo search runs/emoji "strawberry"
        clippo search runs/emoji "Hund" --top 5 --out dogs.png

    Args:
        run: Folder of a run of `clippo train`.
        query: What to look for, in a language of the run.
        top: How many pictures to list.
        out: Draw the query, as the model reads it, and what was found, into this picture file.
    """
    from clippo.evaluation.pictures import Finding, draw_sheet, find_pictures
    from clippo.training.run_folder import RunFolder

    if not query.strip():
        raise UserError("the query is empty")
    if top < 1:
        raise UserError(f"--top must be at least 1, got {top}")
    model, dataset = RunFolder(run).load()
    [scores], [found] = find_pictures(model, dataset, [query], top)
    for score, index in zip(scores, found, strict=True):
        concept = dataset.concepts[index]
        print(f"{score:6.3f}  {concept.emoji}  {concept.names['en']}")
    if out is not None:
        save_picture(draw_sheet(dataset, [Finding(query, found)]), out)


@app.command
def render(text: str, /, out: Path, size: int = 224) -> None:
    """Draw text exactly as a CLIPPO tower reads it.

    GNU Unifont, rows of 16 px from the top; what does not fit is cut:

        clippo render "a photo of a cat" --out cat.png
        clippo render "写真の猫" --size 64 --out neko.png

    Args:
        text: What to draw, in any script.
        out: Picture file to write; its ending names the format.
        size: Height and width in px.
    """
    from PIL import Image

    try:
        renderer = UnifontRenderer(size)
    except ValueError as error:
        raise UserError(f"--size: {error}") from error
    save_picture(Image.fromarray(renderer([text])[0]), out)


def save_picture(picture: Image.Image, path: Path) -> None:
    try:
        picture.save(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write the picture {path}: {error}") from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program; what a user can put right ends it with one line and exit code 2."""
    try:
        app.cli(prog="clippo", description=__doc__, args=arguments)
    except (UserError, SystemLibraryError, OSError) as error:
        print(f"clippo: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("clippo: interrupted", file=sys.stderr)
        sys.exit(130)
