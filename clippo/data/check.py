"""Validation of a source: count its examples, texts, broken files and duplicates."""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from clippo.data.base import BrokenExampleError, Example, Source
from clippo.data.decode import pixels_of
from clippo.data.transform import Transform
from clippo.model.preprocess import resized
from clippo.renderer import Renderer

__all__ = ["Findings", "check", "random_pairs"]

STRINGS = 256  # that are drawn at a time


@dataclass
class Findings:
    """Result of `check`.

    Attributes:
        examples: their number.
        broken: keys of those that cannot be read, and why.
        sides: height and width of each picture, px.
        lengths: of the texts, in characters.
        languages, scripts: how many texts are in each; a text may have several scripts.
        cut: texts that do not fit into the image of the renderer.
        missing: texts with characters that no font of the renderer has.
        left_out: how many texts and examples the source left out for each reason.
        same_bytes: pictures whose file came before.
        same_look: other pictures that have the same outlines as one that came before, as most do that were
            only resized or compressed.
        same_text: examples whose first text came before.
    """

    examples: int = 0
    broken: list[tuple[str, str]] = field(default_factory=list)
    sides: list[tuple[int, int]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    languages: Counter[str] = field(default_factory=Counter)
    scripts: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    missing: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    same_bytes: int = 0
    same_look: int = 0
    same_text: int = 0

    def __str__(self) -> str:
        """Lines for people."""
        lines = [f"{self.examples:,} examples, {len(self.lengths):,} texts"]
        if self.left_out:
            lines.append("left out: " + ", ".join(f"{n:,} {reason}" for reason, n in self.left_out.items()))
        lines.append(f"broken: {len(self.broken):,}")
        lines += [f"  {key}: {reason}" for key, reason in self.broken[:10]]
        lines += ["  ..."] * (len(self.broken) > 10)
        if self.sides:
            heights, widths = zip(*self.sides, strict=True)
            ranges = (
                f"{min(s)} to {max(s)} px, median {statistics.median(s):.0f}" for s in (widths, heights)
            )
            lines.append("pictures: width {}; height {}".format(*ranges))
        if self.lengths:
            bounds = np.percentile(self.lengths, (50, 90, 100)).round().astype(int).tolist()
            lines.append("letters of a text: median {}, nine in ten at most {}, most {}".format(*bounds))
            shares = (shares_of(found, len(self.lengths)) for found in (self.languages, self.scripts))
            lines += [
                f"{what}: {share}" for what, share in zip(("languages", "scripts"), shares, strict=True)
            ]
            lines.append(f"texts that fit the canvas: {1 - self.cut / len(self.lengths):.1%}")
            if self.missing:
                lines.append(f"texts with characters that the fonts lack: {self.missing:,}")
        lines.append(
            f"duplicates: {self.same_bytes:,} files, {self.same_look:,} pictures that look alike, "
            f"{self.same_text:,} first texts"
        )
        return "\n".join(lines)


def shares_of(counts: Counter[str], of: int) -> str:
    return ", ".join(f"{name or 'unknown'} {count / of:.1%}" for name, count in counts.most_common(12))


def check(source: Source, renderer: Renderer) -> Findings:
    """Read every example, and draw every text.

    Args:
        source: the examples.
        renderer: draws the texts as a model would read them.
    """
    found = Findings(examples=len(source), left_out=source.left_out)
    seen: set[bytes] = set()
    texts: list[str] = []
    for index in tqdm(range(len(source)), desc="check", unit="example", leave=False):
        try:
            example = source[index]
            pixels = None if example.image is None else pixels_of(example)
        except BrokenExampleError as error:
            found.broken.append((error.key, error.reason))
            continue
        if pixels is not None:
            found.sides.append((pixels.shape[0], pixels.shape[1]))
        found.languages.update(text.language or "" for text in example.texts)
        count_duplicates(example, pixels, seen, found)
        texts += [text.text for text in example.texts]
        if len(texts) >= STRINGS:
            count_texts(texts, renderer, found)
            texts = []
    count_texts(texts, renderer, found)
    return found


def random_pairs(
    source: Source, transform: Transform, renderer: Renderer, *, count: int
) -> tuple[list[np.ndarray], list[str]]:
    """Draw readable examples without repetition: their pictures as of `transform`, and their first texts.

    Of a pair of texts, the first is drawn in the place of a picture.
    """
    images: list[np.ndarray] = []
    texts: list[str] = []
    for index in np.random.default_rng(0).permutation(len(source)).tolist():
        if len(images) == count:
            break
        with suppress(BrokenExampleError):
            example = source[index]
            if example.image is None:
                first, second = (text.text for text in example.texts)
                images.append(np.repeat(renderer([first])[0][..., None], 3, axis=2))
                texts.append(second)
            else:
                images.append(transform(pixels_of(example)))
                texts.append(example.texts[0].text)
    return images, texts


def count_texts(texts: Sequence[str], renderer: Renderer, found: Findings) -> None:
    _, report = renderer.render(texts)
    found.lengths += map(len, texts)
    found.cut += int((report.unfit > 0).sum())
    found.missing += int((report.missing > 0).sum())
    found.scripts.update(script for scripts in report.scripts for script in scripts if script)


def count_duplicates(example: Example, pixels: np.ndarray | None, seen: set[bytes], found: Findings) -> None:
    def is_new(kind: bytes, content: bytes) -> bool:
        digest = hashlib.blake2b(kind + content, digest_size=12).digest()
        is_new = digest not in seen
        seen.add(digest)
        return is_new

    found.same_text += not is_new(b"text", example.texts[0].text.encode("utf-8", "surrogatepass"))
    if pixels is None:
        return
    outlines = outlines_of(pixels)
    looks_new = not outlines.any() or is_new(b"look", outlines.tobytes())
    if not is_new(b"file", example.image if isinstance(example.image, bytes) else pixels.tobytes()):
        found.same_bytes += 1
    elif not looks_new:
        found.same_look += 1


def outlines_of(pixels: np.ndarray) -> np.ndarray:
    """(8, 8) bool: where a picture of 9 x 9 px becomes lighter to the right (the "difference hash")."""
    grey = resized(pixels, 9, "bicubic")[..., :3].astype(np.int32).sum(2)
    outlines: np.ndarray = grey[:8, 1:] > grey[:8, :-1] + 24  # so that noise on a plain ground says nothing
    return outlines
