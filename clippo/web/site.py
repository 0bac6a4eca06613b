"""A folder of static files that searches in pictures in the browser: the page, the model and the pictures.

The folder has, next to the page (see page/):

- `tower.onnx`, the graph of `clippo.model.export.export_patches`, which reads pictures and texts alike;
- `glyphs.bin`, from which the page draws texts as the model's renderer does (see clippo.web.glyphs);
- `site.json`: how the model's pictures are resized, and the names of the pictures to search in;
- `embeddings.bin`, those of the pictures, (N, E) little-endian float32; `thumbnails/0.webp` and so on;
- the three files of onnxruntime-web, which run the graph in WebAssembly, and the licences of all of it.

The page asks for nothing outside the folder, and what is typed and added stays in the browser.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from clippo.data.fetch.packages import Package, fetched, members
from clippo.data.remote import cache_folder
from clippo.errors import UserError
from clippo.files import atomic_path
from clippo.model import Clippo, RenderedText
from clippo.model.export import export_patches
from clippo.renderer import AlignedRenderer
from clippo.web.glyphs import glyph_table
from clippo.web.pictures import WebPictures

__all__ = ["export_web"]

RUNTIME = Package(
    "npm", "onnxruntime-web", "MIT", "1.30.0",
    "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71",
)  # fmt: skip
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
PAGE_FILES = ("index.html", "app.js", "tower.js", "layout.js", "resize.js", "style.css")


def export_web(model: Clippo, out: Path, pictures: WebPictures | None = None) -> float:
    """Write the folder.

    Args:
        model: reads text that an `AlignedRenderer` draws.
        out: the folder, which appears whole or not at all.
        pictures: to search in, next to those that a visitor adds; none by default.

    Returns:
        The largest difference of the graph's embeddings, as of `clippo.model.export.export`.

    Raises:
        UserError: the folder holds something, or onnxruntime-web cannot be fetched.
        ValueError, ImportError: the model has another renderer, or as of `glyph_table` and `export_patches`.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not an empty folder")
    text_input = model.text_input
    if not isinstance(text_input, RenderedText) or type(text_input.renderer) is not AlignedRenderer:
        raise ValueError("the page draws text as AlignedRenderer does, and the model reads other text")
    if text_input.tokens != "inked":
        raise ValueError(f'the page feeds inked patches alone, and the model reads "{text_input.tokens}"')
    table = glyph_table(text_input.renderer)
    runtime = dict(members(fetched(RUNTIME, cache_folder("packages")), is_of_runtime))
    with atomic_path(out) as unfinished:
        (unfinished / "thumbnails").mkdir(parents=True)
        for name in PAGE_FILES:
            (unfinished / name).write_bytes(files("clippo.web").joinpath("page", name).read_bytes())
        for path, content in runtime.items():
            (unfinished / Path(path).name).write_bytes(content)
        licences = (
            files("clippo.web").joinpath("page", "ONNXRUNTIME.txt"),
            files("clippo.renderer").joinpath("UNIFONT.txt"),
        )
        (unfinished / "licences.txt").write_bytes(b"\n\n".join(file.read_bytes() for file in licences))
        (unfinished / "glyphs.bin").write_bytes(table)
        site = {"resize": model.config.resize, "names": list(pictures.names) if pictures else []}
        (unfinished / "site.json").write_text(json.dumps(site, ensure_ascii=False), "utf-8")
        embeddings = pictures.embeddings.float().cpu().numpy().astype("<f4").tobytes() if pictures else b""
        (unfinished / "embeddings.bin").write_bytes(embeddings)
        for number, thumbnail in enumerate(pictures.thumbnails if pictures else ()):
            (unfinished / "thumbnails" / f"{number}.webp").write_bytes(thumbnail)
        return export_patches(model, unfinished / "tower.onnx")


def is_of_runtime(path: str) -> bool:
    return path.removeprefix("package/dist/") in RUNTIME_FILES
