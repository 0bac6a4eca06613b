import io

import numpy as np
import pytest
import torch
from PIL import Image

from clippo.model.preprocess import preprocess_image, rgb_pixels


def test_pixels_of_the_published_preprocessing(reference_dir):
    with np.load(reference_dir / "evaluation" / "pp_ref.npz") as file:
        names = [name.removesuffix("_resize224") for name in file.files if name.endswith("_resize224")]
        assert names
        for name in names:
            np.testing.assert_array_equal(preprocess_image(file[name], 224), file[f"{name}_resize224"])


@pytest.mark.parametrize("shape", [(480, 640), (7, 5), (224, 224), (1000, 3)])
def test_is_pytorchs_bilinear_cut_to_whole_levels(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    resized = torch.nn.functional.interpolate(planes, (224, 224), mode="bilinear", align_corners=False)
    difference = preprocess_image(image, 224) - resized[0].permute(1, 2, 0).numpy()
    assert difference.min() > -1.05  # cut; positions are float32, as they were in the published code
    assert difference.max() < 0.05
    if shape == (224, 224):
        np.testing.assert_array_equal(preprocess_image(image, 224), image)


def test_every_kind_of_image_gives_the_same_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    expected = preprocess_image(pixels, 32)
    for same in (
        Image.fromarray(pixels),
        Image.fromarray(pixels).convert("RGBA"),
        torch.from_numpy(pixels),
        torch.from_numpy(pixels).permute(2, 0, 1),
        torch.from_numpy(pixels).float() / 127.5 - 1,
        np.asfortranarray(pixels),
    ):
        np.testing.assert_array_equal(preprocess_image(same, 32), expected)
    grey = pixels[..., 0]
    expected = preprocess_image(np.repeat(grey[..., None], 3, 2), 32)
    palette = Image.fromarray(grey).convert("P")
    for same in (grey, grey[..., None], grey[None], Image.fromarray(grey), palette):
        np.testing.assert_array_equal(preprocess_image(same, 32), expected)


def test_alpha_is_laid_on_white():
    pixels = np.zeros((6, 5, 4), np.uint8)
    pixels[:2] = 10, 20, 30, 255
    expected = np.full((6, 5, 3), 255, np.uint8)
    expected[:2] = 10, 20, 30
    for image in (pixels, Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1)):
        np.testing.assert_array_equal(rgb_pixels(image), expected)
    grey = Image.new("LA", (2, 2), (0, 0))
    assert (rgb_pixels(grey) == 255).all()


def test_a_photograph_that_says_how_it_is_held_is_turned():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 3  # upside down
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    np.testing.assert_array_equal(rgb_pixels(Image.open(file)), pixels[::-1, ::-1])


@pytest.mark.slow
def test_very_small_and_very_large_images():
    assert (preprocess_image(np.full((1, 1, 3), 7, np.uint8), 224) == 7).all()
    # A gigabyte of pixels that takes no memory, and must not be copied.
    huge = np.broadcast_to(np.uint8(9), (20_000, 20_000, 3))
    assert (preprocess_image(huge, 224) == 9).all()


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ("cat.jpg", TypeError, "image must be a PIL image, an array or a tensor, not str"),
        (None, TypeError, "not NoneType"),
        (np.zeros((5, 6, 2), np.uint8), ValueError, r"not \(5, 6, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"not \(0, 4, 3\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), ValueError, r"not \(1, 4, 4, 3\)"),
        (np.zeros((4, 4, 3), np.int64), TypeError, "uint8, or floating in .*, not int64"),
        (Image.new("I;16", (4, 4)), TypeError, "8 bits a channel, but is in Pillow's mode 'I;16'"),
        (Image.new("F", (4, 4)), TypeError, "mode 'F'"),
    ],
)
def test_what_is_no_image(image, error, message):
    with pytest.raises(error, match=message):
        preprocess_image(image, 224)


def test_transparent_pixels_take_the_background():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    expected = np.full((2, 2, 3), 127, np.uint8)
    expected[0, 0] = (10, 20, 30)
    np.testing.assert_array_equal(preprocess_image(rgba, 2, background=127), expected)
    np.testing.assert_array_equal(rgb_pixels(Image.fromarray(rgba), 127), expected)
