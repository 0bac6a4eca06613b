"""Sequences of different lengths, packed without padding, and the patches that are kept of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "KeptPatches",
    "PackedPatches",
    "VarlenInfo",
    "concatenated",
    "copied",
    "equal_lengths",
    "join",
    "keep_where",
    "patch_dropout",
]


class VarlenInfo(NamedTuple):
    """Where each of S packed sequences is: sequence s has the rows `cu_seqlens[s]:cu_seqlens[s + 1]`.

    Attributes:
        cu_seqlens: (S + 1,) int32, the cumulative lengths, from 0.
        max_seqlen: an upper bound on the lengths of the sequences that `dense` leaves; a close one is fast.
        dense: number and length of leading sequences of one length.
    """

    cu_seqlens: Tensor
    max_seqlen: int
    dense: tuple[int, int] = (0, 0)

    @property
    def longest(self) -> int:
        """An upper bound on all lengths."""
        return max(self.max_seqlen, self.dense[1])


class KeptPatches(NamedTuple):
    """The patches that are kept of B images; those of one image form a sequence.

    Attributes:
        keep_indices: (T, 2) int32, image and position of each patch; positions count row by row.
        varlen: where the patches of each image are among the T.
    """

    keep_indices: Tensor
    varlen: VarlenInfo

    def to(self, device: torch.device) -> KeptPatches:
        cu_seqlens = copied(self.varlen.cu_seqlens, device)
        return KeptPatches(copied(self.keep_indices, device), self.varlen._replace(cu_seqlens=cu_seqlens))


def copied(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device. The host waits for a GPU only where it copies from memory of its own."""
    if x.device.type == "cpu" and device.type == "cuda":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


@dataclass(frozen=True)
class PackedPatches:
    """The patches of B images that a tower reads, packed without the images around them.

    It has a length and can be split, as a tensor of B rows can.

    Attributes:
        pixels: (T, P, P) uint8 grey levels.
        positions: (T,) int32, the position of each patch in its image, which counts row by row.
        varlen: where the patches of each image are among the T.
    """

    pixels: Tensor
    positions: Tensor
    varlen: VarlenInfo

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def __len__(self) -> int:
        return len(self.varlen.cu_seqlens) - 1

    def __getitem__(self, rows: slice) -> PackedPatches:
        """The patches of consecutive images."""
        first, end, step = rows.indices(len(self))
        if step != 1:
            raise IndexError(f"rows of packed patches must be consecutive, got {rows}")
        cu_seqlens = self.varlen.cu_seqlens[first : max(first, end) + 1]
        patches = slice(int(cu_seqlens[0]), int(cu_seqlens[-1]))
        varlen = VarlenInfo(cu_seqlens - cu_seqlens[0], self.varlen.longest)
        return PackedPatches(self.pixels[patches], self.positions[patches], varlen)

    def split(self, size: int) -> list[PackedPatches]:
        """Split into parts of `size` images."""
        return [self[start : start + size] for start in range(0, max(1, len(self)), size)]

    def to(self, device: torch.device) -> PackedPatches:
        varlen = self.varlen._replace(cu_seqlens=self.varlen.cu_seqlens.to(device, non_blocking=True))
        pixels, positions = (x.to(device, non_blocking=True) for x in (self.pixels, self.positions))
        return PackedPatches(pixels, positions, varlen)

    def pin_memory(self) -> PackedPatches:
        """Copy to memory from which a GPU reads faster; torch's DataLoader calls this."""
        varlen = self.varlen._replace(cu_seqlens=self.varlen.cu_seqlens.pin_memory())
        return PackedPatches(self.pixels.pin_memory(), self.positions.pin_memory(), varlen)


def concatenated(first: Tensor | PackedPatches, second: Tensor | PackedPatches) -> Tensor | PackedPatches:
    """The rows of `first` followed by those of `second`, which is of the same kind."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.cat([first, second])
    assert isinstance(first, PackedPatches)
    assert isinstance(second, PackedPatches)
    pixels = torch.cat([first.pixels, second.pixels])
    positions = torch.cat([first.positions, second.positions])
    return PackedPatches(pixels, positions, join(first.varlen, second.varlen))


def equal_lengths(count: int, length: int, device: torch.device) -> VarlenInfo:
    """Describe `count` sequences of one length."""
    cu_seqlens = torch.arange(0, (count + 1) * length, length, dtype=torch.int32, device=device)
    return VarlenInfo(cu_seqlens[: count + 1], 0, (count, length))


def join(first: VarlenInfo, second: VarlenInfo) -> VarlenInfo:
    """Describe the sequences of `first` followed by those of `second`."""
    cu_seqlens = torch.cat([first.cu_seqlens, first.cu_seqlens[-1] + second.cu_seqlens[1:]])
    if first.dense[0] < len(first.cu_seqlens) - 1:  # others follow its dense sequences
        return VarlenInfo(cu_seqlens, max(first.max_seqlen, second.longest), first.dense)
    if first.dense[1] == second.dense[1]:
        dense = first.dense[0] + second.dense[0], first.dense[1]
        return VarlenInfo(cu_seqlens, second.max_seqlen, dense)
    return VarlenInfo(cu_seqlens, second.longest, first.dense)


def keep_where(mask_BN: Tensor) -> KeptPatches:
    """Keep the patches where a mask is True.

    The mask should be on the CPU: counting the patches of a mask on a GPU makes the host wait for it.
    """
    keep_indices = mask_BN.nonzero().int()
    length_B = mask_BN.sum(1)
    cu_seqlens = torch.nn.functional.pad(length_B.cumsum(0, dtype=torch.int32), (1, 0))
    return KeptPatches(keep_indices, VarlenInfo(cu_seqlens, int(length_B.max()) if len(length_B) else 0))


def patch_dropout(batch: int, num_patches: int, dropped: float) -> KeptPatches:
    """Choose a random subset of the patches of each image. Every image keeps the same number, at least one.

    This is the patch dropout of FLIP (Li et al., arXiv 2212.00794). It uses PyTorch's CPU generator.

    Args:
        batch: number of images, B.
        num_patches: number of patches of an image, N.
        dropped: fraction of the patches to drop, in [0, 1).

    Returns:
        The kept patches, in ascending order for each image; their number is rounded.
    """
    kept = max(1, round(num_patches * (1 - dropped)))
    position = torch.rand(batch, num_patches).topk(kept).indices.sort().values
    image = torch.arange(batch).repeat_interleave(kept)
    keep_indices = torch.stack([image, position.flatten()], dim=1).int()
    return KeptPatches(keep_indices, equal_lengths(batch, kept, keep_indices.device))
