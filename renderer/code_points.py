"""Strings as arrays of code points."""

from collections.abc import Sequence

import numpy as np

CODE_POINTS = 0x110000  # how many there are: the length of tables over all of them


def code_points_of(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(C,) code points of B strings, one after the other, and (B,) how many each has."""
    utf32 = "".join(texts).encode("utf-32-le", "surrogatepass")
    return np.frombuffer(utf32, "<u4"), np.fromiter(map(len, texts), np.intp, len(texts))
