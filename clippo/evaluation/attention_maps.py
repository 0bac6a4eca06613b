"""Attention maps of the pooling head: which patches of an image, and which letters of a text, are looked at.

The MAP head pools the tokens of the last block with one learned query; its softmax weights say how much each
token contributes. The fused op does not return them, so they are computed here from the same parameters. A
token of the last block has seen all others, so that a map shows where the head reads, and not what a decision
depends on (Jain and Wallace, arXiv 1902.10186).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from clippo.data.base import Example, Source, SourceConfig, Split
from clippo.data.decode import pixels_of, read_all
from clippo.data.transform import Transform, TransformConfig
from clippo.errors import UserError
from clippo.evaluation.base import Evaluator, EvaluatorConfig, Metrics
from clippo.evaluation.examples import main_text, sample
from clippo.evaluation.intervals import mean_estimate
from clippo.model import AttentionPool, Clippo, Encoder, RenderedText
from clippo.model.packing import PackedPatches, VarlenInfo, equal_lengths
from clippo.renderer import inked_patches

__all__ = ["AttentionMapsConfig"]

MAX_EXAMPLES = 500
BATCH = 64
DRAWN = 12  # examples in the picture
DRAWN_PER_ROW = 2
CELL_PX = 192
GAP_PX = 8
COLOUR = (230, 0, 120)  # of what is looked at; rare in photographs, and unlike text
OPACITY = 0.75  # of the patch with the largest weight


@dataclass(frozen=True, kw_only=True)
class AttentionMapsConfig(EvaluatorConfig):
    """Where the pooling head looks in images and in texts.

    Attributes:
        split: the examples that are measured, at most 500 of them.
        data: look at this source, and not at the one that the run trains on.
    """

    name: ClassVar[str] = "attention_maps"
    split: Split = "held_out"
    data: SourceConfig | None = None

    def build(self, data: SourceConfig, transform: TransformConfig, image_size: int) -> AttentionMaps:
        source = (self.data or data).build(self.split, image_size=image_size)
        return AttentionMaps(source, transform.build(image_size))


@dataclass(frozen=True)
class AttentionMap:
    """The weights of the pooling head over the n tokens of an image or of a text.

    Attributes:
        positions: (n,) of the tokens: patches of an image, counted row by row, or bytes of a text.
        weights: (n, H) float64 of each head, which sum to 1.
    """

    positions: np.ndarray
    weights: np.ndarray


class AttentionMaps(Evaluator):
    """Measures of the attention of the pooling head, of the mean of its heads and of "head_1" and so on.

    - "image/entropy", "text/entropy": entropy of the weights in percent of that of equal weights; 100 if the
      head looks everywhere alike, 0 if it looks at one token.
    - "image/content", "text/content": percent of the weights on patches with content; these are patches
      of more than one colour in an image, and patches with ink in a text. "image/chance/content" is what
      equal weights have. They are left out where all patches that are read have content.

    Args:
        source: examples. Of more than 500, so many are drawn. Of these, pairs of texts and what cannot be
            read are left out. The text of an example is its first in English, or its first.
        transform: turns images into pixels.

    Raises:
        UserError: no images.
    """

    headline: ClassVar[Mapping[str, str]] = {
        "image/entropy": "",
        "image/content": "image/chance/content",
        "text/entropy": "",
        "text/content": "text/chance/content",
    }

    def __init__(self, source: Source, transform: Transform) -> None:
        self.source = source
        self.transform = transform
        found = read_all(source, sample(range(len(source)), MAX_EXAMPLES))
        self.examples = [example for example in found if example.image is not None]
        if not self.examples:
            raise UserError("attention_maps needs at least one image, got none that can be read")

    @property
    def fingerprint(self) -> str:
        return self.source.fingerprint

    def __call__(self, model: Clippo) -> Metrics:
        patch_size = model.config.patch_size
        image_maps, image_content, text_maps, text_content = [], [], [], []
        for start in range(0, len(self.examples), BATCH):
            pixels, texts = self.inputs(self.examples[start : start + BATCH])
            image_maps += maps_of_images(model, pixels)
            text_maps += maps_of_texts(model, texts)
            image_content += list(patches_of_many_colours(pixels, patch_size))
            if isinstance(model.text_input, RenderedText):
                drawn = model.renderer(texts)
                inked = inked_patches(drawn, patch_size, model.text_input.background)
                text_content += list(inked.reshape(len(texts), -1))
        metrics = {f"image/{name}": v for name, v in measures(image_maps, image_content).items()}
        metrics |= {f"text/{name}": v for name, v in measures(text_maps, text_content).items()}
        return metrics

    def inputs(self, examples: Sequence[Example]) -> tuple[np.ndarray, list[str]]:
        """Pixels (B, S, S, 3) uint8 and texts of examples."""
        pixels = np.stack([self.transform(pixels_of(example)) for example in examples])
        return pixels, [main_text(example).text for example in examples]

    def picture(self, model: Clippo) -> Image.Image:
        """Images and texts, each beside the same with its attention, the mean over the heads, in colour.

        The colour of a patch is the stronger, the larger its weight is in relation to the largest.
        """
        pixels, texts = self.inputs(self.examples[:DRAWN])
        columns = [pixels, overlaid(pixels, maps_of_images(model, pixels), model.config.patch_size)]
        if isinstance(model.text_input, RenderedText):
            drawn = np.repeat(np.asarray(model.renderer(texts))[..., None], 3, axis=-1)
            columns += [drawn, overlaid(drawn, maps_of_texts(model, texts), model.config.patch_size)]
        pitch = CELL_PX + GAP_PX
        per_row = min(DRAWN_PER_ROW, len(texts))
        size = (per_row * (len(columns) * pitch + GAP_PX), -(-len(texts) // per_row) * pitch + GAP_PX)
        sheet = Image.new("RGB", size, "white")
        for number, cells in enumerate(zip(*columns, strict=True)):
            row, place = divmod(number, per_row)
            for column, cell in enumerate(cells):
                x = GAP_PX + place * (len(columns) * pitch + GAP_PX) + column * pitch
                enlarged = Image.fromarray(cell).resize((CELL_PX, CELL_PX), Image.Resampling.BICUBIC)
                sheet.paste(enlarged, (x, GAP_PX + row * pitch))
        return sheet


@torch.no_grad()
def maps_of_images(model: Clippo, pixels: np.ndarray) -> list[AttentionMap]:
    """The attention over B images, (B, S, S, 3) uint8."""
    tokens, varlen = model.image_tokens(torch.from_numpy(pixels))
    return maps(model.tower.encoder, tokens, varlen, None)


@torch.no_grad()
def maps_of_texts(model: Clippo, texts: Sequence[str]) -> list[AttentionMap]:
    """The attention over texts."""
    tokenized = model.text_input.tokenize(texts)
    mask = model.text_input.mask(tokenized)
    tokens, varlen = model.text_input(
        tokenized.to(model.device),
        None if mask is None else mask.to(model.device),
        model.tower.patch_embed,
    )
    positions = None if mask is None else mask.nonzero()[:, 1]
    if isinstance(tokenized, PackedPatches):
        positions = tokenized.positions
    return maps(model.text_encoder or model.tower.encoder, tokens, varlen, positions)


def maps(
    encoder: Encoder, tokens: Tensor, varlen: VarlenInfo | None, positions: Tensor | None
) -> list[AttentionMap]:
    """The attention over the sequences of tokens; without `positions`, (T,), each is a whole sequence."""
    features = encoder.forward_features(tokens, varlen)
    if varlen is None:
        B, N, _ = features.shape
        features, varlen = features.flatten(0, 1), equal_lengths(B, N, features.device)
        positions = torch.arange(N).repeat(B)
    assert positions is not None
    lengths = varlen.cu_seqlens.diff().tolist()
    logits = pool_logits(encoder.pool, features).split(lengths)
    parts = zip(positions.split(lengths), logits, strict=True)
    return [AttentionMap(place.numpy(), part.softmax(0).numpy()) for place, part in parts]


def pool_logits(pool: AttentionPool, x: Tensor) -> Tensor:
    """The scaled products of the learned query with the keys of tokens (T, D): (T, H) float64, on the CPU."""
    probe, q_weight, q_bias, kv_weight, kv_bias, x = (
        tensor.detach().cpu().double()
        for tensor in (pool.probe, pool.q.weight, pool.q.bias, pool.kv.weight, pool.kv.bias, x)
    )
    q_HF = F.linear(probe, q_weight, q_bias).view(pool.num_heads, -1)
    k_THF = F.linear(x, kv_weight.chunk(2)[0], kv_bias.chunk(2)[0]).unflatten(-1, q_HF.shape)
    logits: Tensor = (k_THF * q_HF).sum(-1) * q_HF.shape[1] ** -0.5
    return logits


def patches_of_many_colours(pixels: np.ndarray, patch_size: int) -> np.ndarray:
    """(B, N) bool, the patches of images (B, S, S, 3) whose pixels are not all alike."""
    B, S, _, _ = pixels.shape
    P, R = patch_size, S // patch_size
    patches = pixels.reshape(B, R, P, R, P, 3).swapaxes(2, 3).reshape(B, R * R, P * P, 3)
    return np.asarray((patches != patches[:, :, :1]).any((2, 3)))


def measures(found: Sequence[AttentionMap], content: Sequence[np.ndarray]) -> Metrics:
    """The measures of `AttentionMaps` of images or of texts.

    Args:
        found: of each of them.
        content: (N,) bool, which of its patches have content; empty for tokens that are no patches.
    """
    weights = [np.column_stack([one.weights.mean(1), one.weights]) for one in found]
    names = ["", *(f"head_{number}/" for number in range(1, weights[0].shape[1]))]
    metrics: Metrics = {}
    if several := [entropy(own) for own in weights if len(own) > 1]:
        entropies = np.stack(several).T
        metrics |= {f"{name}entropy": mean_estimate(own) for name, own in zip(names, entropies, strict=True)}
    read = [has_content[one.positions] for one, has_content in zip(found, content, strict=False)]
    kept = [(own, is_content) for own, is_content in zip(weights, read, strict=False) if is_content.any()]
    if not all(is_content.all() for _, is_content in kept):
        shares = 100 * np.stack([own[is_content].sum(0) for own, is_content in kept]).T
        metrics |= {f"{name}content": mean_estimate(own) for name, own in zip(names, shares, strict=True)}
        metrics["chance/content"] = 100 * float(np.mean([is_content.mean() for _, is_content in kept]))
    return metrics


def entropy(weights: np.ndarray) -> np.ndarray:
    """(H,) entropy of weights (n, H) in percent of that of n equal weights."""
    logarithm = np.log(weights, where=weights > 0, out=np.zeros_like(weights))
    out: np.ndarray = -100 * (weights * logarithm).sum(0) / np.log(len(weights))
    return out


def overlaid(pixels: np.ndarray, found: Sequence[AttentionMap], patch_size: int) -> np.ndarray:
    """Colour the patches of images (B, S, S, 3) by their mean weights, in relation to the largest of each."""
    B, S, _, _ = pixels.shape
    R = S // patch_size
    heat = np.zeros((B, R * R))
    for row, one in zip(heat, found, strict=True):
        mean = one.weights.mean(1)
        row[one.positions] = mean / mean.max()
    opacity = OPACITY * heat.reshape(B, R, R, 1).repeat(patch_size, axis=1).repeat(patch_size, axis=2)
    return np.asarray((1 - opacity) * pixels + opacity * np.array(COLOUR)).round().astype(np.uint8)
