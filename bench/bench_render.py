"""Rendering the training captions: every name of every emoji in the recipe's languages, in random order.

    pytest bench/bench_render.py

One process, one thread. The peer draws the same strings in the same font through Pillow, in rows of equal
length; it does not trim the glyphs, so its task is the easier one.
"""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from clippo.data.emoji import EmojiDataset
from renderer import UnifontRenderer, find_font

BATCH = 256


@pytest.fixture(scope="module")
def captions(dataset: EmojiDataset) -> list[str]:
    captions = [name for concept in dataset.concepts for name in concept.names.values()]
    return np.random.default_rng(0).permutation(captions).tolist()


def pillow(texts: list[str], size: int, font: ImageFont.FreeTypeFont) -> np.ndarray:
    out = np.empty((len(texts), size, size), np.uint8)
    columns = size // 8
    for i, text in enumerate(texts):
        image = Image.new("L", (size, size), 127)
        draw = ImageDraw.Draw(image)
        for row in range(size // 16):
            draw.text((0, 16 * row), text[row * columns : (row + 1) * columns], fill=0, font=font)
        out[i] = np.asarray(image)
    return out


@pytest.mark.parametrize("size", [64, 224])
def test_unifont_renderer(benchmark, captions, size):
    renderer = UnifontRenderer(size)
    batches = [captions[i : i + BATCH] for i in range(0, len(captions), BATCH)]
    out = np.empty((BATCH, size, size), np.uint8)

    def render_all():
        for batch in batches:
            renderer(batch, out=out[: len(batch)])

    render_all()  # glyphs that are drawn for the first time
    benchmark.pedantic(render_all, rounds=5)
    benchmark.extra_info["strings_per_s"] = round(len(captions) / benchmark.stats["median"])


@pytest.mark.parametrize("size", [64, 224])
def test_pillow(benchmark, captions, size):
    font = ImageFont.truetype(
        str(find_font("unifont.otf", package="fonts-unifont")), 16, layout_engine=ImageFont.Layout.BASIC
    )
    batch = captions[: 4 * BATCH]
    benchmark.pedantic(lambda: pillow(batch, size, font), rounds=5, warmup_rounds=1)
    benchmark.extra_info["strings_per_s"] = round(len(batch) / benchmark.stats["median"])
