"""From JPEG files to the tokens of a ViT, without normalised images or patches in between.

    python examples/patch_embed_from_bytes.py [PHOTO ...]

prints, for the picture that it draws itself if none is named,

    tokens (1, 196, 192) of 150,528 bytes of pixels; a float32 image takes 602,112
    they differ from those of a convolution by at most 5e-06
"""

import io
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from clippo.data.decode import decode
from clippo.model.preprocess import preprocess_image
from clippo_kernels import patch_embed

SIZE, PATCH_SIZE, WIDTH = 224, 16, 192
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def drawn_jpeg() -> bytes:
    """A JPEG file of 640 x 480 px in memory."""
    buffer = io.BytesIO()
    Image.effect_mandelbrot((640, 480), (-2.2, -1.2, 1.0, 1.2), 100).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def main(paths: list[str]) -> None:
    torch.manual_seed(0)
    files = [Path(path).read_bytes() for path in paths] or [drawn_jpeg()]
    # A JPEG of more than twice the size is decoded at half of it or less, which takes less time.
    pixels = [preprocess_image(decode(file, at_least=SIZE), SIZE) for file in files]
    images = torch.from_numpy(np.stack(pixels))  # (B, 224, 224, 3) uint8, as the decoder leaves them

    layer = nn.Conv2d(3, WIDTH, kernel_size=PATCH_SIZE, stride=PATCH_SIZE)  # that of timm and open_clip
    pos_embed = nn.Parameter(torch.randn(1, (SIZE // PATCH_SIZE) ** 2, WIDTH) / 50)
    tokens = patch_embed(images, layer.weight, layer.bias, pos_embed, mean=MEAN, std=STD)
    print(
        f"tokens {tuple(tokens.shape)} of {images.nbytes:,} bytes of pixels; "
        f"a float32 image takes {4 * images.nbytes:,}"
    )

    normalized = (images / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    expected = layer(normalized.permute(0, 3, 1, 2)).flatten(2).mT + pos_embed
    print(f"they differ from those of a convolution by at most {(tokens - expected).abs().max():.0e}")


if __name__ == "__main__":
    main(sys.argv[1:])
