"""Study of the legibility of patch-aligned text by its patch size: the letters that an OCR engine reads.

    apt-get install tesseract-ocr-eng unicode-cldr-core
    python -m clippo.bench.studies.legibility

Each English caption is drawn for patches of 16, 14 and 8 px. Before it is read, the picture is enlarged and
the rows are set apart, because OCR expects smooth strokes and space between lines.
"""

from __future__ import annotations

import difflib
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from clippo.bench.captions import captions
from clippo.renderer import AlignedRenderer

__all__ = ["draw_apart", "share_read", "tesseract_languages"]

CAPTIONS = 24
PATCH_SIZES = (16, 14, 8)


def tesseract_languages() -> set[str]:
    """The languages that tesseract knows; none where it is not installed."""
    if shutil.which("tesseract") is None:
        return set()
    listed = subprocess.run(["tesseract", "--list-langs"], capture_output=True, text=True, check=True)
    return set(listed.stdout.split())


def draw_apart(text: str, patch_size: int) -> np.ndarray:
    """Draw patch-aligned text in black on white, with half a patch of space below each row: (H, W) uint8."""
    rows = 28
    size = rows * patch_size
    pixels = AlignedRenderer(size, patch_size=patch_size, background=255, ink=0)([text])[0]
    padding = ((0, 0), (0, patch_size // 2), (0, 0))
    return np.pad(pixels.reshape(rows, patch_size, size), padding, constant_values=255).reshape(-1, size)


def share_read(text: str, pixels: np.ndarray, language: str = "eng") -> float:
    """The share of the characters of a text, without spaces, that tesseract reads in its picture.

    Args:
        text: what is drawn.
        pixels: (H, W) uint8.
        language: as tesseract calls it.
    """
    height, width = pixels.shape
    picture = Image.fromarray(pixels).resize((4 * width, 4 * height), Image.Resampling.NEAREST)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "text.png")
        picture.filter(ImageFilter.GaussianBlur(3)).save(file)
        command = ["tesseract", str(file), "-", "-l", language, "--psm", "6"]
        read = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    wanted, found = ("".join(t.split()) for t in (text, read))
    matcher = difflib.SequenceMatcher(None, wanted, found, autojunk=False)
    return sum(block.size for block in matcher.get_matching_blocks()) / len(wanted)


def main() -> int:
    if "eng" not in tesseract_languages():
        print("tesseract does not know English: apt-get install tesseract-ocr-eng", file=sys.stderr)
        return 2
    for patch_size in PATCH_SIZES:
        texts = [text.lower() for text in captions("English", CAPTIONS)]  # as the renderer draws them
        shares = [share_read(text, draw_apart(text, patch_size)) for text in texts]
        print(f"patches of {patch_size} px: {statistics.mean(shares):.1%} of the letters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
