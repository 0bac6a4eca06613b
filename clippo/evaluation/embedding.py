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

    Of a pair of texts, the first takes the place of the image.
    """
    if examples and all(example.image is None for example in examples):
        return model.encode_text([example.texts[0].text for example in examples]).cpu()
    parts = []
    for start in range(0, len(examples), batch_size):
        pixels = [transform(pixels_of(example)) for example in examples[start : start + batch_size]]
        parts.append(model.encode_image(torch.from_numpy(np.stack(pixels))).cpu())
    return torch.cat(parts)


def embed_texts(model: Clippo, texts: Sequence[str]) -> np.ndarray:
    """Embed texts: (N, E) float64, on the CPU, as statistics are computed with."""
    out: np.ndarray = model.encode_text(list(texts)).cpu().double().numpy()
    return out
