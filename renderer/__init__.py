"""Strings in any script -> uint8 image batches, for towers that read text as pixels.

`UnifontRenderer` reproduces the published CLIPPO renderer pixel for pixel; `ParagraphRenderer` shapes text
as a word processor does. Both take whole batches at a time. The package needs numpy, Pillow, skia-python
and fontTools, and no torch: data-loader workers stay small.
"""

from clippo.renderer.base import Renderer
from clippo.renderer.compose import compose, sentence_pairs
from clippo.renderer.description import from_description
from clippo.renderer.fonts import FontNotFoundError, find_font
from clippo.renderer.paragraph import ParagraphRenderer, TextOverflowError
from clippo.renderer.pool import RenderPool
from clippo.renderer.report import RenderReport
from clippo.renderer.skia_loader import SystemLibraryError, import_skia
from clippo.renderer.unifont import UnifontRenderer

__all__ = [
    "FontNotFoundError",
    "ParagraphRenderer",
    "RenderPool",
    "RenderReport",
    "Renderer",
    "SystemLibraryError",
    "TextOverflowError",
    "UnifontRenderer",
    "compose",
    "find_font",
    "from_description",
    "import_skia",
    "sentence_pairs",
]
from clippo.renderer.shim import ParagraphRendererConfig, RendererConfig, UnifontRendererConfig  # noqa
