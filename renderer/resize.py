"""Resampling of photographs, with the pixels that the published models were trained on."""

import numpy as np

__all__ = ["resize"]


def resize(pixels_YXC: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image, without keeping its aspect ratio.

    The interpolation is bilinear between pixel centres, without antialiasing, and truncated to whole grey
    levels, which gives the pixels of `tf.image.resize` followed by a cast to uint8. Only the source pixels
    that the result depends on are read, so a very large image costs no more than a small one.

    Args:
        pixels_YXC: (Y, X, C) uint8, without empty axes.
        height: rows of the result, px.
        width: columns of the result, px.

    Returns:
        (height, width, C) uint8.
    """
    Y, X, C = pixels_YXC.shape
    above, below, down = neighbours(Y, height)
    left, right, across = neighbours(X, width)
    # NumPy copies pixels much faster as items of C bytes than as rows of an axis.
    pixels_YX = np.ascontiguousarray(pixels_YXC).view(f"V{C}")[..., 0]
    across_X = np.repeat(across, C)

    def along_row(y: np.ndarray) -> np.ndarray:
        row_YX = pixels_YX.take(y, axis=0)
        a, b = (row_YX.take(x, axis=1).view(np.uint8).astype(np.float32) for x in (left, right))
        return mixed(a, b, across_X)

    top, bottom = along_row(above), along_row(below)
    return mixed(top, bottom, down[:, None]).astype(np.uint8).reshape(height, width, C)


def mixed(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    """a + (b - a) * share, in place of b."""
    b -= a
    b *= share
    b += a
    return b


def neighbours(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the two source pixels that each of `size` result pixels lies between, along one axis.

    Returns:
        (size,) index of the first neighbour; (size,) index of the second; (size,) float32 distance from the
        first, in source pixels.
    """
    center = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(length / size) - 0.5
    before = np.floor(center)
    first = np.clip(before, 0, length - 1).astype(np.intp)
    second = np.clip(before + 1, 0, length - 1).astype(np.intp)
    return first, second, (center - before).astype(np.float32)
