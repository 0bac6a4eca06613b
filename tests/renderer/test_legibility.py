"""An OCR engine reads what was drawn."""

import difflib
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from clippo.renderer import AlignedRenderer, ParagraphRenderer

# In each language the first sentences of the Universal Declaration of Human Rights' first article.
TEXTS = {
    "eng": "All human beings are born free and equal in dignity and rights. They are endowed with reason and "
    "conscience and should act towards one another in a spirit of brotherhood.",
    "deu": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und "
    "Gewissen begabt und sollen einander im Geiste der Brüderlichkeit begegnen.",
    "rus": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и "
    "совестью и должны поступать в отношении друг друга в духе братства.",
    "ell": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. Είναι "
    "προικισμένοι με λογική και συνείδηση.",
    "chi_sim": "人人生而自由在尊严和权利上一律平等他们赋有理性和良心并应以兄弟关系的精神相对待",
}


def tesseract_languages() -> set[str]:
    if shutil.which("tesseract") is None:
        return set()
    listed = subprocess.run(["tesseract", "--list-langs"], capture_output=True, text=True, check=True)
    return set(listed.stdout.split())


@pytest.mark.parametrize("language", TEXTS)
def test_ocr_reads_95_percent_of_the_characters(language, tmp_path):
    text = TEXTS[language]
    # OCR expects smooth strokes, and space between lines, where ideographs of 16 px leave none at 16.
    pixels = ParagraphRenderer((320, 448), background=255, line_height=24)([text])[0]
    assert share_read(text, pixels, language, tmp_path) >= 0.95


@pytest.mark.parametrize(("patch_size", "least"), [(16, 0.95), (14, 0.95), (8, 0.4)])
def test_aligned_text_is_read_but_not_well_at_8_px(patch_size, least, tmp_path):
    size, text = 28 * patch_size, TEXTS["eng"]
    pixels = AlignedRenderer(size, patch_size=patch_size, background=255, ink=0)([text])[0]
    rows = pixels.reshape(28, patch_size, size)
    apart = np.pad(rows, ((0, 0), (0, patch_size // 2), (0, 0)), constant_values=255).reshape(-1, size)
    share = share_read(text, apart, "eng", tmp_path)
    assert share >= least
    assert share < 0.95 or patch_size != 8


def share_read(text: str, pixels: np.ndarray, language: str, folder: Path) -> float:
    """The share of the characters of a text that tesseract reads in the picture of it."""
    if language not in tesseract_languages():
        pytest.skip(f"tesseract does not know {language}: apt-get install tesseract-ocr-{language}")
    height, width = pixels.shape
    picture = Image.fromarray(pixels).resize((4 * width, 4 * height), Image.Resampling.NEAREST)
    picture.filter(ImageFilter.GaussianBlur(3)).save(folder / "text.png")
    command = ["tesseract", str(folder / "text.png"), "-", "-l", language, "--psm", "6"]
    read = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    wanted, found = ("".join(t.split()) for t in (text, read))
    matcher = difflib.SequenceMatcher(None, wanted, found, autojunk=False)
    return sum(block.size for block in matcher.get_matching_blocks()) / len(wanted)
