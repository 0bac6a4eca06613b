"""Strings in any script -> uint8 image batches, for towers that read text as pixels.

`UnifontRenderer` reproduces the published CLIPPO renderer pixel for pixel, whole batches at a time. The
package needs numpy and skia-python, and no torch: data-loader workers stay small.
"""

from renderer.fonts import FontNotFoundError, find_font
from renderer.skia_loader import SystemLibraryError, import_skia
from renderer.unifont import UnifontRenderer

__all__ = ["FontNotFoundError", "SystemLibraryError", "UnifontRenderer", "find_font", "import_skia"]
