"""Make renderer/unifont.npz.xz of the font files of Unifont that are installed.

Debian 12's packages fonts-unifont and unifont hold version 15.0.01.
"""

import io
import json
import lzma
from pathlib import Path

import numpy as np

from clippo.renderer.glyphs import UnifontFiles, UnifontTable

if __name__ == "__main__":
    glyphs = UnifontFiles()
    code_points = np.arange(0x110000, dtype=np.int32)
    code_points = code_points[glyphs.has_glyph(code_points)]
    bitmaps = np.packbits(glyphs.bitmaps(code_points), axis=2).reshape(len(code_points), -1)
    advances, shifts = (part.astype(np.uint8) for part in glyphs.placement(code_points))
    table = UnifontTable(code_points, bitmaps, advances, shifts, glyphs.fonts)
    file = io.BytesIO()
    np.savez(file, **table._asdict() | {"fonts": np.array(json.dumps(glyphs.fonts))})
    out = Path(__file__).parents[1] / "renderer" / "unifont.npz.xz"
    out.write_bytes(lzma.compress(file.getvalue(), preset=9))
    print(f"{len(code_points):,} glyphs, {out.stat().st_size:,} bytes in {out}")
