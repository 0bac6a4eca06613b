"""A trained tower as one graph, for runtimes without PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clippo.errors import UserError
from model import Clippo
from model.clippo import normalized

ONNX_BYTES = 2_000_000_000
TOLERANCE = 1e-4  # between embeddings of unit length, by another runtime's order of summation


class ImageEncoder(nn.Module):
    """(B, S, S, 3) uint8 -> (B, out_dim) embeddings of unit length.

    It is the text encoder as well: rendered text goes in with its one channel three times.
    """

    def __init__(self, clippo: Clippo) -> None:
        super().__init__()
        self.tower = clippo.tower

    def forward(self, images: Tensor) -> Tensor:
        # Bytes have a route of their own through the patch embedding, which reads them as ONNX cannot.
        return normalized(self.tower(images.float() / 127.5 - 1))


def export(clippo: Clippo, out: Path) -> float:
    """Write a model's image path, for batches of any size, as `.pt2` (torch.export) or `.onnx`.

    The graph reads all patches of what it is given, so of a model that reads the inked patches of text alone
    it is the image path and not the text path.

    Args:
        clippo: in whose tower everything is.
        out: the file, which appears whole or not at all; its ending names the format.

    Returns:
        The largest difference between an embedding of the file's, read back and run on two batch sizes, and
        the model's own; `.onnx` is run by onnxruntime.

    Raises:
        UserError: another ending, a package that is missing, or a difference that is not rounding; nothing is
            written then.
    """
    if out.suffix not in (".pt2", ".onnx"):
        raise UserError(f"--out must end in .pt2 or .onnx, got {out}")
    parameters_bytes = sum(4 * parameter.numel() for parameter in clippo.parameters())
    if out.suffix == ".onnx" and parameters_bytes > ONNX_BYTES:
        raise UserError(
            f"an .onnx file holds at most 2 GiB, and this model takes {parameters_bytes / 2**30:.1f}: "
            "export to .pt2"
        )
    encoder = ImageEncoder(clippo).eval()
    size = clippo.config.image_size
    example = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    unfinished = out.with_name(f"unfinished-{out.name}")
    try:
        with torch.no_grad():
            program = torch.export.export(encoder, (example,), dynamic_shapes={"images": {0: batch}})
            if out.suffix == ".pt2":
                torch.export.save(program, unfinished)
                run: Callable[[Tensor], Any] = torch.export.load(unfinished).module()
            else:
                run = write_onnx(program, unfinished)
            others = torch.randint(0, 256, (5, size, size, 3), dtype=torch.uint8)
            difference = max(
                float((torch.as_tensor(run(images)) - normalized(clippo.tower(images))).abs().max())
                for images in (example, others)
            )
        if not difference < TOLERANCE:
            raise UserError(f"the exported model differs by {difference:.1e}, more than {TOLERANCE:.0e}")
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)
    return difference


def write_onnx(program: torch.export.ExportedProgram, path: Path) -> Callable[[Tensor], Any]:
    """Write an `.onnx` file, and give what runs it."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - what torch.onnx needs
    except ImportError as error:
        raise UserError(
            f".onnx needs {error.name}: pip install 'clippo-kernels[onnx]', or export to .pt2"
        ) from error
    onnx = torch.onnx.export(program, dynamo=True, verbose=False)
    assert onnx is not None
    onnx.save(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images.numpy()})[0]
