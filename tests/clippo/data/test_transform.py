import dataclasses
import pickle

import numpy as np
import pytest
from PIL import Image

from clippo.data.transform import CropConfig, PlaceConfig, SquashConfig
from clippo.errors import UserError
from clippo.model.preprocess import preprocess_image

BICUBIC = Image.Resampling.BICUBIC

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


def test_colours_change_and_shapes_do_not():
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[16:48, 16:48] = (200, 40, 40, 255)
    plain = PlaceConfig(strength=0, recolor=0).build(64)(picture)
    place, rng = PlaceConfig(strength=0, recolor=1).build(64), np.random.default_rng(0)
    colors = set()
    for _ in range(20):
        out = place(picture, rng)
        np.testing.assert_array_equal((out != 127).any(2)[8:56, 8:56], (plain != 127).any(2)[8:56, 8:56])
        colors.add(tuple(out[32, 32].tolist()))
    assert len(colors) == 20
    np.testing.assert_array_equal(place(picture), plain)


def test_copies_in_other_processes_draw_the_same():
    place = PlaceConfig().build(48)
    copy = pickle.loads(pickle.dumps(place))  # noqa: S301
    assert np.array_equal(copy(RED, np.random.default_rng(0)), place(RED, np.random.default_rng(0)))


@pytest.mark.parametrize("field", ["strength", "recolor", "background"])
def test_wrong_settings_are_named(field):
    with pytest.raises(UserError, match=rf"transform\.{field} must be between 0 and \d+, got 256"):
        dataclasses.replace(PlaceConfig(), **{field: 256})


# -- photographs

PHOTOGRAPH = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)).resize(
        (300, 200), BICUBIC
    )
)


def test_a_photograph_is_squashed_as_pillow_does_it():
    out = SquashConfig().build(64)(PHOTOGRAPH)
    expected = np.asarray(Image.fromarray(PHOTOGRAPH).resize((64, 64), BICUBIC))
    assert np.abs(out.astype(int) - expected).max() <= 1
    published = SquashConfig(resize="bilinear").build(64)(PHOTOGRAPH)
    assert np.array_equal(published, preprocess_image(PHOTOGRAPH, 64))


def test_the_middle_of_a_photograph():
    out = CropConfig().build(64)(PHOTOGRAPH)
    middle = Image.fromarray(PHOTOGRAPH).crop((50, 0, 250, 200)).resize((64, 64), BICUBIC)
    assert np.abs(out.astype(int) - np.asarray(middle)).max() <= 1
    tall = CropConfig().build(64)(np.ascontiguousarray(PHOTOGRAPH.swapaxes(0, 1)))
    assert np.abs(tall.astype(int) - np.asarray(middle).swapaxes(0, 1)).max() <= 1


def test_transparent_pixels_show_the_background():
    for config, grey in ((SquashConfig(), 255), (SquashConfig(background=10), 10)):
        out = config.build(32)(RED)
        assert (out[0, 0] == grey).all()
        assert np.abs(out[16, 16].astype(int) - (255, 0, 0)).max() <= 1
        half = np.full((8, 8, 4), 128, np.uint8)  # white, half transparent
        assert np.abs(config.build(8)(half).astype(int) - (128 + grey * 127 / 255)).max() <= 1


@pytest.mark.parametrize("config", [SquashConfig(min_area=0.3), CropConfig(min_area=0.3)])
def test_random_parts(config):
    """Of a picture whose colours are its coordinates, so that a part says where it is from."""
    rows, columns = np.mgrid[0:240, 0:120]
    place = np.stack([rows, columns * 2, np.zeros_like(rows)], 2).astype(np.uint8)
    transform = config.build(16)
    areas, tops = [], []
    for seed in range(200):
        out = transform(place, np.random.default_rng(seed)).astype(float)
        assert np.array_equal(out, transform(place, np.random.default_rng(seed)))
        height = (out[-1, 8, 0] - out[0, 8, 0]) * 16 / 15
        width = (out[8, -1, 1] - out[8, 0, 1]) * 16 / 15 / 2
        areas.append(height * width / (240 * 120))
        tops.append(out[0, 8, 0])
        ratio = width / height * (2 if type(config) is SquashConfig else 1)
        assert 0.65 < ratio < 1.55
    assert 0.25 < min(areas) < 0.4
    assert max(areas) > (0.85 if type(config) is SquashConfig else 0.45)
    assert min(tops) < 10 < 60 < max(tops)


def test_pictures_are_mirrored_on_request():
    transform = SquashConfig(flip=True).build(32)
    plain = transform(PHOTOGRAPH)
    seen = {
        "plain" if np.array_equal(out, plain) else "mirrored"
        for seed in range(20)
        for out in [transform(PHOTOGRAPH, np.random.default_rng(seed))]
        if np.array_equal(out, plain) or np.array_equal(out, plain[:, ::-1])
    }
    assert seen == {"plain", "mirrored"}


def test_narrow_pictures():
    for shape in ((1, 1, 3), (1, 500, 3), (500, 1, 4)):
        for config in (SquashConfig(min_area=0.1), CropConfig(min_area=0.1)):
            transform = config.build(16)
            for seed in range(20):
                assert transform(np.ones(shape, np.uint8), np.random.default_rng(seed)).shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_area": 0.0}, "min_area must be above 0 and at most 1, got 0.0"),
        ({"resize": "nearest"}, "resize must be bicubic or bilinear, got 'nearest'"),
        ({"background": 256}, "background must be between 0 and 255"),
    ],
)
def test_photographs_of_no_kind(change, message):
    with pytest.raises(UserError, match=message):
        CropConfig(**change)
