"""A trained tower as one graph, for runtimes without PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from clippo.errors import UserError
from clippo.model import Clippo
from clippo.model.clippo import normalized
from clippo.model.packing import inked_patches
from clippo.model.tower import Attention, MapHead
from clippo.training.baselines import BytesClippo

ONNX_BYTES = 2_000_000_000
TOLERANCE = 1e-4  # between embeddings of unit length, by another runtime's order of summation


class ImageEncoder(nn.Module):
    """(B, S, S, 3) uint8 -> (B, out_dim) embeddings of unit length."""

    def __init__(self, clippo: Clippo) -> None:
        super().__init__()
        self.tower = clippo.tower

    def forward(self, images: Tensor) -> Tensor:
        # Bytes have a route of their own through the patch embedding, which reads them as ONNX cannot.
        return normalized(self.tower(images.float() / 127.5 - 1))


class TextEncoder(nn.Module):
    """(B, S, S) uint8 rendered texts -> (B, out_dim) embeddings of unit length.

    Runtimes have no packed attention. A model that reads the inked patches of text alone is written with all
    of them and a mask: the same embeddings, at the price of all patches.
    """

    def __init__(self, clippo: Clippo) -> None:
        super().__init__()
        self.config = clippo.config
        self.background = clippo.background
        self.tower = clippo.tower
        if self.config.text_tokens == "inked":
            self.tower = deepcopy(clippo.tower)
            for name, part in clippo.tower.named_modules():
                if isinstance(part, Attention):
                    self.tower.set_submodule(name, MaskedAttention(part))
                elif isinstance(part, MapHead):
                    self.tower.set_submodule(name, MaskedMapHead(part))

    def forward(self, texts: Tensor) -> Tensor:
        mask: Any = None
        if self.config.text_tokens == "inked":
            is_inked_BN = inked_patches(texts, self.config.patch_size, self.background)
            mask = is_inked_BN[:, None, None]
        x = self.tower.embed(texts.float() / 127.5 - 1)
        return normalized(self.tower.embedding_of(x, mask))


class MaskedAttention(nn.Module):
    """`Attention` of patches to those that are True in a mask (B, 1, 1, N)."""

    def __init__(self, of: Attention) -> None:
        super().__init__()
        self.of = of

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.of.qkv(x).unflatten(-1, (3, self.of.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, N, F)
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.of.proj(mixed.transpose(1, 2).flatten(-2))


class MaskedMapHead(nn.Module):
    """`MapHead` over the patches that are True in a mask (B, 1, 1, N)."""

    def __init__(self, of: MapHead) -> None:
        super().__init__()
        self.of = of

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        k, v = self.of.kv(x).unflatten(-1, (2, self.of.heads, -1)).permute(2, 0, 3, 1, 4)
        q = self.of.q(self.of.probe).unflatten(-1, (self.of.heads, -1)).transpose(1, 2)  # (1, H, 1, F)
        answers = scaled_dot_product_attention(q.expand(x.shape[0], -1, -1, -1), k, v, attn_mask=mask)
        a_BD = self.of.proj(answers.flatten(1))
        return a_BD + self.of.mlp(self.of.norm(a_BD))


def export(clippo: Clippo, out: Path, *, texts: bool = False) -> float:
    """Write how a model embeds photographs, or rendered texts, as `.pt2` (torch.export) or `.onnx`.

    The graph takes batches of any size. See `ImageEncoder` and `TextEncoder` for what goes in.

    Args:
        clippo: the model.
        out: the file, which appears whole or not at all; its ending names the format.
        texts: the graph for texts. A model that reads all patches has the same one for both, but for the
            number of channels.

    Returns:
        The largest difference between an embedding of the file's, read back and run on two batch sizes, and
        the model's own; `.onnx` is run by onnxruntime.

    Raises:
        UserError: another ending, a model without rendered texts, a package that is missing, or a difference
            that is not rounding; nothing is written then.
    """
    if out.suffix not in (".pt2", ".onnx"):
        raise UserError(f"--out must end in .pt2 or .onnx, got {out}")
    if texts and isinstance(clippo, BytesClippo):
        raise UserError("the model reads text as bytes: there is no graph of rendered text")
    parameters_bytes = sum(4 * parameter.numel() for parameter in clippo.parameters())
    if out.suffix == ".onnx" and parameters_bytes > ONNX_BYTES:
        raise UserError(
            f"an .onnx file holds at most 2 GiB, and this model takes {parameters_bytes / 2**30:.1f}: "
            "export to .pt2"
        )
    encoder = (TextEncoder if texts else ImageEncoder)(clippo).eval()
    expected = clippo.embed_texts if texts else clippo.embed_images
    example, others = (example_texts(clippo, n) if texts else example_images(clippo, n) for n in (2, 5))
    batch = torch.export.Dim("batch", min=1)
    unfinished = out.with_name(f"unfinished-{out.name}")
    try:
        with torch.no_grad():
            program = torch.export.export(encoder, (example,), dynamic_shapes=({0: batch},))
            if out.suffix == ".pt2":
                torch.export.save(program, unfinished)
                run: Callable[[Tensor], Any] = torch.export.load(unfinished).module()
            else:
                run = write_onnx(program, unfinished)
            difference = max(
                float((torch.as_tensor(run(pixels)) - normalized(expected(pixels))).abs().max())
                for pixels in (example, others)
            )
        if not difference < TOLERANCE:
            raise UserError(f"the exported model differs by {difference:.1e}, more than {TOLERANCE:.0e}")
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)
    return difference


def example_images(clippo: Clippo, count: int) -> Tensor:
    size = clippo.config.image_size
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8)


def example_texts(clippo: Clippo, count: int) -> Tensor:
    """Paper with a few dots on it: about one to a patch, so that a third of the patches is blank."""
    size, patch_size = clippo.config.image_size, clippo.config.patch_size
    is_ink = torch.rand(count, size, size) < patch_size**-2
    return torch.where(is_ink, 0, clippo.background).to(torch.uint8)


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
    [pixels] = session.get_inputs()
    return lambda batch: session.run(None, {pixels.name: batch.numpy()})[0]
