"""The one derivation of random numbers from the seed of a run.

Every random decision has a path of its own below the seed, such as ("example", position), so that it is a
function of the seed and the path alone: it does not matter in which order, process or run it is made.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["generator", "generators", "torch_seed"]


def generator(seed: int, *path: int | str) -> np.random.Generator:
    """NumPy's generator for a path below a seed."""
    return np.random.default_rng(sequence(seed, path))


def generators(seed: int, *path: int | str, count: int) -> Iterator[np.random.Generator]:
    """Generators for `count` paths below a seed, one after the other.

    It is one object that is seeded anew: that takes a tenth of the time that making another does. So each
    must have been used before the next one comes.
    """
    words = sequence(seed, path).generate_state(4 * count, np.uint64).reshape(count, 2, 2).tolist()
    bits = np.random.PCG64(0)
    rng = np.random.Generator(bits)
    for (high, low), (inc_high, inc_low) in words:
        state: Any = {"state": high << 64 | low, "inc": (inc_high << 64 | inc_low) | 1}
        bits.state = {"bit_generator": "PCG64", "state": state, "has_uint32": 0, "uinteger": 0}
        yield rng


def torch_seed(seed: int, *path: int | str) -> int:
    """An argument for `torch.manual_seed` for a path below a seed."""
    return int(sequence(seed, path).generate_state(1, np.uint64)[0] >> 1)


def sequence(seed: int, path: tuple[int | str, ...]) -> np.random.SeedSequence:
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path]
    return np.random.SeedSequence(entropy=seed, spawn_key=words)
