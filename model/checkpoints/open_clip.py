"""A Clippo with the interface of an open_clip model, for code that expects one.

    model, preprocess, tokenizer = open_clip_trio(clippo)

CLIP_benchmark and clip-retrieval need no other methods of a model. CLIP_benchmark's own command line takes
`--model_type clippo --pretrained FOLDER` once these lines have been executed:

    from clip_benchmark.models import MODEL_TYPES, TYPE2FUNC

    TYPE2FUNC["clippo"] = load_for_clip_benchmark
    MODEL_TYPES.append("clippo")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clippo.model.checkpoints.big_vision import load_big_vision
from clippo.model.clippo import Clippo, normalized
from clippo.model.preprocess import Resize, preprocess_image
from clippo.model.text_input import Tokenizer

__all__ = ["load_for_clip_benchmark", "open_clip_trio"]


class OpenClipModel(nn.Module):
    """The interface of open_clip's `CLIP`: encoders whose embeddings are not normalised unless asked for.

    Gradients flow as in open_clip; wrap calls in `torch.inference_mode()` where they are not wanted.

    Attributes:
        logit_scale: (1,) parameter, the logarithm of the factor on cosine similarities.
        output_dict: give a dictionary when called, and not a tuple.
    """

    def __init__(self, clippo: Clippo, output_dict: bool = False) -> None:
        super().__init__()
        self.clippo = clippo
        self.output_dict = output_dict

    @property
    def logit_scale(self) -> Tensor:
        return self.clippo.logit_scale

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Embed a stack of outputs of `preprocess`: (B, E)."""
        z = self.clippo.embed_images(image)
        return normalized(z) if normalize else z

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Embed the output of the tokenizer: (B, E)."""
        z = self.clippo.embed_texts(text)
        return normalized(z) if normalize else z

    def forward(
        self, image: Tensor | None = None, text: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor] | dict[str, Tensor | None]:
        """Embed images, texts or both.

        Returns:
            Embeddings of unit length, None for what is not given, and the factor on their products. With
            `output_dict` these are named, as the training of open_clip takes them.
        """
        z_image, z_text = self.clippo(image, text)
        scale = self.logit_scale.exp()
        if self.output_dict:
            return {"image_features": z_image, "text_features": z_text, "logit_scale": scale}
        return z_image, z_text, scale

    @property
    def context_length(self) -> int:
        """Tokens of the longest text: patches of its picture, or bytes."""
        return self.clippo.text_input.max_tokens

    @property
    def visual(self) -> OpenClipVisual:
        """The image side, which code for open_clip asks for its preprocessing."""
        return OpenClipVisual(self)


@dataclass(frozen=True)
class OpenClipVisual:
    """The image side of a model: its preprocessing, and its encoder when called."""

    model: OpenClipModel
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images, px."""
        return (self.model.clippo.config.image_size,) * 2

    def __call__(self, image: Tensor) -> Tensor:
        """Embed a stack of outputs of `preprocess`: (B, E), not normalised."""
        return self.model.encode_image(image)


def open_clip_trio(
    clippo: Clippo, *, output_dict: bool = False
) -> tuple[OpenClipModel, Callable[[Any], Tensor], Callable[[str | Sequence[str]], Tensor]]:
    """Model, preprocess and tokenizer, as of open_clip's `create_model_from_pretrained` and `get_tokenizer`.

    `preprocess` turns one PIL image into a (3, S, S) float32 tensor in [-1, 1]. The tokenizer is the model's
    renderer: one string, or a list of them, becomes a (B, S, S) uint8 tensor of pixels for `encode_text`.

    Args:
        clippo: the model.
        output_dict: what the model gives when called; see `OpenClipModel.forward`.
    """
    return (
        OpenClipModel(clippo, output_dict),
        Preprocess(clippo.config.image_size, clippo.config.resize),
        OpenClipTokenizer(clippo.text_input.tokenizer),
    )


def load_for_clip_benchmark(
    model_name: str, pretrained: str, cache_dir: str | None = None, device: str | torch.device = "cpu"
) -> tuple[OpenClipModel, Callable[[Any], Tensor], Callable[[str | Sequence[str]], Tensor]]:
    """Load a model as CLIP_benchmark's TYPE2FUNC does.

    Args:
        model_name: names the model in the results, and decides nothing here.
        pretrained: a folder of `Clippo.save_pretrained`, such as a checkpoint of a run; a `.npz` of
            big_vision; or "owner/name" on the Hugging Face Hub.
        cache_dir: not used; the Hub has its own cache.
        device: where the model computes.

    Raises:
        FileNotFoundError, ImportError, ValueError: as of `Clippo.from_pretrained` and `load_big_vision`.
    """
    is_npz = pretrained.endswith(".npz")
    clippo = load_big_vision(pretrained) if is_npz else Clippo.from_pretrained(pretrained)
    return open_clip_trio(clippo.eval().to(device))


@dataclass(frozen=True)
class Preprocess:
    """Transform of an image to a (3, S, S) float32 tensor in [-1, 1]; can be pickled for loader workers."""

    image_size: int
    resize: Resize = "bilinear"

    def __call__(self, image: Any) -> Tensor:
        pixels = preprocess_image(image, self.image_size, self.resize)
        return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1


@dataclass(frozen=True)
class OpenClipTokenizer:
    """Tokenizer of one string or a sequence of strings; can be pickled for loader workers."""

    tokenizer: Tokenizer

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        return torch.from_numpy(self.tokenizer([texts] if isinstance(texts, str) else texts))
