"""Strings as arrays of code points, and the scripts these belong to."""

from collections.abc import Sequence
from functools import cache

import numpy as np

__all__ = ["CODE_POINTS", "code_points_of", "scripts"]

CODE_POINTS = 0x110000  # number of all code points, the length of the tables over them


def code_points_of(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate the code points of B strings: (C,) code points, and (B,) the number in each string."""
    utf32 = "".join(texts).encode("utf-32-le", "surrogatepass")
    return np.frombuffer(utf32, "<u4"), np.fromiter(map(len, texts), np.intp, len(texts))


@cache
def scripts() -> tuple[tuple[str, ...], np.ndarray]:
    """List the codes of scripts, "" for no or any script, and the index into them of each code point."""
    from fontTools.unicodedata import Scripts

    shared = ("Zyyy", "Zinh", "Zzzz")
    names = tuple(dict.fromkeys("" if value in shared else value for value in Scripts.VALUES))
    of_range = np.array([names.index("" if value in shared else value) for value in Scripts.VALUES])
    lengths = np.diff(np.append(Scripts.RANGES, CODE_POINTS))
    return names, np.repeat(of_range, lengths).astype(np.int64)
