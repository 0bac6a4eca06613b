"""List the fonts that were found, and what they cover."""

from __future__ import annotations

from clippo.arguments import call

__all__ = ["main"]


def fonts(names: tuple[str, ...] = (), /) -> None:
    """List the fonts that were found, what they cover, and what to install for the rest.

        clippo fonts
        clippo fonts unifont.otf ~/fonts/MyFont.ttf

    Fonts are looked for in the folders of CLIPPO_FONT_PATH, then in the system's.

    Args:
        names: Font files, by name or path; those that captions are usually drawn with, if left out.
    """
    from clippo.font_coverage import describe
    from clippo.renderer.fonts import PACKAGES, find_named_font
    from clippo.renderer.typesetter import Fonts

    Fonts([find_named_font(name) for name in names])  # raises if one is missing, or is not a font
    print("\n".join(describe(list(names or PACKAGES))))


def main(arguments: list[str]) -> None:
    call(fonts, arguments, prog="clippo fonts")
