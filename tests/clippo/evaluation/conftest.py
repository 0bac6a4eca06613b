"""Labelled pictures, and a model that is handed the embeddings of what it sees and reads."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from clippo.data.base import Example, Source, SourceConfig, Text
from clippo.data.transform import SquashConfig, Transform


class Told:
    """Gives the embeddings that it is told: of texts by the text, of pictures by their grey level.

    Args:
        images: by the grey level of the first pixel.
        texts: by text; those that are not in it have that of "".
    """

    def __init__(self, images: Mapping[int, Tensor], texts: Mapping[str, Tensor]) -> None:
        self.images = images
        self.texts = texts

    def encode_image(self, pixels: Tensor) -> Tensor:
        return torch.stack([self.images[int(level)] for level in pixels[:, 0, 0, 0]])

    image_features = encode_image

    def encode_text(self, texts: list[str]) -> Tensor:
        return torch.stack([self.texts[text] if text in self.texts else self.texts[""] for text in texts])


class Labels(Source):
    """Pictures of one grey level each, which is their number, with these labels and texts."""

    def __init__(self, labels: list[tuple[str, ...]], texts: list[dict[str, str]] | None = None) -> None:
        self.labels = labels
        self.texts = texts or [{"": " and ".join(own) or "nothing"} for own in labels]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        texts = tuple(Text(text, language or None) for language, text in self.texts[index].items())
        return Example(str(index), np.full((2, 2, 3), index % 256, np.uint8), texts, self.labels[index])


@pytest.fixture
def config_of() -> Callable[..., SourceConfig]:
    """Makes a configuration of sources by their split."""

    class Config(SourceConfig):
        def __init__(self, **by_split: Source) -> None:
            object.__setattr__(self, "by_split", by_split)

        def build(self, split, *, image_size):
            return self.by_split[split]

    return Config


@pytest.fixture
def transform() -> Transform:
    return SquashConfig().build(2)
