import dataclasses
import pickle

import numpy as np
import pytest

from clippo.data.transform import PlaceConfig
from clippo.errors import UserError

RED = np.zeros((64, 64, 4), np.uint8)
RED[16:48, 16:48] = 255, 0, 0, 255


def test_without_random_numbers_a_picture_is_plain():
    place = PlaceConfig(strength=1, background=90).build(64)
    out = place(RED)
    assert out.shape == (64, 64, 3)
    assert (out[0, 0] == 90).all()
    assert (out[17:47, 17:47] == (255, 0, 0)).all()
    assert np.array_equal(out, place(RED))


def test_pictures_are_resized_to_the_model():
    for size in (32, 96):
        out = PlaceConfig().build(size)(RED)
        is_red = (out == (255, 0, 0)).all(axis=2)
        assert is_red.mean() == pytest.approx(0.25, abs=0.05)
    opaque = np.full((30, 50, 3), 7, np.uint8)
    assert (PlaceConfig().build(32)(opaque) == 7).all()


def test_random_numbers_move_the_picture_and_colour_the_background():
    changes = []
    for strength in (0.0, 0.25, 1.0):
        place = PlaceConfig(strength=strength).build(64)
        plain = place(RED).astype(float)
        placed = np.stack([place(RED, np.random.default_rng(i)) for i in range(20)])
        changes.append(np.abs(placed - plain).mean(axis=(1, 2, 3)).mean())
        assert np.abs(placed[:, 0, 0] - 127.0).max() <= 127 * strength + 2
        assert np.array_equal(place(RED, np.random.default_rng(3)), placed[3])
    assert changes[0] == 0
    assert 5 < changes[1] < changes[2]


def test_copies_in_other_processes_draw_the_same():
    place = PlaceConfig().build(48)
    copy = pickle.loads(pickle.dumps(place))  # noqa: S301
    assert np.array_equal(copy(RED, np.random.default_rng(0)), place(RED, np.random.default_rng(0)))


@pytest.mark.parametrize("field", ["strength", "background"])
def test_wrong_settings_are_named(field):
    with pytest.raises(UserError, match=rf"transform\.{field} must be between 0 and \d+, got 256"):
        dataclasses.replace(PlaceConfig(), **{field: 256})
