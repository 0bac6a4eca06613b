"""The front end of a language model of pixels: texts as strips, as headers of pictures, and as pages.

    python examples/pixel_language_model.py [PICTURE]

saves what the model would see as pixel_language_model.png, or PICTURE, and prints

    strips: (2, 16, 1024) uint8, of which 26 and 26 patches are read
    header: (1, 224, 224, 3) uint8
    pages: (3, 360, 256) uint8
    tokens: (52, 192), packed
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clippo.renderer import ParagraphRenderer, compose, render_pages, render_strips
from clippo_kernels import patch_embed_select

P, WIDTH = 16, 192
FIRST = ["A dog barks at the moon.", "Ein Hund bellt den Mond an."]
SECOND = ["An animal makes a noise.", "月に吠える犬がいる。"]


def main(out: Path) -> None:
    # PIXEL (arXiv 2207.06991): a row of patches for a pair of texts, with a black patch after each.
    strips = render_strips(ParagraphRenderer((P, 64 * P), background=255), FIRST, SECOND)
    lengths = " and ".join(map(str, strips.lengths))
    print(f"strips: {strips.pixels.shape} {strips.pixels.dtype}, of which {lengths} patches are read")

    # Pix2Struct (arXiv 2210.03347): the question is drawn above the picture.
    picture = np.asarray(Image.effect_mandelbrot((320, 240), (-2.2, -1.2, 1.0, 1.2), 100))
    headed = compose([picture], ["What is drawn here?"], ParagraphRenderer(224, background=255), "top")
    print(f"header: {headed.shape} {headed.dtype}")

    # A long document: as many pages as it takes.
    document = "\n".join(f"{number}. {' '.join(FIRST + SECOND)}" for number in range(1, 11))
    pages = render_pages(document, (360, 256), margin=16)
    print(f"pages: {pages.shape} {pages.dtype}")

    # The patches to be read, of all strips without padding, become the tokens of the model.
    torch.manual_seed(0)
    keep_indices = torch.from_numpy(np.argwhere(strips.attention_mask).astype(np.int32))
    images = torch.from_numpy(strips.pixels)[:, None]  # (B, 1, 16, 1024)
    tokens = patch_embed_select(images, keep_indices, torch.randn(WIDTH, 3, P, P) / 28)
    print(f"tokens: {tuple(tokens.shape)}, packed")

    # The strips one below the other, and below them the picture and the pages side by side.
    rows = [[strip] for strip in strips.pixels] + [[headed[0, :, :, 0], *pages]]
    sheet = Image.new("L", (strips.pixels.shape[2] + 16, 432), 160)
    top = 8
    for row in rows:
        left = 8
        for pixels in row:
            sheet.paste(Image.fromarray(pixels), (left, top))
            left += pixels.shape[1] + 8
        top += row[0].shape[0] + 8
    sheet.save(out)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "pixel_language_model.png"))
