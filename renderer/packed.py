"""Renderers that draw the patches of a text without the image around them."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clippo.renderer.base import Renderer, blocks, checked_texts

__all__ = ["PackedRenderer", "PackedText"]

STRINGS_PER_BLOCK = 256


class PackedText(NamedTuple):
    """The inked patches of B strings, packed without the blank ones.

    Attributes:
        pixels: (T, P, P) uint8, the patches of all strings, row by row over each image.
        positions: (T,) int32, the position of each patch in its image, which counts row by row.
        cu_seqlens: (B + 1,) int32; string b has the patches `cu_seqlens[b]:cu_seqlens[b + 1]`, at least one.
    """

    pixels: np.ndarray
    positions: np.ndarray
    cu_seqlens: np.ndarray


class PackedRenderer(Renderer):
    """A renderer whose text lies on the patch grid of a model, and that can draw the inked patches alone."""

    patch_size: int

    def render_packed(self, texts: Sequence[str]) -> PackedText:
        """Draw the patches of strings that hold ink, without the images they are part of.

        They are the patches of a call that differ from the background, to the last bit; a blank image gives
        its first patch. This is what a model that reads inked patches alone needs.

        Args:
            texts: B strings.

        Raises:
            TypeError: `texts` is not a sequence of strings.
        """
        texts = checked_texts(texts)
        parts = []
        for block in blocks(len(texts), STRINGS_PER_BLOCK):
            with self._lock:
                pixels, positions, lengths, num_cut = self._draw_packed(list(texts[block]))
                self._num_cut += num_cut
            parts.append((pixels, positions, lengths))
        if not parts:
            P = self.patch_size
            return PackedText(np.empty((0, P, P), np.uint8), np.empty(0, np.int32), np.zeros(1, np.int32))
        pixels, positions, lengths = (
            x[0] if len(x) == 1 else np.concatenate(x) for x in zip(*parts, strict=True)
        )
        cu_seqlens = np.zeros(len(texts) + 1, np.int32)
        np.cumsum(lengths, out=cu_seqlens[1:])
        return PackedText(pixels, positions, cu_seqlens)

    @abstractmethod
    def _draw_packed(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Draw a block of a batch.

        Returns:
            Pixels (T, P, P), positions (T,) int32, the number of patches of each string (B,), and the number
            of strings that do not fit.
        """
