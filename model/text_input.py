"""How text enters a model: as pixels of a rendered image, or as bytes."""

from __future__ import annotations

import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clippo.errors import printable
from clippo.model.configs import flat
from clippo.model.layers import PatchEmbed
from clippo.model.packing import KeptPatches, PackedPatches, VarlenInfo, keep_where
from clippo.model.tower import TowerConfig
from clippo.renderer.report import inked_patches

__all__ = [
    "ByteText",
    "ByteTextConfig",
    "RenderedText",
    "RenderedTextConfig",
    "TextInput",
    "TextInputConfig",
    "TextRenderer",
    "Tokenizer",
]

BACKGROUND = 127  # grey level of the published renderer


class TextRenderer(Protocol):
    """Interface of a renderer, such as `clippo.renderer.UnifontRenderer`, that a model needs."""

    @property
    def background(self) -> int:
        """Grey level of the blank image, 0 to 255."""

    @property
    def description(self) -> dict[str, Any]:
        """Everything that the pixels depend on, as JSON values."""

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Draw B strings: (B, S, S) uint8."""


AnyRenderer = TypeVar("AnyRenderer", bound=TextRenderer | None)
Tokenizer = Callable[[Sequence[str]], np.ndarray]  # B strings -> the (B, ...) array that a text input takes


@dataclass(frozen=True, kw_only=True)
class TextInputConfig(ABC):
    """How text enters a model. The subclasses are the choices."""

    name: ClassVar[str]

    @abstractmethod
    def build(self, config: TowerConfig, renderer: TextRenderer | None) -> TextInput:
        """Make the text input of a model of these sizes."""


class TextInput(nn.Module, ABC):
    """Strings to tensors (`tokenize`), and these to tokens of the tower (`forward`)."""

    @property
    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """Function from B strings to an array (B, ...) that `mask` and `forward` take. It can be pickled."""

    def tokenize(self, texts: Sequence[str]) -> Tensor | PackedPatches:
        """Turn B strings into what `mask` and `forward` take, with the least work."""
        return torch.from_numpy(self.tokenizer(texts))

    @abstractmethod
    def mask(self, texts: Tensor | PackedPatches) -> Tensor | None:
        """(B, N) bool, the positions of the texts that become tokens; None if all do."""

    @abstractmethod
    def forward(
        self, texts: Tensor | PackedPatches, mask: Tensor | None, patch_embed: PatchEmbed
    ) -> tuple[Tensor, VarlenInfo | None]:
        """Turn texts into tokens.

        Args:
            texts: B texts from `tokenize` or the tokenizer, on any device.
            mask: what `mask` gave, on the CPU, so that a GPU need not wait for the count of its entries.
            patch_embed: the tower's, for text that is read as pixels.

        Returns:
            Tokens (B, N, D) and None, or packed tokens (T, D) and the sequences that they form.
        """

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """Tokens of the longest text."""

    @property
    @abstractmethod
    def num_cut(self) -> int:
        """Strings that the tokenizer has cut so far, because they were too long."""

    def reset_parameters(self) -> None:
        """Fill the parameters, if there are any."""


@dataclass(frozen=True, kw_only=True)
class RenderedTextConfig(TextInputConfig):
    """Text is drawn, and read through the patch embedding of the tower.

    Attributes:
        tokens: the patches that the tower reads: "all", as the published models do, or "inked", those that
            are not blank.

    Raises:
        ValueError: another value.
    """

    name: ClassVar[str] = "rendered"
    tokens: Literal["all", "inked"] = "all"

    def __post_init__(self) -> None:
        if self.tokens not in ("all", "inked"):
            raise ValueError(f'text.tokens must be "all" or "inked", got {self.tokens!r}')

    def build(self, config: TowerConfig, renderer: TextRenderer | None) -> RenderedText:
        return RenderedText(self, config, renderer)


class RenderedText(TextInput):
    """Rendered text, read as pixels.

    Args:
        config: the patches to read.
        sizes: of the tower.
        renderer: draws strings as (B, S, S) uint8, S = `sizes.image_size`. By default the published renderer,
            made when strings first come. From a patch-aligned one, a tower of inked patches takes the patches
            without the images.

    Raises:
        ValueError: a renderer of images or for patches of another size.
    """

    def __init__(
        self, config: RenderedTextConfig, sizes: TowerConfig, renderer: TextRenderer | None = None
    ) -> None:
        super().__init__()
        self.tokens = config.tokens
        self.image_size, self.patch_size = sizes.image_size, sizes.patch_size
        self._renderer = self._checked(renderer)
        self._description: dict[str, Any] | None = None

    @property
    def renderer(self) -> TextRenderer:
        """The renderer, which is made from its description at the first use."""
        if self._renderer is None:
            self._renderer = self._checked(make_renderer(self._description, self.image_size))
        return self._renderer

    @renderer.setter
    def renderer(self, renderer: TextRenderer) -> None:
        self._renderer = self._checked(renderer)

    def _checked(self, renderer: AnyRenderer) -> AnyRenderer:
        self._check_sizes(getattr(renderer, "size", None), getattr(renderer, "patch_size", None))
        return renderer

    def _check_sizes(self, size: Any, patch_size: Any) -> None:
        """Check the sizes of a renderer, px; None where they are not known."""
        if size not in (None, self.image_size, (self.image_size, self.image_size)):
            raise ValueError(
                f"the renderer must draw images of {self.image_size} px, as the model reads, not {size}"
            )
        if patch_size not in (None, self.patch_size):
            raise ValueError(
                f"renderer must have the patch_size of the model, {self.patch_size}, not {patch_size}"
            )

    @property
    def description(self) -> dict[str, Any] | None:
        """Description of the renderer, None for the published one that nobody has needed yet."""
        return self._description if self._renderer is None else self._renderer.description

    @description.setter
    def description(self, description: dict[str, Any]) -> None:
        """Say which renderer the model was trained with; warn if the present one draws other pixels."""
        options = description.get("options", {})
        size = options.get("size")
        self._check_sizes(tuple(size) if isinstance(size, list) else size, options.get("patch_size"))
        if self._renderer is None:
            self._description = description
        else:
            warn_of_another_renderer(description, self._renderer)

    @property
    def background(self) -> int:
        """Grey level of blank patches, 0 to 255."""
        if self._renderer is not None:
            return self._renderer.background
        return int((self._description or {}).get("options", {}).get("background", BACKGROUND))

    @property
    def tokenizer(self) -> Tokenizer:
        return self.renderer

    def tokenize(self, texts: Sequence[str]) -> Tensor | PackedPatches:
        render_packed = getattr(self.renderer, "render_packed", None)
        if self.tokens == "all" or render_packed is None:
            return super().tokenize(texts)
        pixels, positions, cu_seqlens = map(torch.from_numpy, render_packed(texts))
        max_seqlen = int(cu_seqlens.diff().max()) if len(texts) else 0
        return PackedPatches(pixels, positions, VarlenInfo(cu_seqlens, max_seqlen))

    @property
    def max_tokens(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_cut(self) -> int:
        return int(getattr(self.renderer, "num_cut", 0))  # not every renderer counts

    def mask(self, texts: Tensor | PackedPatches) -> Tensor | None:
        """Mark the patches that are not blank, (B, N) bool; a blank text keeps its first patch.

        Args:
            texts: (B, S, S), (B, S, S, C) or (B, C, S, S); uint8, or floating in [-1, 1]. Packed patches have
                no mask.
        """
        if self.tokens == "all" or isinstance(texts, PackedPatches):
            return None
        return inked_mask(texts, self.patch_size, self.background)

    def forward(
        self, texts: Tensor | PackedPatches, mask: Tensor | None, patch_embed: PatchEmbed
    ) -> tuple[Tensor, VarlenInfo | None]:
        device = patch_embed.weight.device
        if isinstance(texts, PackedPatches):
            texts = texts.to(device)
            return patch_embed.embed_packed(texts.pixels, texts.positions), texts.varlen
        texts = texts.to(device, non_blocking=True)
        if mask is None:
            return patch_embed(texts), None
        kept: KeptPatches = keep_where(mask).to(texts.device)
        return patch_embed(texts, kept.keep_indices), kept.varlen


@dataclass(frozen=True, kw_only=True)
class ByteTextConfig(TextInputConfig):
    """Text is read as UTF-8 bytes, with a learned byte embedding instead of the patch embedding.

    Attributes:
        max_bytes: largest number of bytes of a text; longer texts are cut. The default is twice the 32
            letters that a rendered text of 64 px shows.

    Raises:
        ValueError: `max_bytes` below 1.
    """

    name: ClassVar[str] = "bytes"
    max_bytes: int = 64

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ValueError(f"text.max_bytes must be at least 1, got {self.max_bytes}")

    def build(self, config: TowerConfig, renderer: TextRenderer | None) -> ByteText:
        if renderer is not None:
            raise ValueError("renderer must be None for a model that reads bytes")
        return ByteText(self, config)


NO_BYTE = -1  # fills the arrays of ByteTokenizer


@dataclass
class ByteTokenizer:
    """Turn strings into their UTF-8 bytes, (B, max_bytes) int16, padded with -1 and cut at max_bytes."""

    max_bytes: int
    num_cut: int = 0

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        out = np.full((len(texts), self.max_bytes), NO_BYTE, np.int16)
        for row, text in zip(out, texts, strict=True):
            encoded = text.encode("utf-8", "surrogatepass")
            kept = encoded[: self.max_bytes]
            row[: len(kept)] = np.frombuffer(kept, np.uint8)
            self.num_cut += len(kept) < len(encoded)
        return out


class ByteText(TextInput):
    """Bytes of text, packed without padding; an empty text is the byte 0."""

    def __init__(self, config: ByteTextConfig, sizes: TowerConfig) -> None:
        super().__init__()
        self._tokenizer = ByteTokenizer(config.max_bytes)
        self.byte_embed = nn.Parameter(torch.empty(256, sizes.width))
        self.pos_embed = nn.Parameter(torch.empty(config.max_bytes, sizes.width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for table in (self.byte_embed, self.pos_embed):
            nn.init.normal_(table, std=table.shape[1] ** -0.5)

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @property
    def max_tokens(self) -> int:
        return self._tokenizer.max_bytes

    @property
    def num_cut(self) -> int:
        return self._tokenizer.num_cut

    def mask(self, texts: Tensor | PackedPatches) -> Tensor | None:
        """Mark the bytes, (B, max_bytes) bool; an empty text keeps its first position."""
        assert isinstance(texts, Tensor)
        mask = texts != NO_BYTE
        mask[:, 0] = True
        return mask

    def forward(
        self, texts: Tensor | PackedPatches, mask: Tensor | None, patch_embed: PatchEmbed
    ) -> tuple[Tensor, VarlenInfo | None]:
        assert mask is not None
        assert isinstance(texts, Tensor)
        kept = keep_where(mask).to(self.byte_embed.device)
        row, position = kept.keep_indices.long().unbind(1)
        device = self.byte_embed.device
        byte = texts.to(device, non_blocking=True)[row, position].long().clamp(min=0)
        return F.embedding(byte, self.byte_embed) + F.embedding(position, self.pos_embed), kept.varlen


def inked_mask(texts: Tensor, patch_size: int, background: int) -> Tensor:
    """Mark the patches that are not blank, (B, N) bool; see `RenderedText.mask`."""
    if texts.is_floating_point():
        texts = ((texts + 1) * 127.5).round().to(torch.uint8)
    if texts.ndim == 4:
        texts = (texts != background).any(1 if texts.shape[1] in (1, 3) else 3)
        background = False
    if texts.device.type == "cpu" and not torch.compiler.is_compiling():
        # NumPy compares eight pixels at a time: 0.3 ms for 128 texts of 64 px, where PyTorch takes 1.4 ms.
        mask_BN = torch.from_numpy(inked_patches(texts.numpy(), patch_size, background)).flatten(1)
    else:
        mask_BN = inked_patches(texts, patch_size, background).flatten(1)
    mask_BN[:, 0] |= ~mask_BN.any(1)
    return mask_BN


def make_renderer(description: dict[str, Any] | None, image_size: int) -> TextRenderer:
    """Make the renderer of a description with the fonts of this machine, or the published one."""
    from clippo.renderer import UnifontRenderer, from_description  # these need Skia and fonts

    if description is None:
        return UnifontRenderer(image_size)
    renderer = from_description(description)
    warn_of_another_renderer(description, renderer)
    return renderer


def warn_of_another_renderer(description: Mapping[str, Any], renderer: TextRenderer) -> None:
    """Warn if a renderer draws other pixels than the described one, and say what differs."""
    before, now = (
        flat(with_listed_fonts(json.loads(json.dumps(x)))) for x in (description, renderer.description)
    )
    differing = [
        f"{key} was {before.get(key, 'absent')}, is {now.get(key, 'absent')}"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key)
    ]
    if differing:
        warnings.warn(
            printable(f"this model was trained with text that was drawn differently: {'; '.join(differing)}"),
            stacklevel=4,
        )


def with_listed_fonts(description: dict[str, Any]) -> dict[str, Any]:
    """Turn the fonts of a description from hashes by name, as they once were, into a list."""
    fonts = description.get("fonts")
    if not isinstance(fonts, dict):
        return description
    return {**description, "fonts": [{"file": name, "sha256": sha256} for name, sha256 in fonts.items()]}
