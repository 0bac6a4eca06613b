"""Strings as arrays of code points, and the scripts these belong to."""

from collections.abc import Sequence
from functools import cache

import numpy as np

CODE_POINTS = 0x110000  # how many there are: the length of tables over all of them


def code_points_of(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(C,) code points of B strings, one after the other, and (B,) how many each has."""
    utf32 = "".join(texts).encode("utf-32-le", "surrogatepass")
    return np.frombuffer(utf32, "<u4"), np.fromiter(map(len, texts), np.intp, len(texts))


@cache
def scripts() -> tuple[tuple[str, ...], np.ndarray]:
    """Codes of scripts, "" for what belongs to none or to all, and of each code point its index."""
    from fontTools.unicodedata import Scripts

    shared = ("Zyyy", "Zinh", "Zzzz")
    names = tuple(dict.fromkeys("" if value in shared else value for value in Scripts.VALUES))
    of_range = np.array([names.index("" if value in shared else value) for value in Scripts.VALUES])
    lengths = np.diff(np.append(Scripts.RANGES, CODE_POINTS))
    return names, np.repeat(of_range, lengths).astype(np.int64)
