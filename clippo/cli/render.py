"""Draw text as a model reads it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Literal

from clippo.arguments import call
from clippo.errors import UserError
from clippo.files import read_lines
from clippo.renderer import renderer_configs
from clippo.renderer.paragraph import UNIFONT

__all__ = ["main"]


def render(
    texts: tuple[str, ...] = (),
    /,
    *,
    out: Path,
    file: Path | None = None,
    renderer: tuple[str, ...] = ("unifont",),
    size: int = 224,
    fonts: tuple[str, ...] = UNIFONT,
    font_size: int = 16,
    overflow: Literal["clip", "shrink", "error"] = "clip",
    align: Literal["word", "cell"] = "word",
    patch_size: int = 16,
    grid: int | None = None,
) -> None:
    """Draw text exactly as a CLIPPO tower reads it, and say what could not be drawn.

    `unifont` is the published renderer, `aligned` sets words on the grid of patches, `paragraph` shapes text
    as a word processor does. Of several texts, or with several renderers, a picture becomes a sheet; a name
    without an ending, a folder of pictures:

        clippo render "a photo of a cat" --out cat.png
        clippo render "写真の猫" "صورة قطة" --renderer paragraph --size 96 --out two.png
        clippo render --file captions.txt --renderer unifont paragraph --out sheet.png
        clippo render --file captions.txt --out folder
        clippo render "a big dog" "dog" --renderer unifont aligned --size 64 --grid 16 --out grid.png

    Args:
        texts: What to draw, in any script.
        out: Picture file to write; its ending names the format. Without an ending, a folder.
        file: Draw the lines of this UTF-8 file, after the texts.
        renderer: Names of renderers; several, to compare them.
        size: Height and width of an image in px.
        fonts: Font files of `paragraph`, by name or path; each character is set in the first that has it.
        font_size: Of `paragraph`, in px; lines stay 16 px apart.
        overflow: What `paragraph` does with text that does not fit.
        align: Of `aligned`: words begin at a patch, or all cells follow one another.
        patch_size: Of `aligned`, in px: 8, 14, 16 or 32.
        grid: Draw the patches of this size in px, and all pixels larger.
    """
    from PIL import Image

    from clippo.pictures import check_picture_path, draw_text_sheet, save_each, save_picture

    if grid is not None and not 2 <= grid <= size:
        raise UserError(f"--grid must be from 2 to the size of the images, {size} px, got {grid}")
    if out.suffix:
        check_picture_path(out)
    lines = list(texts)
    if file is not None:
        lines += read_lines(file)
    if not lines:
        raise UserError("there is nothing to draw: give texts, or a --file of them")
    options = {"fonts": fonts, "font_size": font_size, "overflow": overflow}
    options |= {"align": align, "patch_size": patch_size}
    known = renderer_configs()
    columns = []
    try:
        for name in renderer:
            if name not in known:
                raise ValueError(f"--renderer must be among {', '.join(known)}; got {name!r}")
            own = {field.name for field in fields(known[name])}
            given = {key: value for key, value in options.items() if key in own and name != "unifont"}
            draw = known[name](**given).build(size)
            pixels, report = draw.render(lines, patch_size=1)
            print(f"{name}: {report}")
            columns.append(pixels)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not out.suffix:
        if grid is not None:
            raise UserError(f"--grid is for one picture, and --out {out} is a folder")
        if len(columns) > 1:
            raise UserError(f"--out {out} is a folder, which holds the pictures of one renderer only")
        save_each(columns[0], out)
    elif len(lines) == len(columns) == 1 and grid is None:
        save_picture(Image.fromarray(columns[0][0]), out)
    else:
        save_picture(draw_text_sheet(columns, draw.background, grid), out)


def main(arguments: list[str]) -> None:
    call(render, arguments, prog="clippo render")
