"""The one derivation of random numbers from the seed of a run.

Every random decision has a path of its own below the seed, such as ("example", position), so that it is a
function of the seed and the path alone: it does not matter in which order, process or run it is made.
"""

from __future__ import annotations

import zlib

import numpy as np


def generator(seed: int, *path: int | str) -> np.random.Generator:
    """NumPy's generator for a path below a seed."""
    return np.random.default_rng(sequence(seed, path))


def torch_seed(seed: int, *path: int | str) -> int:
    """An argument for `torch.manual_seed` for a path below a seed."""
    return int(sequence(seed, path).generate_state(1, np.uint64)[0] >> 1)


def sequence(seed: int, path: tuple[int | str, ...]) -> np.random.SeedSequence:
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path]
    return np.random.SeedSequence(entropy=seed, spawn_key=words)
