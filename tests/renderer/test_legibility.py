"""An OCR engine reads what was drawn."""

import difflib
import shutil
import subprocess

import pytest
from PIL import Image, ImageFilter

from clippo.renderer import ParagraphRenderer

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
    if language not in tesseract_languages():
        pytest.skip(f"tesseract does not know {language}: apt-get install tesseract-ocr-{language}")
    text = TEXTS[language]
    # OCR expects smooth strokes, and space between lines, where ideographs of 16 px leave none at 16.
    pixels = ParagraphRenderer((320, 448), background=255, line_height=24)([text])[0]
    picture = Image.fromarray(pixels).resize((448 * 4, 320 * 4), Image.Resampling.NEAREST)
    picture = picture.filter(ImageFilter.GaussianBlur(3))
    picture.save(tmp_path / "text.png")
    command = ["tesseract", str(tmp_path / "text.png"), "-", "-l", language, "--psm", "6"]
    read = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    wanted, found = ("".join(t.split()) for t in (text, read))
    matcher = difflib.SequenceMatcher(None, wanted, found, autojunk=False)
    share = sum(block.size for block in matcher.get_matching_blocks()) / len(wanted)
    assert share >= 0.95, f"{share:.1%}: {read}"
