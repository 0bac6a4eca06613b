"""Sequences of different lengths, packed without padding, and which patches of an image are worth a token."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Sequences(NamedTuple):
    """S sequences, one after the other: sequence s is the rows `cu_seqlens[s]:cu_seqlens[s + 1]`.

    Attributes:
        cu_seqlens: (S + 1,) int32, cumulative lengths from 0.
        max_seqlen: at least the longest length.
    """

    cu_seqlens: Tensor
    max_seqlen: int


class Patches(NamedTuple):
    """Some of the patches of B images, those of each image a sequence.

    Attributes:
        keep_indices: (T, 2) int32, the image and the position of each; positions count row by row.
        sequences: where the patches of each image begin and end.
    """

    keep_indices: Tensor
    sequences: Sequences

    def to(self, device: torch.device) -> Patches:
        cu_seqlens, max_seqlen = self.sequences
        return Patches(self.keep_indices.to(device), Sequences(cu_seqlens.to(device), max_seqlen))


def whole_sequences(count: int, length: int, device: torch.device) -> Sequences:
    """`count` sequences of one length."""
    cu_seqlens = torch.arange(0, (count + 1) * length, length, dtype=torch.int32, device=device)
    return Sequences(cu_seqlens[: count + 1], length)


def join_sequences(first: Sequences, second: Sequences) -> Sequences:
    """Those of `second` behind those of `first`."""
    cu_seqlens = torch.cat([first.cu_seqlens, first.cu_seqlens[-1] + second.cu_seqlens[1:]])
    return Sequences(cu_seqlens, max(first.max_seqlen, second.max_seqlen))


def list_patches(is_listed_BN: Tensor) -> Patches:
    """The patches that are True, image by image. Lists made on the CPU keep a GPU from waiting for it."""
    index = is_listed_BN.nonzero().int()
    length_B = is_listed_BN.sum(1)
    cu_seqlens = torch.nn.functional.pad(length_B.cumsum(0, dtype=torch.int32), (1, 0))
    return Patches(index, Sequences(cu_seqlens, int(length_B.max()) if len(length_B) else 0))


def inked_patches(texts: Tensor, patch_size: int, background: int) -> Tensor:
    """(B, N) bool, the patches that are not blank, of rendered texts; of a blank text, its first patch.

    Args:
        texts: (B, S, S), (B, S, S, C) or (B, C, S, S); uint8, or floating in [-1, 1].
        patch_size: P, px; must divide S.
        background: grey level of the paper, 0 to 255.
    """
    if texts.is_floating_point():
        texts = ((texts + 1) * 127.5).round().to(torch.uint8)
    is_inked = texts != background
    if texts.ndim == 4:
        is_inked = is_inked.any(1 if texts.shape[1] in (1, 3) else 3)
    B, height, width = is_inked.shape
    grid = is_inked.view(B, height // patch_size, patch_size, width // patch_size, patch_size)
    is_inked_BN = grid.any(4).any(2).flatten(1)
    is_inked_BN[:, 0] |= ~is_inked_BN.any(1)
    return is_inked_BN


def random_patches(batch: int, patches: int, dropped: float) -> Patches:
    """The same number of patches of each of `batch` images, drawn at random; at least one.

    Patch dropout, as of FLIP (Li et al., arXiv 2212.00794), from PyTorch's generator for the CPU.

    Args:
        batch: B images.
        patches: N, of an image.
        dropped: share that is left out, from 0 to below 1.
    """
    kept = max(1, round(patches * (1 - dropped)))
    position = torch.rand(batch, patches).topk(kept).indices.sort().values
    image = torch.arange(batch).repeat_interleave(kept)
    index = torch.stack([image, position.flatten()], dim=1).int()
    return Patches(index, whole_sequences(batch, kept, index.device))
