"""What CLIPPO is compared with: models that read text as bytes instead of as pixels.

Both are of arXiv 2212.08045, there with a vocabulary of 32,000 word pieces: `OneTower` (1T-CLIP) shares all
but the embedding of tokens between photographs and text, `TwoTowers` (CLIP*) shares nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clippo.model import Clippo, TowerConfig
from clippo.model.clippo import normalized
from clippo.model.packing import Patches, Sequences, join_sequences, list_patches
from clippo.model.tower import Encoder

Baseline = Literal["none", "1t", "two-tower"]

BYTES = 256
MAX_BYTES = 64  # of a text; twice as many as a rendered one of 64 px shows letters
NO_BYTE = -1


class ByteTokenizer:
    """Strings -> (B, 64) int16, their UTF-8 bytes, padded with -1; what is longer is cut."""

    description = {"renderer": "ByteTokenizer", "options": {"max_bytes": MAX_BYTES}}  # noqa: RUF012

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        out = np.full((len(texts), MAX_BYTES), NO_BYTE, np.int16)
        for row, text in zip(out, texts, strict=True):
            encoded = text.encode("utf-8", "surrogatepass")[:MAX_BYTES]
            row[: len(encoded)] = np.frombuffer(encoded, np.uint8)
        return out


class ByteEmbedding(nn.Module):
    """Bytes -> tokens, packed without padding; an empty text is the byte 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bytes = nn.Parameter(torch.empty(BYTES, width))
        self.positions = nn.Parameter(torch.empty(MAX_BYTES, width))
        self.init_weights()

    def init_weights(self) -> None:
        for table in (self.bytes, self.positions):
            nn.init.normal_(table, std=table.shape[1] ** -0.5)

    def forward(self, bytes_BL: Tensor) -> tuple[Tensor, Sequences]:
        is_byte = bytes_BL != NO_BYTE
        is_byte[:, 0] = True
        index, sequences = list_patches(is_byte)
        text, position = index.long().unbind(1)
        byte = bytes_BL[text, position].long().clamp(min=0)
        return F.embedding(byte, self.bytes) + F.embedding(position, self.positions), sequences


class BytesClippo(Clippo):
    """What the baselines have in common; their `texts` are what a ByteTokenizer gives."""

    def __init__(self, config: TowerConfig, renderer: Any = None) -> None:
        super().__init__(config, renderer or ByteTokenizer())
        self.text_embedding = ByteEmbedding(config.width)

    def init_weights(self, residual_scale: float = 1.0) -> None:
        super().init_weights(residual_scale)
        self.text_embedding.init_weights()


class OneTower(BytesClippo):
    """One transformer for the patches of photographs and the bytes of text."""

    def forward(
        self,
        images: Tensor,
        texts: Tensor,
        image_patches: Patches | None = None,
        text_patches: Patches | None = None,
    ) -> tuple[Tensor, Tensor]:
        tower = self.tower
        of_images, image_sequences = self.packed(images.to(self.device), image_patches)
        of_texts, text_sequences = self.text_embedding(texts.to(self.device))
        both = join_sequences(image_sequences, text_sequences)
        z = normalized(tower.embedding_of(torch.cat([of_images, of_texts]), both))
        return z[: len(images)], z[len(images) :]

    def embed_texts(self, texts: Tensor) -> Tensor:
        return self.tower.embedding_of(*self.text_embedding(texts.to(self.device)))


class TwoTowers(BytesClippo):
    """A tower for photographs, and one of the same sizes for text."""

    def __init__(self, config: TowerConfig, renderer: Any = None) -> None:
        super().__init__(config, renderer)
        self.text_tower = Encoder(config)
        self.text_tower.init_weights()

    def init_weights(self, residual_scale: float = 1.0) -> None:
        super().init_weights(residual_scale)
        self.text_tower.init_weights(residual_scale)

    def forward(
        self,
        images: Tensor,
        texts: Tensor,
        image_patches: Patches | None = None,
        text_patches: Patches | None = None,
    ) -> tuple[Tensor, Tensor]:
        patches = None if image_patches is None else image_patches.to(self.device)
        z_images = self.tower(images.to(self.device), patches)
        return normalized(z_images), normalized(self.embed_texts(texts))

    def embed_texts(self, texts: Tensor) -> Tensor:
        return self.text_tower.embedding_of(*self.text_embedding(texts.to(self.device)))


MODELS: dict[Baseline, type[Clippo]] = {"none": Clippo, "1t": OneTower, "two-tower": TwoTowers}
