"""Export of a trained model as one graph, for runtimes without PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, scaled_dot_product_attention

from clippo.files import atomic_path
from clippo.model.clippo import Clippo, normalized
from clippo.model.layers import Attention, AttentionPool, Block
from clippo.model.packing import KeptPatches, VarlenInfo
from clippo.model.text_input import RenderedText

__all__ = ["export", "export_patches"]

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


class PatchGraph(nn.Module):
    """Graph from the patches of one image or text to its embedding of unit length, (1, E).

    It takes (T, P, P, 3) uint8 pixels and (T,) int32 positions, which count row by row over the image. A text
    is grey, so its three channels are equal, and it may be without its blank patches. One graph serves both,
    as one tower does.
    """

    def __init__(self, clippo: Clippo) -> None:
        super().__init__()
        self.tower = clippo.tower

    def forward(self, pixels: Tensor, positions: Tensor) -> Tensor:
        embed = self.tower.patch_embed
        x = (pixels.float() / 127.5 - 1).permute(0, 3, 1, 2).flatten(1)
        tokens = linear(x, embed.weight.flatten(1), embed.bias) + embedding(positions, embed.pos_embed[0])
        return normalized(self.tower.encoder(tokens[None]))


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
    if texts and not isinstance(clippo.text_input, RenderedText):
        raise ValueError("the model reads text as bytes: there is no graph of rendered text")
    expected: Callable[[Tensor], Tensor]
    if texts:
        assert isinstance(clippo.text_input, RenderedText)
        graph: nn.Module = TextGraph(clippo.text_input, clippo)
        expected, examples = clippo.embed_texts, [example_texts(clippo.text_input, n) for n in (2, 5)]
    else:
        graph = ImageGraph(clippo)
        expected, examples = clippo.embed_images, [example_images(clippo, n) for n in (2, 5)]
    batch = torch.export.Dim("batch", min=1)
    return write_checked(clippo, graph, [(x,) for x in examples], ({0: batch},), expected, out)


def export_patches(clippo: Clippo, out: Path) -> float:
    """Write the graph that embeds the patches of one image or text, as `export` writes those of batches.

    See `PatchGraph` for its input, which has any number of patches.

    Args:
        clippo: the model.
        out: the file, as of `export`.

    Returns:
        The largest difference, as of `export`, with all patches of an image and with some of them.

    Raises:
        ValueError, ImportError: as of `export`, for a model without rendered texts too.
    """
    if not isinstance(clippo.text_input, RenderedText):
        raise ValueError("the model reads text as bytes: there is no graph of its patches")
    size, P = clippo.config.image_size, clippo.config.patch_size

    def expected(pixels: Tensor, positions: Tensor) -> Tensor:
        image = torch.zeros(clippo.config.num_patches, P, P, 3, dtype=torch.uint8)
        image[positions] = pixels
        image = image.view(size // P, size // P, P, P, 3).transpose(1, 2).reshape(1, size, size, 3)
        kept = torch.stack([torch.zeros_like(positions), positions], 1)
        varlen = VarlenInfo(torch.tensor([0, len(positions)], dtype=torch.int32), len(positions))
        embeddings: Tensor = clippo.tower(image, KeptPatches(kept, varlen))
        return embeddings

    all_positions = torch.arange(clippo.config.num_patches, dtype=torch.int32)
    examples = [
        (torch.randint(0, 256, (len(positions), P, P, 3), dtype=torch.uint8), positions)
        for positions in (all_positions, all_positions[::3])
    ]
    patches = torch.export.Dim("patches", min=1)
    return write_checked(clippo, PatchGraph(clippo), examples, ({0: patches}, {0: patches}), expected, out)


def write_checked(
    clippo: Clippo,
    graph: nn.Module,
    examples: Sequence[tuple[Tensor, ...]],
    dynamic_shapes: tuple[dict[int, Any], ...],
    expected: Callable[..., Tensor],
    out: Path,
) -> float:
    """Write a graph, traced with the first example, and compare what it gives for all of them.

    Args:
        clippo, out: as of `export`.
        graph: takes the tensors of an example.
        examples: of different sizes.
        dynamic_shapes: the axes of any length, for each tensor; see `torch.export.export`.
        expected: gives the embeddings of an example by the model itself, not normalised.

    Returns:
        The largest difference, as of `export`.

    Raises:
        ValueError, ImportError: as of `export`.
    """
    if out.suffix not in (".pt2", ".onnx"):
        raise ValueError(f"--out must end in .pt2 or .onnx, got {out}")
    parameters_bytes = sum(4 * parameter.numel() for parameter in clippo.parameters())
    if out.suffix == ".onnx" and parameters_bytes > ONNX_BYTES:
        raise ValueError(
            f"an .onnx file holds at most 2 GiB, and this model takes {parameters_bytes / 2**30:.1f}: "
            "export to .pt2"
        )
    with atomic_path(out) as unfinished, torch.no_grad():
        program = torch.export.export(graph.eval(), examples[0], dynamic_shapes=dynamic_shapes)
        if out.suffix == ".pt2":
            torch.export.save(program, unfinished)
            run: Callable[..., Any] = torch.export.load(unfinished).module()
        else:
            run = write_onnx(program, unfinished)
        difference = max(
            float((torch.as_tensor(run(*example)) - normalized(expected(*example))).abs().max())
            for example in examples
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


def write_onnx(program: torch.export.ExportedProgram, path: Path) -> Callable[..., Any]:
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
    names = [x.name for x in session.get_inputs()]
    return lambda *example: session.run(None, dict(zip(names, map(Tensor.numpy, example), strict=True)))[0]
