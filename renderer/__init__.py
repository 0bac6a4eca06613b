"""Strings in any script -> uint8 image batches, for towers that read text as pixels.

`UnifontRenderer` reproduces the published CLIPPO renderer pixel for pixel; `ParagraphRenderer` shapes text
as a word processor does. Both take whole batches at a time. The package needs numpy, skia-python and
fontTools, and no torch: data-loader workers stay small.
"""

from clippo.renderer.aligned import AlignedRenderer, AlignedRendererConfig
from clippo.renderer.aligned_paragraph import AlignedParagraphRenderer, AlignedParagraphRendererConfig
from clippo.renderer.base import Renderer, RendererConfig
from clippo.renderer.compose import compose, sentence_pairs
from clippo.renderer.description import from_description, renderer_configs
from clippo.renderer.fonts import FontNotFoundError, find_font
from clippo.renderer.packed import PackedText
from clippo.renderer.pages import PageRenderer, Pages, PageStyle, render_pages
from clippo.renderer.paragraph import ParagraphRenderer, ParagraphRendererConfig, TextOverflowError
from clippo.renderer.pool import RenderPool
from clippo.renderer.report import RenderReport, inked_patches
from clippo.renderer.skia_loader import SystemLibraryError, import_skia
from clippo.renderer.strips import Strips, render_strips
from clippo.renderer.unifont import UnifontRenderer, UnifontRendererConfig

__all__ = [
    "AlignedParagraphRenderer",
    "AlignedParagraphRendererConfig",
    "AlignedRenderer",
    "AlignedRendererConfig",
    "FontNotFoundError",
    "PackedText",
    "PageRenderer",
    "PageStyle",
    "Pages",
    "ParagraphRenderer",
    "ParagraphRendererConfig",
    "RenderPool",
    "RenderReport",
    "Renderer",
    "RendererConfig",
    "Strips",
    "SystemLibraryError",
    "TextOverflowError",
    "UnifontRenderer",
    "UnifontRendererConfig",
    "compose",
    "find_font",
    "from_description",
    "import_skia",
    "inked_patches",
    "render_pages",
    "render_strips",
    "renderer_configs",
    "sentence_pairs",
]
