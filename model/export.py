"""Export of a trained model as one graph, for runtimes without PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from clippo.files import atomic_path
from clippo.model.clippo import Clippo, normalized
from clippo.model.layers import Attention, AttentionPool, Block
from clippo.model.text_input import RenderedText

__all__ = ["export"]

ONNX_BYTES = 2_000_000_000
TOLERANCE = 1e-4  # on embeddings of unit length: other runtimes sum in another order


class ImageGraph(nn.Module):
    """Graph from (B, S, S, 3) uint8 images to (B, E) embeddings of unit length."""

    def __init__(self, clippo: Clippo) -> None:
        super().__init__()
        self.tower = clippo.tower

    def forward(self, images: Tensor) -> Tensor:
        # ONNX has no operators for the uint8 path of patch_embed.
        return normalized(self.tower(images.float() / 127.5 - 1))


class TextGraph(nn.Module):
    """Graph from (B, S, S) uint8 rendered texts to (B, E) embeddings of unit length.

    Runtimes have no packed attention. For a model that reads only the inked patches of text, the graph
    computes all patches and masks the blank ones. The embeddings are the same, at the cost of all patches.
    """

    def __init__(self, text_input: RenderedText, clippo: Clippo) -> None:
        super().__init__()
        self.text_input = text_input
        self.tower = clippo.tower

    def forward(self, texts: Tensor) -> Tensor:
        encoder = self.tower.encoder
        mask_BN = self.text_input.mask(texts)
        x = self.tower.patch_embed(texts.float() / 127.5 - 1)
        if mask_BN is None:
            return normalized(encoder(x))
        mask = mask_BN[:, None, None]
        for block in encoder.blocks:
            assert isinstance(block, Block)
            x = x + masked_attention(block.attn, block.norm1(x), mask)
            x = x + block.mlp(block.norm2(x))
        return normalized(encoder.head(masked_pool(encoder.pool, encoder.norm(x), mask)))


def masked_attention(attention: Attention, x: Tensor, mask: Tensor) -> Tensor:
    """Run an `Attention` with keys only where a mask (B, 1, 1, N) is True."""
    q, k, v = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B, H, N, F)
    out: Tensor = attention.proj(mixed.transpose(1, 2).flatten(-2))
    return out


def masked_pool(pool: AttentionPool, x: Tensor, mask: Tensor) -> Tensor:
    """Run an `AttentionPool` over the tokens where a mask (B, 1, 1, N) is True."""
    k, v = pool.kv(x).unflatten(-1, (2, pool.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q = pool.q(pool.probe).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)  # (1, H, 1, F)
    pooled = scaled_dot_product_attention(q.expand(x.shape[0], -1, -1, -1), k, v, attn_mask=mask)
    return pool.project(pooled.squeeze(2))


def export(clippo: Clippo, out: Path, *, texts: bool = False) -> float:
    """Write the graph that embeds images, or rendered texts, as `.pt2` (torch.export) or `.onnx`.

    The graph takes batches of any size. See `ImageGraph` and `TextGraph` for its input.

    Args:
        clippo: the model.
        out: the file, which appears whole or not at all; its ending names the format.
        texts: export the graph for texts instead of images.

    Returns:
        The largest difference between embeddings of the file, read back and run on two batch sizes, and
        those of the model; `.onnx` is run by onnxruntime.

    Raises:
        ValueError: another ending, a model without rendered texts, a model that is too large for `.onnx`, or
            a difference that is not rounding; nothing is written then.
        ImportError: a package that `.onnx` needs is missing.
    """
    if out.suffix not in (".pt2", ".onnx"):
        raise ValueError(f"--out must end in .pt2 or .onnx, got {out}")
    if texts and not isinstance(clippo.text_input, RenderedText):
        raise ValueError("the model reads text as bytes: there is no graph of rendered text")
    parameters_bytes = sum(4 * parameter.numel() for parameter in clippo.parameters())
    if out.suffix == ".onnx" and parameters_bytes > ONNX_BYTES:
        raise ValueError(
            f"an .onnx file holds at most 2 GiB, and this model takes {parameters_bytes / 2**30:.1f}: "
            "export to .pt2"
        )
    expected: Callable[[Tensor], Tensor]
    if texts:
        assert isinstance(clippo.text_input, RenderedText)
        graph: nn.Module = TextGraph(clippo.text_input, clippo)
        expected, examples = clippo.embed_texts, [example_texts(clippo.text_input, n) for n in (2, 5)]
    else:
        graph = ImageGraph(clippo)
        expected, examples = clippo.embed_images, [example_images(clippo, n) for n in (2, 5)]
    batch = torch.export.Dim("batch", min=1)
    with atomic_path(out) as unfinished, torch.no_grad():
        program = torch.export.export(graph.eval(), (examples[0],), dynamic_shapes=({0: batch},))
        if out.suffix == ".pt2":
            torch.export.save(program, unfinished)
            run: Callable[[Tensor], Any] = torch.export.load(unfinished).module()
        else:
            run = write_onnx(program, unfinished)
        difference = max(
            float((torch.as_tensor(run(pixels)) - normalized(expected(pixels))).abs().max())
            for pixels in examples
        )
        if not difference < TOLERANCE:
            raise ValueError(f"the exported model differs by {difference:.1e}, more than {TOLERANCE:.0e}")
    return difference


def example_images(clippo: Clippo, count: int) -> Tensor:
    size = clippo.config.image_size
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8)


def example_texts(text_input: RenderedText, count: int) -> Tensor:
    """Random dots, about one for each patch, so that a third of the patches are blank."""
    size, patch_size = text_input.image_size, text_input.patch_size
    is_ink = torch.rand(count, size, size) < patch_size**-2
    return torch.where(is_ink, 0, text_input.background).to(torch.uint8)


def write_onnx(program: torch.export.ExportedProgram, path: Path) -> Callable[[Tensor], Any]:
    """Write an `.onnx` file, and return a function that runs it."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise ImportError(
            f".onnx needs {error.name}: pip install 'clippo-kernels[onnx]', or export to .pt2"
        ) from error
    onnx = torch.onnx.export(program, dynamo=True, verbose=False)
    assert onnx is not None
    onnx.save(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    [pixels] = session.get_inputs()
    return lambda batch: session.run(None, {pixels.name: batch.numpy()})[0]
