"""Embeddings of the examples that are measured on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from clippo.data.base import Example
from clippo.data.decode import pixels_of
from clippo.data.transform import Transform
from clippo.model import Clippo

__all__ = ["embed_images", "embed_texts"]


def embed_images(
    model: Clippo, examples: Sequence[Example], transform: Transform, batch_size: int = 256
) -> Tensor:
    """Embed the images of examples, without random changes: (N, E), on the CPU.

    Of a pair of texts, the first takes the place of the image. There must be one example at least.
    """
    # A stable sort puts the images before the texts, and the inverse of its order puts all back.
    order = torch.tensor([example.image is None for example in examples]).argsort(stable=True)
    images = [example for example in examples if example.image is not None]
    parts = []
    for start in range(0, len(images), batch_size):
        pixels = [transform(pixels_of(example)) for example in images[start : start + batch_size]]
        parts.append(model.encode_image(torch.from_numpy(np.stack(pixels))).cpu())
    if len(images) < len(examples):
        texts = [example.texts[0].text for example in examples if example.image is None]
        parts.append(model.encode_text(texts).cpu())
    return torch.cat(parts)[order.argsort()]


def embed_texts(model: Clippo, texts: Sequence[str]) -> np.ndarray:
    """Embed texts: (N, E) float64, on the CPU, as statistics are computed with."""
    out: np.ndarray = model.encode_text(list(texts)).cpu().double().numpy()
    return out
