"""Write a model for other runtimes: as one graph, or as a page that runs it in the browser."""

from __future__ import annotations

from pathlib import Path

import tyro

from clippo.arguments import call
from clippo.errors import UserError

__all__ = ["main"]


def export(
    source: Path,
    /,
    *,
    out: Path | None = None,
    texts: tyro.conf.FlagCreatePairsOff[bool] = False,
    web: Path | None = None,
    index: Path | None = None,
) -> None:
    """Write a model as one graph, or as a page that searches in pictures in the browser alone.

    The graph embeds photographs, or rendered texts. It takes (B, S, S, 3) uint8 pixels of photographs, or
    (B, S, S) of texts, any B, and gives (B, out_dim) embeddings of unit length. The file is read back and
    compared with the model before it is kept; .onnx and --web need the `onnx` extra:

        clippo export runs/emoji --out images.onnx
        clippo export runs/emoji --texts --out texts.onnx
        clippo export clippo_b16_yfcc100m.npz --out tower.pt2

    The page needs a server of files, and nothing that computes; --web also needs npm, which fetches
    onnxruntime-web:

        clippo index photos --model runs/emoji --out photos.idx
        clippo export runs/emoji --web site --index photos.idx
        python -m http.server --directory site --bind 127.0.0.1

    Args:
        source: A run of `clippo train`, a folder of `save_pretrained`, a .npz of big_vision, the name of a
            model that comes with this package, or hf://owner/name on the Hugging Face Hub.
        out: The file to write, .onnx or .pt2 (of torch.export).
        texts: The graph for texts instead of the one for photographs.
        web: The folder to write the page to, new or empty.
        index: An index of `clippo index` by this model, whose pictures the page shows.
    """
    from clippo.model.export import export as export_model
    from clippo.training.run_folder import load_model

    target = web if out is None else out
    if target is None or (out is not None and web is not None):
        raise UserError("give one of --out and --web")
    if texts and out is None:
        raise UserError("--texts goes with --out; the page reads photographs and texts")
    if index is not None and web is None:
        raise UserError("--index goes with --web; a graph holds no pictures")
    if not target.absolute().parent.is_dir():
        raise UserError(f"cannot write {target}: there is no folder {target.parent}")
    model = load_model(source)
    pictures = None
    if index is not None:
        from clippo.index import PictureIndex
        from clippo.web import pictures_of

        opened = PictureIndex.open(index)
        opened.check_model(model, str(source))
        pictures = pictures_of(opened)
    try:
        if out is None:
            from clippo.web import export_web

            difference = export_web(model, target, pictures)
        else:
            difference = export_model(model, out, texts=texts)
    except (ValueError, ImportError) as error:
        raise UserError(str(error)) from error
    files = [path for path in [target, *target.rglob("*")] if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    print(f"{target}: {size / 2**20:.1f} MiB, differs by at most {difference:.1e}")


def main(arguments: list[str]) -> None:
    call(export, arguments, prog="clippo export")
