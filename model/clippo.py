"""The CLIPPO model: a tower, a text input, and a temperature."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from clippo.model.checkpoints import safetensors
from clippo.model.configs import from_dict, to_dict
from clippo.model.packing import KeptPatches, PackedPatches, VarlenInfo, equal_lengths, join
from clippo.model.preprocess import Resize, check_range, preprocess_image, resized, rgb_pixels
from clippo.model.text_input import RenderedText, RenderedTextConfig, TextInputConfig, TextRenderer
from clippo.model.tower import Encoder, Tower, TowerConfig

__all__ = ["Clippo", "ClippoConfig", "normalized"]

Images = Tensor | np.ndarray | Sequence[Any]  # ready for the tower, or of any sizes, one by one
Texts = Tensor | PackedPatches | np.ndarray | Sequence[str]  # tokenized, or strings


@dataclass(frozen=True, kw_only=True)
class ClippoConfig(TowerConfig):
    """Sizes of the tower, and how text enters the model.

    Attributes:
        text: how text becomes tokens: drawn and read as pixels (CLIPPO), or read as bytes.
        num_towers: 1, or 2 for a second encoder of the same sizes that reads the text, which must then be
            bytes.
        resize: how images of other sizes are resized: "bilinear" without antialiasing, as for the published
            models, or "bicubic" with it.

    Raises:
        ValueError: as of `TowerConfig`, another number of towers, or another way to resize.
    """

    text: TextInputConfig = field(default_factory=RenderedTextConfig)
    num_towers: Literal[1, 2] = 1
    resize: Resize = "bilinear"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.text, TextInputConfig):
            raise ValueError(f"text must be a configuration of a text input, got {self.text!r}")
        if self.num_towers not in (1, 2):
            raise ValueError(f"num_towers must be 1 or 2, got {self.num_towers!r}")
        if self.num_towers == 2 and isinstance(self.text, RenderedTextConfig):
            raise ValueError("num_towers must be 1 for rendered text, which the tower of the images reads")
        if self.resize not in ("bilinear", "bicubic"):
            raise ValueError(f"resize must be bilinear or bicubic, got {self.resize!r}")


class Clippo(nn.Module):
    """One tower for images and text, trained with a contrastive loss alone (arXiv 2212.08045).

    `encode_image`, `encode_text` and `encode_image_text` are for inference: they take images of any size and
    strings, work in batches, and return embeddings without a graph; on a GPU they run under bfloat16
    autocast. To train, call the model.

    Args:
        config: sizes of the tower and how text enters.
        renderer: draws B strings as a (B, S, S) uint8 array, S = `config.image_size`, for instance a
            `clippo.renderer.ParagraphRenderer`. By default the published one, which is made at the first use.

    Attributes:
        tower: embeds images, and text that is drawn.
        text_input: turns text into tokens.
        text_encoder: embeds the tokens of text in a model of two towers; None in a model of one.
        logit_scale: (1,) parameter, the logarithm of the factor on cosine similarities, as in open_clip.
    """

    def __init__(self, config: ClippoConfig, renderer: TextRenderer | None = None) -> None:
        super().__init__()
        self.config = config
        self.tower = Tower(config)
        self.text_input = config.text.build(config, renderer)
        self.text_encoder = Encoder(config) if config.num_towers == 2 else None
        if self.text_encoder is not None:
            self.text_encoder.init_weights()
        # One dimension, because FSDP cannot shard a tensor without any.
        self.logit_scale = nn.Parameter(torch.tensor([math.log(10.0)]))
        self._has_warned_of_cut_texts = False

    @property
    def device(self) -> torch.device:
        return self.logit_scale.device

    @property
    def image_background(self) -> int:
        """Grey level beneath transparent pixels: that behind drawn text, white if text is not drawn."""
        return self.text_input.background if isinstance(self.text_input, RenderedText) else 255

    @property
    def renderer(self) -> TextRenderer:
        """The renderer that draws strings for `encode_text`.

        Raises:
            TypeError: the model reads bytes.
        """
        if not isinstance(self.text_input, RenderedText):
            raise TypeError("the model reads text as bytes and has no renderer")
        return self.text_input.renderer

    def init_weights(self, residual_scale: float = 1.0) -> None:
        """Fill all parameters, as for a new model; see `Encoder.init_weights`."""
        nn.init.constant_(self.logit_scale, math.log(10.0))
        self.tower.init_weights(residual_scale)
        self.text_input.reset_parameters()
        if self.text_encoder is not None:
            self.text_encoder.init_weights(residual_scale)

    # Training

    def forward(
        self,
        images: Tensor | None = None,
        texts: Tensor | PackedPatches | None = None,
        kept: KeptPatches | None = None,
        text_mask: Tensor | None = None,
        *,
        normalize: bool = True,
    ) -> tuple[Any, Any]:
        """Embed images, texts or B of both, in one pass through the tower if it is shared.

        Photographs have three channels and rendered text has one, so their patches are embedded separately.
        The tokens then form one batch of 2 B sequences of N tokens, or are packed without padding where
        sequences have different lengths.

        Args:
            images: pixels in any layout that `PatchEmbed` takes, or None. They may be on the CPU.
            texts: output of `text_input.tokenize` or of its tokenizer, or None. They may be on the CPU.
            kept: patches of the images to look at, for instance `packing.patch_dropout`; all by default.
            text_mask: output of `text_input.mask` for the texts, on the CPU; computed by default.
            normalize: give the embeddings unit length.

        Returns:
            (B, E) embeddings of the images and of the texts; None for what was not given.
        """
        z_images, z_texts = self.embed(images, texts, kept, text_mask)
        if not normalize:
            return z_images, z_texts
        return (
            None if z_images is None else normalized(z_images),
            None if z_texts is None else normalized(z_texts),
        )

    def embed(
        self,
        images: Tensor | None,
        texts: Tensor | PackedPatches | None,
        kept: KeptPatches | None = None,
        text_mask: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Compute the embeddings of `forward`, not normalised."""
        text_encoder = self.tower.encoder if self.text_encoder is None else self.text_encoder
        if images is not None:
            image_tokens, image_varlen = self.image_tokens(images, kept)
        if texts is None:
            return None if images is None else self.tower.encoder(image_tokens, image_varlen), None
        mask = self.text_input.mask(texts) if text_mask is None else text_mask
        text_tokens, text_varlen = self.text_input(texts, mask, self.tower.patch_embed)
        if images is None:
            return None, text_encoder(text_tokens, text_varlen)
        if self.text_encoder is not None:
            return self.tower.encoder(image_tokens, image_varlen), text_encoder(text_tokens, text_varlen)
        has_one_length = image_tokens.shape[1:] == text_tokens.shape[1:]
        if image_varlen is None and text_varlen is None and has_one_length:
            z = self.tower.encoder(torch.cat([image_tokens, text_tokens]))
        else:
            image_tokens, image_varlen = packed(image_tokens, image_varlen)
            text_tokens, text_varlen = packed(text_tokens, text_varlen)
            z = self.tower.encoder(torch.cat([image_tokens, text_tokens]), join(image_varlen, text_varlen))
        return z[: len(images)], z[len(images) :]

    def image_tokens(
        self, images: Tensor, kept: KeptPatches | None = None
    ) -> tuple[Tensor, VarlenInfo | None]:
        """Tokens of images, (B, N, D), or (T, D) of the kept patches and the sequences that they form."""
        images = images.to(self.device)
        if kept is None:
            return self.tower.patch_embed(images), None
        kept = kept.to(self.device)
        return self.tower.patch_embed(images, kept.keep_indices), kept.varlen

    def embed_images(self, images: Tensor) -> Tensor:
        """Embed pixels: (B, E), not normalised, with a graph."""
        out: Tensor = self(images, normalize=False)[0]
        return out

    def embed_texts(self, texts: Tensor | PackedPatches) -> Tensor:
        """Embed tokenized texts: (B, E), not normalised, with a graph."""
        out: Tensor = self(texts=texts, normalize=False)[1]
        return out

    def pool_images(self, images: Tensor) -> Tensor:
        """Pool the tokens of pixels to what the head makes the embeddings from: (B, D), with a graph."""
        encoder = self.tower.encoder
        out: Tensor = encoder.pool(encoder.forward_features(self.image_tokens(images)[0]))
        return out

    def pool_texts(self, texts: Tensor | PackedPatches) -> Tensor:
        """Pool tokenized texts, as `pool_images` does pixels: (B, D), with a graph."""
        encoder = self.tower.encoder if self.text_encoder is None else self.text_encoder
        tokens, varlen = self.text_input(texts, self.text_input.mask(texts), self.tower.patch_embed)
        out: Tensor = encoder.pool(encoder.forward_features(tokens, varlen), varlen)
        return out

    # Use

    def encode_image(self, images: Images, *, normalize: bool = True, batch_size: int = 256) -> Tensor:
        """Embed images: (B, E) float32.

        Args:
            images: a batch of `config.image_size` px in any layout that `PatchEmbed` takes; or a sequence of
                PIL images, arrays and tensors of any sizes, each for `preprocess_image`.
            normalize: give the embeddings unit length.
            batch_size: images that go through the tower at a time.

        Raises:
            TypeError, ValueError: something that is not an image, or of another size; see
                `preprocess_image`.
        """
        return self._encode(self.embed_images, batches(images, batch_size, self._prepare), normalize)

    def image_features(self, images: Images, *, batch_size: int = 256) -> Tensor:
        """Compute what the head makes the embeddings of images from, the pooled tokens: (B, D) float32.

        Args:
            images, batch_size: as for `encode_image`.
        """
        return self._encode(self.pool_images, batches(images, batch_size, self._prepare), normalize=False)

    def encode_text(self, texts: Texts, *, normalize: bool = True, batch_size: int = 256) -> Tensor:
        """Embed strings, or the output of the tokenizer: (B, E) float32.

        Args:
            texts: strings, or a batch of pixels as for `encode_image`.
            normalize, batch_size: as for `encode_image`.

        Raises:
            TypeError, ValueError: strings that the renderer refuses; pixels of another size.
        """
        return self._encode(self.embed_texts, batches(texts, batch_size, self._tokenize), normalize)

    def encode_image_text(
        self,
        images: Sequence[Any],
        texts: Sequence[str],
        *,
        position: Literal["top", "middle", "bottom"] = "top",
        normalize: bool = True,
    ) -> Tensor:
        """Embed images with a text written into each, such as a question: (B, E) float32.

        Args:
            images: B PIL images, arrays or tensors of any sizes.
            texts: B strings; see `clippo.renderer.compose`.
            position: where they are written; the image is resized into the rest.
            normalize: give the embeddings unit length.

        Raises:
            TypeError, ValueError: as of `clippo.renderer.compose`; a model that reads bytes.
        """
        return self.encode_image(self.compose(images, texts, position=position), normalize=normalize)

    def compose(
        self,
        images: Sequence[Any],
        texts: Sequence[str],
        *,
        position: Literal["top", "middle", "bottom"] = "top",
    ) -> np.ndarray:
        """Write a text into each image, as `encode_image_text` embeds them: (B, S, S, 3) uint8.

        Args:
            images, texts, position: as for `encode_image_text`.

        Raises:
            TypeError, ValueError: as of `encode_image_text`.
        """
        from clippo.renderer import Renderer, compose  # these need Skia and fonts

        renderer = self.renderer
        if not isinstance(renderer, Renderer):
            raise TypeError(f"renderer must be a clippo.renderer.Renderer, got {type(renderer).__name__}")
        return compose(
            [rgb_pixels(image, self.image_background) for image in images], texts, renderer, position,
            resize=lambda pixels, height, width: resized(pixels, (height, width), self.config.resize),
        )  # fmt: skip

    def similarity(self, images: Images, texts: Texts) -> Tensor:
        """Cosine similarities (I, T) of I images and T texts; `logit_scale.exp()` times these are logits."""
        return self.encode_image(images) @ self.encode_text(texts).T

    def preprocess_image(self, image: Any) -> np.ndarray:
        """Resize an image to (S, S, 3) uint8, as the model was trained; see `model.preprocess`.

        What is transparent takes the background of the text: clippo-dictionary, which was trained on cut-out
        pictures, finds 84 % of them on its grey, and 7 % on white.
        """
        return preprocess_image(image, self.config.image_size, self.config.resize, self.image_background)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Turn strings into the input of `embed_texts`, on the CPU: (B, S, S) uint8 pixels, or bytes.

        Warns, once for each model, of texts that are too long and are cut.
        """
        cut = self.text_input.num_cut
        tokens = torch.from_numpy(self.text_input.tokenizer(texts))
        self._warn_of_cut_texts(self.text_input.num_cut - cut, len(texts))
        return tokens

    def _tokenize(self, texts: Sequence[str]) -> Tensor | PackedPatches:
        cut = self.text_input.num_cut
        tokens = self.text_input.tokenize(texts)
        self._warn_of_cut_texts(self.text_input.num_cut - cut, len(texts))
        return tokens

    def _warn_of_cut_texts(self, cut: int, count: int) -> None:
        if cut and not self._has_warned_of_cut_texts:
            self._has_warned_of_cut_texts = True
            warnings.warn(
                f"{cut} of {count} texts are too long for the model and were cut; later ones will be without "
                "a warning",
                stacklevel=4,
            )

    def _prepare(self, images: Sequence[Any]) -> Tensor:
        return torch.from_numpy(np.stack([self.preprocess_image(image) for image in images]))

    def _encode(
        self, embed: Callable[[Any], Tensor], batches: Iterable[Tensor | PackedPatches], normalize: bool
    ) -> Tensor:
        on_gpu = self.device.type == "cuda"
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=on_gpu):
            parts = [embed(batch).float() for batch in batches]
            parts = [normalized(z) for z in parts] if normalize else parts
        return torch.cat(parts) if parts else torch.zeros(0, self.config.embed_dim, device=self.device)

    # Files

    def weights_sha256(self) -> str:
        """SHA-256 of the names, types, shapes and values of all weights, in whatever file they came."""
        checksum = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            checksum.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            checksum.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return checksum.hexdigest()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` into a folder, which is made if it is missing.

        If the model has a renderer, `renderer.json` describes it. `manifest.json` holds the checksums.

        Raises:
            OSError: a file cannot be written.
        """
        description = self.text_input.description if isinstance(self.text_input, RenderedText) else None
        safetensors.write_folder(folder, to_dict(self.config), self.state_dict(), description)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, renderer: TextRenderer | None = None, *, revision: str | None = None
    ) -> Self:
        """Load a model from a folder that `save_pretrained` wrote, from this package, or from the Hub.

        A model was trained on the pixels of one renderer. Without `renderer`, the one that `renderer.json`
        describes is made at the first use. If the renderer would draw other pixels than the model was trained
        on, a warning names the difference: fonts, versions or options. Nothing is unpickled.

        Args:
            source: a folder; the name of a model of this package, see `shipped_models`; or "owner/name" on
                the Hugging Face Hub, which needs the `hub` extra.
            renderer: draws strings.
            revision: branch, tag or commit on the Hub; a commit pins the weights.

        Raises:
            FileNotFoundError: the folder lacks the configuration or the weights; there is no such folder, and
                no such name on the Hub.
            ImportError: a name on the Hub, without huggingface_hub.
            ValueError: the configuration or the weights are not those of a Clippo, or do not fit together.
        """
        folder = safetensors.find_folder(source, revision)
        config = safetensors.read_config(folder, lambda content: from_dict(ClippoConfig, content))
        with torch.device("meta"):
            model = cls(config, renderer)
        model = safetensors.read_weights(folder, model)
        description = safetensors.read_description(folder)
        if description is not None and isinstance(model.text_input, RenderedText):
            model.text_input.description = description
        return model


def normalized(z: Tensor) -> Tensor:
    """Divide embeddings by their norms."""
    # The published models add the epsilon to the norm instead of clamping it.
    out: Tensor = z / (torch.linalg.vector_norm(z.float(), dim=-1, keepdim=True) + 1e-8)
    return out


def packed(tokens: Tensor, varlen: VarlenInfo | None) -> tuple[Tensor, VarlenInfo]:
    """Pack tokens (B, N, D) as (T, D) with their `VarlenInfo`; packed tokens are returned as they are."""
    if varlen is not None:
        return tokens, varlen
    B, N, _ = tokens.shape
    return tokens.flatten(0, 1), equal_lengths(B, N, tokens.device)


def batches(
    items: Any, size: int, prepare: Callable[[Sequence[Any]], Tensor | PackedPatches]
) -> Iterable[Tensor | PackedPatches]:
    """Split a batch of pixels, or a sequence that `prepare` turns into pixels, into smaller batches."""
    if isinstance(items, np.ndarray):
        # PyTorch has neither negative strides, as of mirrored views, nor other byte orders.
        items = torch.from_numpy(np.ascontiguousarray(items, items.dtype.newbyteorder("=")))
    if not isinstance(items, Tensor | PackedPatches | Sequence) or isinstance(items, str | bytes):
        raise TypeError(f"expected a batch of pixels, or a sequence, got one {type(items).__name__}")
    for start in range(0, len(items), size):
        part = items[start : start + size]
        if isinstance(part, Tensor) and part.is_floating_point():
            check_range(part)
        yield part if isinstance(part, Tensor | PackedPatches) else prepare(part)
