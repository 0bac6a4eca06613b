"""CLIPPO: a tower, a temperature, and the ways to feed them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from clippo.model import pretrained
from clippo.model.packing import Patches, inked_patches, join_sequences, list_patches, whole_sequences
from clippo.model.preprocess import preprocess_image, rgb_pixels
from clippo.model.tower import Tower, TowerConfig
from clippo.renderer import compose

TextRenderer = Callable[[Sequence[str]], np.ndarray]  # B strings -> (B, S, S) uint8
Images = Tensor | np.ndarray | Sequence[Any]  # ready for the tower, or of any sizes, one by one
Texts = Tensor | np.ndarray | Sequence[str]  # rendered, or strings

GREY = 127  # the paper of the published renderer


class Clippo(nn.Module):
    """One tower for pictures and text, trained with a contrastive loss alone.

    `encode_image`, `encode_text` and `encode_image_text` are for using a model: they take what people have,
    in batches, and give embeddings without a graph, on a GPU by bfloat16 products. To train, call the model.

    Args:
        config: sizes of the tower.
        renderer: turns B strings into a (B, S, S) uint8 array, S = `config.image_size`, for instance a
            `renderer.ParagraphRenderer`. The published one by default, made when strings first come.
    """

    def __init__(self, config: TowerConfig, renderer: TextRenderer | None = None) -> None:
        super().__init__()
        self.config = config
        self.tower = Tower(config)
        # The logarithm is learned, so that the scale of the logits stays positive.
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.renderer_in_use = renderer  # None until strings come
        self.renderer_description: dict[str, Any] | None = None  # of the one to make then, if it is known
        self.background: int = getattr(renderer, "background", GREY)  # of rendered text, its grey level

    @property
    def renderer(self) -> Any:
        """What draws strings for `encode_text`."""
        if self.renderer_in_use is None:
            if self.renderer_description is None:
                self.renderer = published_renderer(self.config.image_size)
            else:
                self.renderer = pretrained.described_renderer(self.renderer_description)
        return self.renderer_in_use

    @renderer.setter
    def renderer(self, renderer: TextRenderer) -> None:
        self.renderer_in_use = renderer
        self.background = getattr(renderer, "background", GREY)

    @property
    def logit_scale(self) -> Tensor:
        """The factor on cosine similarities, the inverse of the temperature."""
        return self.log_scale.exp()

    @property
    def device(self) -> torch.device:
        return self.log_scale.device

    def init_weights(self, residual_scale: float = 1.0) -> None:
        """Start anew; see `Tower.init_weights`."""
        self.tower.init_weights(residual_scale)

    # -- to train

    def forward(
        self,
        images: Tensor,
        texts: Tensor,
        image_patches: Patches | None = None,
        text_patches: Patches | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Embed B images and B rendered texts in one pass through the tower.

        Photographs have three channels and text has one, so each is cut into patches on its own; from there
        on they are one batch: of 2 B sequences of N tokens, or, where patches are listed, packed without
        padding.

        Args:
            images, texts: pixels in any layout that `Tower.embed` takes. They may lie on the CPU.
            image_patches: those to look at, for instance `packing.random_patches`; all by default.
            text_patches: those to look at. By default all or, with `config.text_tokens` of "inked", those
                that are not blank, which are looked for where `texts` lies.

        Returns:
            (B, out_dim) embeddings of the images and of the texts, of unit length.
        """
        tower = self.tower
        if text_patches is None:
            text_patches = self.patches_of(texts)
        images, texts = images.to(self.device), texts.to(self.device)
        if image_patches is None and text_patches is None:
            z = tower.embedding_of(torch.cat([tower.embed(images), tower.embed(texts)]))
        else:
            tokens, sequences = zip(
                self.packed(images, image_patches), self.packed(texts, text_patches), strict=True
            )
            both = join_sequences(*sequences)
            z = tower.embedding_of(torch.cat(tokens), both)
        z = normalized(z)
        return z[: len(images)], z[len(images) :]

    def packed(self, images: Tensor, patches: Patches | None) -> tuple[Tensor, Any]:
        """Tokens (T, D) of listed patches, or of all, and the sequences that they are."""
        if patches is not None:
            patches = patches.to(self.device)
            return self.tower.embed(images, patches), patches.sequences
        tokens_BND = self.tower.embed(images)
        B, N, _ = tokens_BND.shape
        return tokens_BND.flatten(0, 1), whole_sequences(B, N, tokens_BND.device)

    def patches_of(self, texts: Tensor) -> Patches | None:
        """The patches of rendered texts that `config.text_tokens` says, None for all of them."""
        if self.config.text_tokens == "all":
            return None
        return list_patches(inked_patches(texts, self.config.patch_size, self.background))

    # -- to use

    def encode_image(self, images: Images, *, normalize: bool = True, batch_size: int = 256) -> Tensor:
        """(B, out_dim) float32 embeddings of images.

        Args:
            images: a batch of `config.image_size` px in any layout that `Tower.embed` takes; or a sequence of
                PIL images, arrays and tensors of any sizes, each for `preprocess_image`.
            normalize: give them unit length.
            batch_size: images that go through the tower at a time.

        Raises:
            TypeError, ValueError: something that is no image, or of another size; see `preprocess_image`.
        """
        return self._encode(self.embed_images, self._batches(images, batch_size, self._prepare), normalize)

    def encode_text(self, texts: Texts, *, normalize: bool = True, batch_size: int = 256) -> Tensor:
        """(B, out_dim) float32 embeddings of strings, or of text that is rendered already.

        Args:
            texts: strings, or a batch of pixels as of `encode_image`.
            normalize, batch_size: as of `encode_image`.

        Raises:
            TypeError, ValueError: what the renderer says about strings; pixels of another size.
        """
        return self._encode(self.embed_texts, self._batches(texts, batch_size, self.render), normalize)

    def encode_image_text(
        self,
        images: Sequence[Any],
        texts: Sequence[str],
        *,
        position: Literal["top", "middle", "bottom"] = "top",
        normalize: bool = True,
    ) -> Tensor:
        """(B, out_dim) float32 embeddings of images that have a text written into them, such as a question.

        Args:
            images: B PIL images, arrays or tensors of any sizes.
            texts: B strings; see `renderer.compose`.
            position: where they are written; the image is resized into the rest.
            normalize: give the embeddings unit length.

        Raises:
            TypeError, ValueError: as of `renderer.compose`.
            AttributeError: the model's renderer is a plain function, which cannot write into images.
        """
        composed = compose([rgb_pixels(image) for image in images], texts, self.renderer, position)
        return self.encode_image(composed, normalize=normalize)

    def similarity(self, images: Images, texts: Texts) -> Tensor:
        """(I, T) cosine similarities of I images and T texts; `logit_scale` times these are the logits."""
        return self.encode_image(images) @ self.encode_text(texts).T

    def preprocess_image(self, image: Any) -> np.ndarray:
        """(S, S, 3) uint8, as the published models were trained; see `model.preprocess`."""
        return preprocess_image(image, self.config.image_size)

    def embed_images(self, images: Tensor) -> Tensor:
        """(B, out_dim) embeddings of pixels, not normalised, with a graph."""
        return self.tower(images.to(self.device))

    def embed_texts(self, texts: Tensor) -> Tensor:
        """(B, out_dim) embeddings of rendered texts, not normalised, with a graph."""
        patches = self.patches_of(texts)
        return self.tower(texts.to(self.device), None if patches is None else patches.to(self.device))

    def render(self, texts: Sequence[str]) -> Tensor:
        """(B, S, S) uint8 pixels of strings, on the CPU."""
        return torch.from_numpy(self.renderer(texts))

    def _prepare(self, images: Sequence[Any]) -> Tensor:
        return torch.from_numpy(np.stack([self.preprocess_image(image) for image in images]))

    def _batches(
        self, items: Any, size: int, pixels_of: Callable[[Sequence[Any]], Tensor]
    ) -> Iterable[Tensor]:
        if isinstance(items, np.ndarray):
            items = torch.from_numpy(items)
        if not isinstance(items, Tensor | Sequence) or isinstance(items, str | bytes):
            raise TypeError(f"expected a batch of pixels, or a sequence, got one {type(items).__name__}")
        for start in range(0, len(items), size):
            part = items[start : start + size]
            yield part if isinstance(part, Tensor) else pixels_of(part)

    def _encode(
        self, embed: Callable[[Tensor], Tensor], batches: Iterable[Tensor], normalize: bool
    ) -> Tensor:
        on_gpu = self.device.type == "cuda"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=on_gpu):
            parts = [embed(batch).float() for batch in batches]
            parts = [normalized(z) for z in parts] if normalize else parts
        # Joined out here: what is made in inference mode could not be saved for another model's backward.
        return torch.cat([torch.zeros(0, self.config.out_dim, device=self.device), *parts])

    # -- to keep

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` into a folder, which is made if it is missing.

        If the model has a renderer that describes itself, `renderer.json` says what decides on its pixels.
        """
        pretrained.save(self, folder)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, renderer: TextRenderer | None = None, *, revision: str | None = None
    ) -> Clippo:
        """Read what `save_pretrained` wrote, from a folder or a repository of the Hugging Face Hub.

        A model has learned to read one renderer's pixels. Without a `renderer` the one that `renderer.json`
        describes is made when strings come; if it, or `renderer`, would draw other pixels than the model was
        trained with, a warning says what differs: fonts, versions or options. Nothing is unpickled.

        Args:
            source: a folder, or "owner/name" on the Hub, which needs the `hub` extra.
            renderer: draws strings.
            revision: branch, tag or commit on the Hub; a commit pins the weights.

        Raises:
            FileNotFoundError: the folder lacks the configuration or the weights; there is no such folder, and
                no such name on the Hub.
            ImportError: a name on the Hub, without huggingface_hub.
            ValueError: the configuration or the weights are not those of a Clippo, or do not fit together.
        """
        return pretrained.load(cls, source, renderer, revision)


def normalized(z: Tensor) -> Tensor:
    # The published models add the epsilon to the norm instead of clamping it.
    return z / (torch.linalg.vector_norm(z.float(), dim=-1, keepdim=True) + 1e-8)


def published_renderer(size: int) -> TextRenderer:
    from clippo.renderer import UnifontRenderer  # which needs Skia and fonts: for strings alone

    return UnifontRenderer(size)
