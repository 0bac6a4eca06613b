"""Write a model as one graph for other runtimes."""

from __future__ import annotations

from pathlib import Path

import tyro

from clippo.arguments import call
from clippo.errors import UserError

__all__ = ["main"]


def export(source: Path, /, *, out: Path, texts: tyro.conf.FlagCreatePairsOff[bool] = False) -> None:
    """Write a model as one graph, which embeds photographs, or rendered texts.

    It takes (B, S, S, 3) uint8 pixels of photographs, or (B, S, S) of texts, any B, and gives (B, out_dim)
    embeddings of unit length. The file is read back and compared with the model before it is kept; .onnx
    needs the `onnx` extra:

        clippo export runs/emoji --out images.onnx
        clippo export runs/emoji --texts --out texts.onnx
        clippo export clippo_b16_yfcc100m.npz --out tower.pt2

    Args:
        source: A run of `clippo train`, a folder of `save_pretrained`, a .npz of big_vision, or hf://owner/name
            on the Hugging Face Hub.
        out: The file to write, .onnx or .pt2 (of torch.export).
        texts: The graph for texts instead of the one for photographs.
    """
    from clippo.model.export import export as export_model
    from clippo.training.run_folder import load_model

    if not out.absolute().parent.is_dir():
        raise UserError(f"cannot write {out}: there is no folder {out.parent}")
    model = load_model(source)
    try:
        difference = export_model(model, out, texts=texts)
    except (ValueError, ImportError) as error:
        raise UserError(str(error)) from error
    print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB, differs by at most {difference:.1e}")


def main(arguments: list[str]) -> None:
    call(export, arguments, prog="clippo export")
