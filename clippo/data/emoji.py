"""Emoji: pictures from Noto Color Emoji, and their names in many languages.

Every emoji that the font has a picture of is an example. Its texts are its names in the languages asked for
(those of Unicode CLDR, through the `emoji` package) and, in English, the aliases that people type in chats.
One in five of the skin-tone variants is held out, in such a way that its parts are not: every person and role
is trained in the other four tones, and every tone with hundreds of other people.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import emoji as emoji_package
import numpy as np

from clippo.data.base import Example, Source, SourceConfig, Split, Text
from clippo.errors import UserError
from clippo.renderer import find_font, import_skia

__all__ = ["FULLY_QUALIFIED", "SKIN_TONES", "EmojiConfig", "EmojiFont"]

LANGUAGES = tuple(emoji_package.LANGUAGES)
SKIN_TONES = "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
FULLY_QUALIFIED = 2  # the `emoji` package's status of the sequences that are recommended for display


@dataclass(frozen=True)
class Emoji:
    """One emoji, its name by language (two-letter codes), and its English aliases."""

    sequence: str
    names: Mapping[str, str]
    aliases: tuple[str, ...]

    @property
    def skin_tones(self) -> str:
        return "".join(char for char in self.sequence if char in SKIN_TONES)

    @property
    def without_skin_tone(self) -> str:
        # The variation selector goes too: sequences carry it only where there is no skin tone.
        return "".join(char for char in self.sequence if char not in SKIN_TONES and char != "\ufe0f")


class EmojiFont:
    """Noto Color Emoji, drawn through Skia.

    Args:
        path: the font file or its folder; found in the system's font folders by default.

    Raises:
        FontNotFoundError: the font is not there.
        OSError: the file is no font.
        SystemLibraryError: Skia cannot be imported.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.skia = import_skia()
        file = find_font("NotoColorEmoji.ttf", package="fonts-noto-color-emoji", path=path)
        # This font manager knows no font of the system's, so that nothing can fall back on one.
        self.typeface = self.skia.FontMgr.New_Custom_Empty().makeFromFile(str(file))
        if self.typeface is None:
            raise OSError(f"{file} is not a font that Skia can read")

    def draw(self, sequence: str, size: int) -> np.ndarray | None:
        """Draw the picture of one emoji.

        Args:
            sequence: the emoji's code points.
            size: width of the picture in px.

        Returns:
            (size, size, 4) uint8 premultiplied RGBA on a transparent background, or None where the font has
            no picture of the whole sequence (it would draw none, or its parts side by side).
        """
        skia = self.skia
        # The font's bitmaps are 136 x 128 px, at what it calls 109 px an em.
        font = skia.Font(self.typeface, 109 * size / 136)
        blob = skia.TextBlob.MakeFromShapedText(sequence, font)
        bounds = blob.bounds()
        if bounds.left() != 0 or not 0.9 * size < bounds.width() < 1.1 * size:
            return None
        picture = np.zeros((size, size, 4), np.uint8)
        canvas = skia.Canvas(picture, skia.kRGBA_8888_ColorType, skia.kPremul_AlphaType)
        canvas.drawTextBlob(blob, 0, (size - bounds.height()) / 2, skia.Paint())
        return picture


@cache
def load_emoji(
    languages: tuple[str, ...], size: int, font_path: str | Path | None
) -> tuple[list[Emoji], np.ndarray]:
    """Load all emoji with at most one skin tone that the font has a picture of its own for, in a fixed order.

    The result is cached: the source of a run and those of its evaluators share it.

    Returns:
        N emoji, and their pictures (N, size, size, 4) uint8, premultiplied RGBA.
    """
    for language in languages:
        emoji_package.config.load_language(language)
    font = EmojiFont(font_path)
    emojis = []
    # Keyed by the pixels: for sequences newer than itself the font may fall back on a simpler picture.
    pictures: dict[bytes, np.ndarray] = {}
    for sequence, data in sorted(emoji_package.EMOJI_DATA.items()):
        one = Emoji(
            sequence=sequence,
            names={language: readable(data[language]) for language in languages},
            aliases=tuple(readable(alias) for alias in data.get("alias", ())),
        )
        if data["status"] != FULLY_QUALIFIED or len(one.skin_tones) > 1:
            continue
        picture = font.draw(sequence, size)
        if picture is None or picture.tobytes() in pictures:
            continue
        pictures[picture.tobytes()] = picture
        emojis.append(one)
    return emojis, np.stack(list(pictures.values()))


def readable(short_name: str) -> str:
    """`:dog_face:` -> `dog face`."""
    return short_name.strip(":").replace("_", " ")


def is_held_out(emojis: Sequence[Emoji]) -> np.ndarray:
    """(N,) bool, True for the one skin tone of each person and role that training never shows.

    The tone rotates from one person to the next, so that all five are kept out equally often.
    """
    people = {one.without_skin_tone: None for one in emojis if one.skin_tones}
    tone_of = {person: SKIN_TONES[i % len(SKIN_TONES)] for i, person in enumerate(people)}
    return np.array([tone_of.get(c.without_skin_tone) == c.skin_tones for c in emojis], dtype=bool)


@dataclass(frozen=True, kw_only=True)
class EmojiConfig(SourceConfig):
    """Emoji and their names: which texts there are, and how often each is drawn.

    Attributes:
        languages: two-letter codes of the languages of the texts; English must be among them.
        english_share: share of the texts that are English; the others have equal parts of the rest.
        alias_share: share of the English texts that are an alias, where there is one.
        skin_tone_weight: how often a skin-tone variant is drawn, relative to any other emoji.

    Raises:
        UserError: an unknown language, or a share out of range.
    """

    name: ClassVar[str] = "emoji"
    languages: tuple[str, ...] = ("en", "de", "es", "fr", "zh")
    english_share: float = 0.4
    alias_share: float = 0.2
    skin_tone_weight: float = 0.25

    def __post_init__(self) -> None:
        if unknown := set(self.languages) - set(LANGUAGES):
            raise UserError(f"languages must be among {' '.join(LANGUAGES)}; got {' '.join(sorted(unknown))}")
        if "en" not in self.languages or len(set(self.languages)) != len(self.languages):
            raise UserError(f"languages must differ and have en among them, got {' '.join(self.languages)}")
        for name in ("english_share", "alias_share", "skin_tone_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be between 0 and 1, got {getattr(self, name)}")

    def build(self, split: Split, *, image_size: int) -> EmojiSource:
        return EmojiSource(self, split, image_size=image_size)


class EmojiSource(Source):
    """The emoji of a split.

    Args:
        config: the texts and their weights.
        split: trained, held out or all emoji.
        image_size: side of the pictures in px.
        font_path: where NotoColorEmoji.ttf is, if not in a font folder of the system.
    """

    def __init__(
        self,
        config: EmojiConfig,
        split: Split = "all",
        *,
        image_size: int = 64,
        font_path: str | Path | None = None,
    ) -> None:
        self.config = config
        emojis, pictures = load_emoji(config.languages, image_size, font_path)
        held_out = is_held_out(emojis)
        kept = {"train": ~held_out, "held_out": held_out, "all": np.ones(len(emojis), bool)}[split]
        self.emojis = [emojis[index] for index in np.flatnonzero(kept)]
        self.texts = [self.texts_of(one) for one in self.emojis]
        self.pictures = pictures[kept]  # (N, S, S, 4) uint8, premultiplied RGBA

    def __len__(self) -> int:
        return len(self.emojis)

    def __getitem__(self, index: int) -> Example:
        return Example(self.emojis[index].sequence, self.pictures[index], self.texts[index])

    @property
    def weights(self) -> np.ndarray:
        return np.array([self.config.skin_tone_weight if one.skin_tones else 1.0 for one in self.emojis])

    @property
    def fingerprint(self) -> str:
        """Checksum of all texts and pictures, which other versions of the package or the font change."""
        checksum = hashlib.sha256(repr(self.texts).encode())
        checksum.update(self.pictures.tobytes())
        return checksum.hexdigest()

    def texts_of(self, one: Emoji) -> tuple[Text, ...]:
        """The names by language, then the English aliases."""
        others = len(self.config.languages) - 1
        english = self.config.english_share if others else 1.0
        alias = english * self.config.alias_share if one.aliases else 0.0
        weights = dict.fromkeys(self.config.languages, (1 - english) / max(1, others))
        weights["en"] = english - alias
        names = (Text(one.names[language], language, weight) for language, weight in weights.items())
        return (*names, *(Text(text, "en", alias / len(one.aliases)) for text in one.aliases))
