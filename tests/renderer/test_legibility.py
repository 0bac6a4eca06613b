"""An OCR engine reads what was drawn."""

import pytest

from clippo.bench.studies.legibility import draw_apart, share_read, tesseract_languages
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


def check_language(language: str) -> None:
    if language not in tesseract_languages():
        pytest.skip(f"tesseract does not know {language}: apt-get install tesseract-ocr-{language}")


@pytest.mark.parametrize("language", TEXTS)
def test_ocr_reads_95_percent_of_the_characters(language):
    check_language(language)
    text = TEXTS[language]
    # OCR expects space between lines, where ideographs of 16 px leave none at 16.
    pixels = ParagraphRenderer((320, 448), background=255, line_height=24)([text])[0]
    assert share_read(text, pixels, language) >= 0.95


@pytest.mark.parametrize(("patch_size", "least"), [(16, 0.95), (14, 0.95), (8, 0.4)])
def test_aligned_text_is_read_but_not_well_at_8_px(patch_size, least):
    check_language("eng")
    text = TEXTS["eng"]
    share = share_read(text, draw_apart(text, patch_size))
    assert share >= least
    assert share < 0.95 or patch_size != 8
