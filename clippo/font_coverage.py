"""Table of the fonts of this machine and the scripts that they cover."""

from __future__ import annotations

import unicodedata
from collections import Counter

import numpy as np

from clippo.renderer import FontNotFoundError
from clippo.renderer.code_points import CODE_POINTS, scripts
from clippo.renderer.fonts import PACKAGES, find_named_font
from clippo.renderer.typesetter import Fonts

__all__ = ["describe"]

COVERED = 0.9  # of a script's assigned code points


def describe(names: list[str]) -> list[str]:
    """Lines for people: each font that was found, all of them together, and what to install for the rest."""
    assigned = np.array(
        [c for c in range(CODE_POINTS) if unicodedata.category(chr(c)) not in ("Cn", "Co", "Cs", "Cc", "Cf")]
    )
    script_names, script_of = scripts()
    wanted = Counter(script_names[i] for i in script_of[assigned].tolist())
    del wanted[""]  # what belongs to no script, or to all

    def covered(has_glyph: np.ndarray) -> set[str]:
        found = Counter(script_names[i] for i in script_of[assigned[has_glyph]].tolist())
        return {name for name, count in wanted.items() if found[name] >= COVERED * count}

    lines, missing = [], []
    anywhere = np.zeros(len(assigned), bool)
    for name in names:
        try:
            path = find_named_font(name)
        except FontNotFoundError:
            missing.append(name)
            continue
        has_glyph = Fonts([path]).font_of(assigned) >= 0
        anywhere |= has_glyph
        lines.append(
            f"{path.name:32} {has_glyph.sum():7,} code points {len(covered(has_glyph)):4} scripts  {path}"
        )
    together = covered(anywhere)
    lines.append(
        f"{'together':32} {anywhere.sum():7,} of {len(assigned):,} code points, {len(together)} of "
        f"{len(wanted)} scripts (Unicode {unicodedata.unidata_version}; {COVERED:.0%} of a script count)"
    )
    if rest := sorted(wanted.keys() - together):
        lines.append(f"not covered: {' '.join(rest)}")
    for package in dict.fromkeys(PACKAGES.get(name, "") for name in missing):
        files = ", ".join(name for name in missing if PACKAGES.get(name, "") == package)
        lines.append(f"missing: {files}" + (f"; apt-get install {package}" if package else ""))
    return lines
