"""Resampling of photographs, against its formula written out for one pixel."""

import numpy as np
import pytest

from clippo.renderer.resize import resize


def one_pixel(image: np.ndarray, height: int, width: int, y: int, x: int) -> np.ndarray:
    """The exact bilinear interpolation at the centre of a pixel of the result."""

    def between(position: int, length: int, size: int) -> tuple[int, int, float]:
        center = (position + 0.5) * length / size - 0.5
        before = int(np.floor(center))
        return max(before, 0), min(before + 1, length - 1), center - before

    above, below, down = between(y, image.shape[0], height)
    left, right, across = between(x, image.shape[1], width)
    top = image[above, left] * (1 - across) + image[above, right] * across
    bottom = image[below, left] * (1 - across) + image[below, right] * across
    return top * (1 - down) + bottom * down


@pytest.mark.parametrize(("height", "width"), [(20, 30), (7, 40), (1, 1), (64, 5)])
@pytest.mark.parametrize("shape", [(40, 30, 3), (5, 9, 1), (1, 1, 3), (3, 200, 3)])
def test_is_bilinear_and_truncated(shape, height, width):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    resized = resize(image, height, width)
    assert resized.shape == (height, width, shape[2])
    assert resized.dtype == np.uint8
    exact = [
        [one_pixel(image.astype(float), height, width, y, x) for x in range(width)] for y in range(height)
    ]
    difference = resized - np.array(exact)
    assert difference.min() > -1.05  # truncated; the weights are float32, as in the published code
    assert difference.max() < 0.05


def test_the_same_size_is_the_same_image():
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    np.testing.assert_array_equal(resize(image, 37, 53), image)
