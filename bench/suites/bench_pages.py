"""Pages of a document, against ReportLab with PyMuPDF; seconds, and words a second.

    pip install reportlab pymupdf
    pytest bench/suites/bench_pages.py

A4 at 96 dpi, DejaVu Sans of 9 pt, grey. The text is the help that comes with Python (`pydoc_data.topics`),
470,000 characters, in paragraphs that are not broken into lines. "unseen": the first half has been drawn, and
the second is timed; "repeated": it has been drawn as well. ReportLab makes a PDF that PyMuPDF rasterises.
"""

from __future__ import annotations

import io
import re
from functools import cache
from pydoc_data import topics
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pytest

from clippo.renderer import PageRenderer, PageStyle
from clippo.renderer.fonts import find_named_font

FONT = "DejaVuSans.ttf"
HEIGHT, WIDTH, MARGIN = 1123, 794, 57
STYLE = PageStyle(fonts=(FONT,), font_size=12, line_spacing=1.2, margin=MARGIN, paragraph_gap=0)


@cache
def halves() -> tuple[str, str]:
    text = re.sub(r"\n(?!\n)", " ", "\n".join(topics.topics.values()))
    middle = text.index("\n", len(text) // 2)
    return text[:middle], text[middle + 1 :]


def record(benchmark: Any, name: str, pages: int) -> None:
    seconds = benchmark.stats["median"]
    words = len(halves()[1].split())
    benchmark.extra_info.update(
        name=name,
        median_us=seconds * 1e6,
        pages=pages,
        ms_per_page=1e3 * seconds / pages,
        words_per_s=round(words / seconds),
    )


@pytest.mark.parametrize("seen", ["unseen", "repeated"])
def test_pages(benchmark: Any, seen: str) -> None:
    first, second = halves()
    benchmark.group = "pages"

    def used_renderer() -> tuple[tuple[PageRenderer], dict[str, Any]]:
        render = PageRenderer((HEIGHT, WIDTH), STYLE)
        render(first)
        if seen == "repeated":
            render(second)
        return (render,), {}

    pages = benchmark.pedantic(lambda render: render(second), setup=used_renderer, rounds=7)
    record(benchmark, f"PageRenderer, {seen}", len(pages))


def test_reportlab_and_pymupdf(benchmark: Any) -> None:
    pytest.importorskip("reportlab")
    pymupdf = pytest.importorskip("pymupdf")
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont
    from reportlab.platypus import Paragraph, SimpleDocTemplate

    _, second = halves()
    benchmark.group = "pages"
    pdfmetrics.registerFont(TTFont("DejaVu", str(find_named_font(FONT))))
    style = ParagraphStyle("text", fontName="DejaVu", fontSize=9, leading=10.8)
    margins = dict.fromkeys(("leftMargin", "rightMargin", "topMargin", "bottomMargin"), 0.75 * MARGIN - 6)

    def draw() -> np.ndarray:
        file = io.BytesIO()
        lines = [Paragraph(escape(line) or "&nbsp;", style) for line in second.split("\n")]
        SimpleDocTemplate(file, pagesize=A4, **margins).build(lines)
        with pymupdf.open(stream=file.getvalue(), filetype="pdf") as document:
            pixmaps = [page.get_pixmap(dpi=96, colorspace=pymupdf.csGRAY) for page in document]
        return np.stack([np.frombuffer(p.samples, np.uint8).reshape(p.height, p.stride) for p in pixmaps])

    pages = benchmark.pedantic(draw, rounds=3)
    record(benchmark, "ReportLab and PyMuPDF", len(pages))
