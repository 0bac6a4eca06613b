"""Reports on the strings of a batch: drawn, missing, cut and sanitised code points."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clippo.renderer.code_points import code_points_of, scripts

__all__ = ["Outcome", "RenderReport", "inked_patches", "make_report"]


@dataclass(frozen=True)
class Outcome:
    """Report on one string.

    Attributes:
        text: the string to draw, sanitised and cut.
        fit: number of leading code points of `text` that are within the image.
        font_size: px.
        height: px from the top of the image to the end of the last line that fits.
        cleaned: counts of the changes by sanitising; see `sanitize`.
    """

    text: str
    fit: int
    font_size: int
    height: int
    cleaned: Mapping[str, int]


@dataclass(frozen=True)
class RenderReport:
    """Report on B strings. Every code point is counted once: given = drawn + missing + unfit + removed.

    Attributes:
        given: (B,) code points of the strings.
        drawn: (B,) code points within the image, including spaces and invisible ones.
        missing: (B,) code points within the image that no font has a glyph for; a box or a gap is drawn.
        unfit: (B,) code points below the image, or beyond the `max_chars` of the renderer.
        removed: (B,) code points that sanitising removed.
        cleaned: for each string, counts of the changes by sanitising; see `renderer.sanitize`.
        scripts: for each string, the scripts within the image, as codes of ISO 15924 ("Latn", "Hani").
        font_size: (B,) px; smaller than the configured one where text was shrunk.
        height: (B,) px from the top of an image to its lowest ink, not beyond the last line of text; 0 for
            a blank image.
        inked: (B, R, C) bool, the patches that hold ink, R rows of C.
    """

    given: np.ndarray
    drawn: np.ndarray
    missing: np.ndarray
    unfit: np.ndarray
    removed: np.ndarray
    cleaned: tuple[Mapping[str, int], ...]
    scripts: tuple[frozenset[str], ...]
    font_size: np.ndarray
    height: np.ndarray
    inked: np.ndarray

    @property
    def inked_rows(self) -> np.ndarray:
        """(B, R) bool, the rows of patches that hold ink."""
        return np.asarray(self.inked.any(axis=2))

    def __str__(self) -> str:
        """Summarise the report in one line for people."""
        strings = "string" if len(self.given) == 1 else "strings"
        parts = [f"{len(self.given)} {strings}, {self.given.sum()} code points"]
        for name, what in (
            ("unfit", "did not fit"),
            ("missing", "without a glyph"),
            ("removed", "removed"),
        ):
            counts = getattr(self, name)
            if counts.any():
                parts.append(f"{counts.sum()} {what} (in {np.count_nonzero(counts)})")
        if found := frozenset().union(*self.scripts):
            parts.append("scripts " + " ".join(sorted(found)))
        return "; ".join(parts)


def make_report(
    texts: Sequence[str],
    outcomes: Sequence[Outcome],
    has_glyph: Callable[[np.ndarray], np.ndarray],
    images_BYX: np.ndarray,
    background: int,
    patch_size: int,
) -> RenderReport:
    B = len(texts)
    given = np.fromiter(map(len, texts), np.intp, B)
    unfit = np.array([len(o.text) - o.fit + o.cleaned.get("cut off", 0) for o in outcomes], np.intp)
    code_point_C, fit = code_points_of([o.text[: o.fit] for o in outcomes])
    string_C = np.repeat(np.arange(B), fit)
    missing = np.bincount(string_C[~has_glyph(code_point_C)], minlength=B)
    script_names, script_of = scripts()
    found: list[set[str]] = [set() for _ in range(B)]
    for pair in np.unique(string_C * len(script_names) + script_of[code_point_C]).tolist():
        string, script = divmod(pair, len(script_names))
        if script_names[script]:
            found[string].add(script_names[script])
    return RenderReport(
        given=given,
        drawn=fit - missing,
        missing=missing,
        unfit=unfit,
        removed=given - fit - unfit,
        cleaned=tuple({k: n for k, n in o.cleaned.items() if k != "cut off"} for o in outcomes),
        scripts=tuple(map(frozenset, found)),
        font_size=np.array([o.font_size for o in outcomes], np.intp),
        height=np.minimum(
            heights_of_ink(images_BYX, background), np.array([o.height for o in outcomes], np.intp)
        ),
        inked=inked_patches(images_BYX, patch_size, background),
    )


def heights_of_ink(images_BYX: np.ndarray, background: int) -> np.ndarray:
    """(B,) px from the top of each image to the end of its ink, 0 for a blank image."""
    is_inked_BY = (images_BYX != background).any(2)
    last_B = is_inked_BY.shape[1] - is_inked_BY[:, ::-1].argmax(1)
    return np.asarray(np.where(is_inked_BY.any(1), last_B, 0))


def inked_patches(images: Any, patch_size: int, background: int) -> Any:
    """(B, R, C) bool, the patches that are not blank, R rows of C.

    Args:
        images: (B, height, width) grey levels, an array of NumPy or of another library with the same
            operators, such as a tensor of PyTorch.
        patch_size: side of the patches in px; must divide the height and the width.
        background: grey level of blank pixels.

    Raises:
        ValueError: `patch_size` does not divide the image.
    """
    B, height, width = images.shape
    if height % patch_size or width % patch_size:
        raise ValueError(f"patch_size must divide the image, {height} x {width} px, got {patch_size}")
    R, C = height // patch_size, width // patch_size
    blank: Any = background
    if isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.flags.c_contiguous:
        # Up to eight pixels are compared at a time, as one integer.
        word = next(size for size in (8, 4, 2, 1) if patch_size % size == 0)
        images = images.view(f"u{word}")
        blank = np.full(word, background, np.uint8).view(f"u{word}")[0]
    columns = (images.reshape(B, R, patch_size, images.shape[2]) != blank).any(2)
    return columns.reshape(B, R, C, images.shape[2] // C if C else 0).any(3)
