"""Finding font files on this machine."""

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["PACKAGES", "FontNotFoundError", "find_font", "find_named_font"]

FONT_PATH_VARIABLE = "CLIPPO_FONT_PATH"

SYSTEM_FONT_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "/usr/share/unifont",  # Debian keeps unifont.hex outside the font folders
    "~/.local/share/fonts",
    "~/.fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "/opt/homebrew/share/fonts",
)


# The fonts that captions are usually drawn with, and the Debian package of each.
PACKAGES = {
    "unifont.otf": "fonts-unifont",
    "unifont_upper.otf": "fonts-unifont",
    "NotoSans-Regular.ttf": "fonts-noto-core",
    "NotoSansArabic-Regular.ttf": "fonts-noto-core",
    "NotoSansDevanagari-Regular.ttf": "fonts-noto-core",
    "NotoSansThai-Regular.ttf": "fonts-noto-core",
    "NotoSansCJK-Regular.ttc": "fonts-noto-cjk",
    "NotoColorEmoji.ttf": "fonts-noto-color-emoji",
}


class FontNotFoundError(FileNotFoundError):
    """A font file was not found in any of the folders that were searched."""


def find_font(filename: str, *, package: str, path: str | os.PathLike[str] | None = None) -> Path:
    """Find a font file; every folder is searched with all its subfolders.

    Args:
        filename: the file's name, such as "unifont.otf".
        package: the Debian package that holds it, for the error message.
        path: the file itself, or a folder that holds it. When given, nothing else is searched, so that a
            wrong path cannot silently become another version of the font. Otherwise the folders in the
            environment variable CLIPPO_FONT_PATH come first (separated as in PATH), then the system's font
            folders.

    Raises:
        FontNotFoundError: no such file; the message names the package and the environment variable.
    """
    if path is not None:
        path = Path(path).expanduser()
        if path.is_file():
            return path
        found, searched = search_folders([path], filename), str(path)
    else:
        own_folders = [Path(p) for p in os.environ.get(FONT_PATH_VARIABLE, "").split(os.pathsep) if p]
        system_folders = [Path(p) for p in SYSTEM_FONT_FOLDERS]
        found = search_folders([*own_folders, *system_folders], filename)
        searched = f"${FONT_PATH_VARIABLE} and the system's font folders"
    if found is None:
        raise FontNotFoundError(
            f"font file {filename} not found in {searched}: apt-get install {package}, "
            f"or set {FONT_PATH_VARIABLE} to a folder that holds it"
        )
    return found


def find_named_font(name: str) -> Path:
    """Find the font that a user names, either by a path, which has a separator, or by a file name.

    Raises:
        FontNotFoundError: no such file.
    """
    path = Path(name)
    return find_font(
        path.name,
        package=PACKAGES.get(path.name, "the package that has it"),
        path=path if os.sep in name else None,
    )


def search_folders(folders: Iterable[Path], filename: str) -> Path | None:
    for folder in folders:
        for parent, subfolders, files in os.walk(folder.expanduser()):
            subfolders.sort()  # the same file wins on every machine
            if filename in files:
                return Path(parent, filename)
    return None
