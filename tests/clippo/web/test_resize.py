"""The page resizes pictures as the models' preprocessing does."""

import numpy as np
import pytest

from clippo.model.preprocess import resized


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(150, 97), (31, 20), (64, 64), (1, 300)])
def test_pixels(node, page, tmp_path, shape, how):
    """Within a grey level; of noise with black and white areas, where cubics overshoot."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (*shape, 3), dtype=np.uint8)
    pixels[shape[0] // 3 :, : shape[1] // 2] = 255 * random.integers(0, 2, 3, dtype=np.uint8)
    opaque = np.full((*shape, 1), 255, np.uint8)
    (tmp_path / "rgba").write_bytes(np.concatenate([pixels, opaque], axis=2).tobytes())
    node("resize.mjs", page, tmp_path / "rgba", shape[1], shape[0], 64, how, tmp_path / "out")
    out = np.fromfile(tmp_path / "out", np.uint8).reshape(64, 64, 3)
    expected = resized(pixels, 64, how)
    assert np.abs(out.astype(int) - expected).max() <= 1
    assert (out == expected).mean() > 0.98
