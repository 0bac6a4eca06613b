"""Pictures as people have them, against Pillow's own conversions."""

import io
import struct
import time
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, ImageOps

from clippo.data import decode as module
from clippo.data.base import BrokenExampleError, Example, Source, Text
from clippo.data.decode import decode, pixels_of, read_all

RNG = np.random.default_rng(0)
RGB = Image.fromarray(RNG.integers(0, 256, (20, 30, 3), np.uint8))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize(("kind", "options"), [
    ("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}), ("JPEG", {"progressive": True}),
])  # fmt: skip
def test_formats(kind, options):
    content = encoded(RGB, kind, **options)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.array_equal(decode(content), expected)
    if kind != "JPEG":
        assert np.array_equal(expected, np.asarray(RGB))


def test_of_several_frames_the_first():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    for kind in ("GIF", "TIFF", "WEBP"):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        red, _, blue = decode(content)[4, 4, :3].tolist()
        assert (red > 200, blue < 50) == (True, True), kind


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(RGB, "PNG", exif=exif)
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(decode(content), np.asarray(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 30}])
def test_the_extra_gives_the_same_pixels(options, monkeypatch):
    pytest.importorskip("simplejpeg")
    content = encoded(RGB.resize((301, 200)), "JPEG", **options)
    fast = decode(content)
    monkeypatch.setattr(module, "simplejpeg", None)
    assert np.array_equal(decode(content), fast)


@pytest.mark.parametrize("is_fast", [False, True])
@pytest.mark.parametrize(
    ("at_least", "shape"),
    [(0, (200, 301)), (101, (200, 301)), (100, (100, 151)), (51, (100, 151)), (50, (50, 76)), (9, (25, 38))],
)
def test_a_jpeg_is_decoded_at_a_part_of_its_size_on_request(at_least, shape, is_fast, monkeypatch):
    if is_fast:
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr(module, "simplejpeg", None)
    picture = RGB.resize((6, 4)).resize((301, 200))
    part = decode(encoded(picture, "JPEG", quality=95), at_least=at_least)
    assert part.shape == (*shape, 3)
    expected = np.asarray(picture.resize(shape[::-1], Image.Resampling.BOX))
    assert np.abs(part.astype(int) - expected).mean() < 2
    assert decode(encoded(picture, "PNG"), at_least=at_least).shape == (200, 301, 3)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr"])
def test_modes_become_rgb(mode):
    image = RGB.convert(mode)
    kind = "PNG" if mode in ("L", "1", "P") else "TIFF"
    assert np.array_equal(decode(encoded(image, kind)), np.asarray(image.convert("RGB")))


def test_cmyk_jpeg():
    content = encoded(RGB.convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode(content).astype(int).mean((0, 1)) - np.asarray(RGB).mean((0, 1))).max() < 12


def test_16_bits_keep_their_levels():
    grey = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    out = decode(encoded(Image.fromarray(grey), "PNG"))
    assert out.shape == (20, 30, 3)
    assert np.abs(out[..., 0] - grey / 257).max() <= 0.5 + 1e-6


def test_alpha_is_premultiplied_and_left_out_where_nothing_is_transparent():
    pixels = RNG.integers(0, 256, (20, 30, 4), np.uint8)
    out = decode(encoded(Image.fromarray(pixels), "PNG"))
    assert np.array_equal(out[..., 3], pixels[..., 3])
    exact = pixels[..., :3].astype(float) * pixels[..., 3:] / 255
    assert np.abs(out[..., :3] - exact).max() <= 0.5 + 1e-6
    pixels[..., 3] = 255
    assert np.array_equal(decode(encoded(Image.fromarray(pixels), "PNG")), pixels[..., :3])
    palette = Image.fromarray(RNG.integers(0, 2, (4, 4), np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    out = decode(encoded(palette, "PNG", transparency=0))
    assert set(map(tuple, out.reshape(-1, 4).tolist())) == {(0, 0, 0, 0), (0, 0, 255, 255)}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_what_is_cut_off_is_refused(kind):
    content = encoded(RGB.resize((200, 200)), kind)
    for share in (0.1, 0.5, 0.95):
        with pytest.raises(ValueError, match=r"\w"):
            decode(content[: int(share * len(content))])


def png_that_says(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def test_what_is_too_large_is_refused_at_once(monkeypatch):
    start = time.process_time()
    with pytest.raises(
        ValueError, match="a picture of 65500 x 65500 px, more than 134,217,728 pixels|exceeds limit"
    ):
        decode(png_that_says(65_500, 65_500))
    with pytest.raises(ValueError, match="a picture of 12000 x 12000 px"):
        decode(png_that_says(12_000, 12_000))
    assert time.process_time() - start < 1
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="a file of 101 bytes, more than 100"):
        decode(b"x" * 101)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"hello", "not a picture in JPEG, PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture in JPEG, PNG"),
        (encoded(RGB.convert("F"), "TIFF"), "mode F, whose white level is unknown"),
        (encoded(RGB, "PPM"), "not a picture in JPEG, PNG"),  # Pillow could, but has to be kept from most
    ],
)
def test_what_is_no_picture(content, message):
    with pytest.raises(ValueError, match=message):
        decode(content)


@pytest.mark.slow
def test_damaged_files_raise_nothing_but_value_errors():
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        content = bytearray(encoded(RGB, kind))
        for trial in range(60):
            rng = np.random.default_rng(trial)
            damaged = bytearray(content)
            for position in rng.integers(len(content), size=8).tolist():
                damaged[position] = int(rng.integers(256))
            with suppress(ValueError):
                assert decode(bytes(damaged)).dtype == np.uint8


class TwoOfThree(Source):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Example:
        return Example(f"number {index}", encoded(RGB, "PNG") if index != 1 else b"x", (Text("a picture"),))


def test_examples_that_cannot_be_read_are_left_out_with_one_warning():
    with pytest.raises(BrokenExampleError, match="^number 1: not a picture"):
        pixels_of(TwoOfThree()[1])
    with pytest.warns(UserWarning, match="1 of 3 examples cannot be read and are left out, such as number 1"):
        found = read_all(TwoOfThree())
    assert [example.key for example in found] == ["number 0", "number 2"]
