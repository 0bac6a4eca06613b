"""A page for the tests: a model with random weights, and an index of pictures with names in six languages."""

import colorsys
import csv
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from clippo.demo.answers import Answers
from clippo.index import PictureIndex, build_index
from clippo.model import Clippo, ClippoConfig, RenderedTextConfig
from clippo.renderer import AlignedRenderer

LANGUAGES = ("en", "de", "es", "ar", "hi", "zh")
NAMES = (
    ("strawberry", "Erdbeere", "fresa", "فراولة", "स्ट्रॉबेरी", "草莓"),
    ("dog", "Hund", "perro", "كلب", "कुत्ता", "狗"),
    ("cat", "Katze", "gato", "قطة", "बिल्ली", "猫"),
    ("house", "Haus", "casa", "منزل", "घर", "房子"),
    ("tree", "Baum", "árbol", "شجرة", "पेड़", "树"),
    ("sun", "Sonne", "sol", "شمس", "सूरज", "太阳"),
    ("moon", "Mond", "luna", "قمر", "चाँद", "月亮"),
    ("fish", "Fisch", "pez", "سمكة", "मछली", "鱼"),
)
COUNT = 64


@pytest.fixture(scope="session")
def model() -> Clippo:
    torch.manual_seed(0)
    config = ClippoConfig(
        width=32, depth=1, mlp_dim=64, num_heads=2, patch_size=16, image_size=64, embed_dim=32,
        text=RenderedTextConfig(tokens="inked"),
    )  # fmt: skip
    model = Clippo(config, AlignedRenderer(64))
    model.init_weights()
    return model.eval()


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> str:
    """Specification of a table of coloured pictures, each with a name in each language."""
    folder = tmp_path_factory.mktemp("pictures")
    with (folder / "names.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", *LANGUAGES))
        for number in range(COUNT):
            colour = colorsys.hsv_to_rgb(number / COUNT, 1, 1)
            Image.new("RGB", (80, 60), tuple(round(255 * x) for x in colour)).save(folder / f"{number}.png")
            rows.writerow((f"{number}.png", *NAMES[number % len(NAMES)]))
    columns = ",".join(f"{language}:{language}" for language in LANGUAGES)
    return f"table:{folder}/names.csv?image=path&text={columns}"


@pytest.fixture(scope="session")
def index_file(model, source, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("index") / "pictures.idx"
    build_index(model, source, file, name="/models/tiny/")
    return file


@pytest.fixture(scope="session")
def answers(model, index_file) -> Answers:
    return Answers(model, PictureIndex.open(index_file))


def png(width: int, height: int) -> bytes:
    """A blank picture of one bit a pixel, which compresses a thousandfold."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)

    header = chunk(b"IHDR", width.to_bytes(4) + height.to_bytes(4) + bytes([1, 0, 0, 0, 0]))
    rows = zlib.compress(bytes((1 + -(-width // 8)) * height))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
