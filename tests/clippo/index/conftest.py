"""A model with random weights, and a folder of pictures."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clippo.model import Clippo, ClippoConfig


@pytest.fixture(scope="session")
def model() -> Clippo:
    torch.manual_seed(0)
    config = ClippoConfig(
        width=32, depth=1, mlp_dim=64, num_heads=2, patch_size=16, image_size=48, embed_dim=16
    )
    made = Clippo(config)
    made.init_weights()
    return made.eval()


@pytest.fixture(scope="session")
def model_folder(model, tmp_path_factory) -> Path:
    """The model as `clippo index` reads it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    _ = model.renderer
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def draw() -> Callable[[Path], None]:
    """Write a picture whose colours follow from the name of the file, so that each has another content."""

    def write(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:4])
        colours = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
        Image.fromarray(colours).resize((80, 60)).save(path)

    return write


@pytest.fixture
def photos(tmp_path, draw) -> Path:
    """Ten pictures: 0.png and others in a folder, and in a folder within it."""
    for number in range(10):
        draw(tmp_path / "photos" / ("trip/sea" if number % 2 else "") / f"{number}.png")
    return tmp_path / "photos"
