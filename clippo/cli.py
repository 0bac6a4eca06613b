"""The `clippo` program: train, search, render, export, fonts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from clippo.errors import UserError
from clippo.renderer import ParagraphRenderer, Renderer, SystemLibraryError, UnifontRenderer
from clippo.renderer.paragraph import UNIFONT
from clippo.training import recipes
from clippo.training.config import TrainConfig

if TYPE_CHECKING:
    from PIL import Image

app = tyro.extras.SubcommandApp()


@app.command
def train(
    *,
    recipe: Literal["emoji"] = "emoji",
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = recipes.emoji(),  # noqa: B008
    out: Path = Path("runs/emoji"),
    resume: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Train a CLIPPO on emoji and their names in several languages, then test what it can find.

    The defaults are the emoji recipe: a few minutes on two CPU cores. Under torchrun every process takes its
    share of each batch:

        clippo train --out runs/mine --seed 1
        clippo train --out runs/all --model.text-tokens all
        clippo train --out runs/wide --model.width 192 --model.mlp-dim 768
        clippo train --out runs/1t --recipe emoji --baseline 1t
        torchrun --nproc-per-node 8 -m clippo train --batch-size 2048

    The folder then holds config.json, metrics.jsonl, the newest checkpoint (safetensors weights and the state
    to resume from), results.json and retrieval.png.

    Args:
        recipe: Whose settings the defaults are.
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
def render(
    texts: tuple[str, ...] = (),
    /,
    *,
    out: Path,
    file: Path | None = None,
    renderer: tuple[Literal["unifont", "paragraph"], ...] = ("unifont",),
    size: int = 224,
    fonts: tuple[str, ...] = UNIFONT,
    font_size: int = 16,
    overflow: Literal["clip", "shrink", "error"] = "clip",
) -> None:
    """Draw text exactly as a CLIPPO tower reads it, and say what could not be drawn.

    `unifont` is the published renderer, `paragraph` shapes text as a word processor does. Of several texts,
    or with both renderers, a picture becomes a sheet; a name without an ending, a folder of pictures:

        clippo render "a photo of a cat" --out cat.png
        clippo render "写真の猫" "صورة قطة" --renderer paragraph --size 96 --out two.png
        clippo render --file captions.txt --renderer unifont paragraph --out sheet.png
        clippo render --file captions.txt --out folder

    Args:
        texts: What to draw, in any script.
        out: Picture file to write; its ending names the format. Without an ending, a folder.
        file: Draw the lines of this UTF-8 file, after the texts.
        renderer: Who draws; both, to compare them.
        size: Height and width of an image in px.
        fonts: Font files of `paragraph`, by name or path; each character is set in the first that has it.
        font_size: Of `paragraph`, in px; lines stay 16 px apart.
        overflow: What `paragraph` does with text that does not fit.
    """
    from PIL import Image

    from clippo.text_sheet import draw_sheet, save_each

    lines = list(texts)
    if file is not None:
        try:
            lines += file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is not UTF-8 text: {error}") from error
    if not lines:
        raise UserError("there is nothing to draw: give texts, or a --file of them")
    columns = []
    try:
        for name in renderer:
            draw: Renderer = (
                UnifontRenderer(size)
                if name == "unifont"
                else ParagraphRenderer(size, fonts=fonts, font_size=font_size, overflow=overflow)
            )
            pixels, report = draw.render(lines, patch_size=1)
            print(f"{name}: {report}")
            columns.append(pixels)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not out.suffix:
        if len(columns) > 1:
            raise UserError(f"--out {out} is a folder, which holds the pictures of one renderer only")
        save_each(columns[0], out)
    elif len(lines) == len(columns) == 1:
        save_picture(Image.fromarray(columns[0][0]), out)
    else:
        save_picture(draw_sheet(columns, draw.background), out)


@app.command
def export(source: str, /, *, out: Path, texts: tyro.conf.FlagCreatePairsOff[bool] = False) -> None:
    """Write a model as one graph, which embeds photographs, or rendered texts.

    It takes (B, S, S, 3) uint8 pixels of photographs, or (B, S, S) of texts, any B, and gives (B, out_dim)
    embeddings of unit length. The file is read back and compared with the model before it is kept; .onnx
    needs the `onnx` extra:

        clippo export runs/emoji --out images.onnx
        clippo export runs/emoji --texts --out texts.onnx
        clippo export clippo_b16_yfcc100m.npz --out tower.pt2

    Args:
        source: A run of `clippo train`, a folder of `save_pretrained`, or a .npz of the reference.
        out: The file to write, .onnx or .pt2 (of torch.export).
        texts: The graph for texts instead of the one for photographs.
    """
    from clippo.model.export import export as write
    from clippo.training.run_folder import load_any

    difference = write(load_any(source).eval(), out, texts=texts)
    print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB, differs by at most {difference:.1e}")


@app.command
def fonts(names: tuple[str, ...] = (), /) -> None:
    """List the fonts that were found, what they cover, and what to install for the rest.

        clippo fonts
        clippo fonts unifont.otf ~/fonts/MyFont.ttf

    Fonts are looked for in the folders of CLIPPO_FONT_PATH, then in the system's.

    Args:
        names: Font files, by name or path; those that captions are usually drawn with, if left out.
    """
    from clippo.font_coverage import describe
    from clippo.renderer.fonts import PACKAGES

    print("\n".join(describe(list(names or PACKAGES))))


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
