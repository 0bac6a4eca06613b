"""Emoji as an image-text data set: pictures from Noto Color Emoji, names in many languages.

Every emoji that the font has a picture of is a concept. Its texts are its names in the languages asked for
(Unicode CLDR's, through the `emoji` package) and, in English, the aliases that people type in chats. One in
five of the skin-tone variants is kept out of training, in such a way that its parts are not: every person and
role is trained in the other four tones, and every tone with hundreds of other people.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import emoji as emoji_package
import numpy as np

from clippo.errors import UserError
from clippo.renderer import UnifontRenderer, find_font, import_skia

LANGUAGES = tuple(emoji_package.LANGUAGES)
SKIN_TONES = "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
FULLY_QUALIFIED = 2  # the `emoji` package's status of the sequences that are recommended for display


@dataclass(frozen=True)
class Concept:
    """One emoji, its name by language (two-letter codes), and its English aliases."""

    emoji: str
    names: Mapping[str, str]
    aliases: tuple[str, ...]

    @property
    def skin_tones(self) -> str:
        return "".join(char for char in self.emoji if char in SKIN_TONES)

    @property
    def without_skin_tone(self) -> str:
        # The variation selector goes too: sequences carry it only where there is no skin tone.
        return "".join(char for char in self.emoji if char not in SKIN_TONES and char != "\ufe0f")


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
        """The picture of one emoji.

        Args:
            sequence: the emoji's code points.
            size: width of the picture in px.

        Returns:
            (size, size, 4) uint8 premultiplied RGBA on a transparent ground, or None where the font has no
            picture of the whole sequence (it would draw none, or its parts side by side).
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


def load_concepts(languages: Sequence[str], font: EmojiFont, size: int) -> tuple[list[Concept], np.ndarray]:
    """All emoji with at most one skin tone that the font has a picture of its own for, in a fixed order.

    Returns:
        N concepts, and their pictures (N, size, size, 4) uint8, premultiplied RGBA.
    """
    for language in languages:
        emoji_package.config.load_language(language)
    concepts = []
    # Keyed by the pixels: for sequences newer than itself the font may fall back on a simpler picture.
    pictures: dict[bytes, np.ndarray] = {}
    for sequence, data in sorted(emoji_package.EMOJI_DATA.items()):
        concept = Concept(
            emoji=sequence,
            names={language: readable(data[language]) for language in languages},
            aliases=tuple(readable(alias) for alias in data.get("alias", ())),
        )
        if data["status"] != FULLY_QUALIFIED or len(concept.skin_tones) > 1:
            continue
        picture = font.draw(sequence, size)
        if picture is None or picture.tobytes() in pictures:
            continue
        pictures[picture.tobytes()] = picture
        concepts.append(concept)
    return concepts, np.stack(list(pictures.values()))


def readable(short_name: str) -> str:
    """`:dog_face:` -> `dog face`."""
    return short_name.strip(":").replace("_", " ")


def is_held_out(concepts: Sequence[Concept]) -> np.ndarray:
    """(N,) bool, True for the one skin tone of each person and role that training never shows.

    The tone rotates from one person to the next, so that all five are kept out equally often.
    """
    people = {concept.without_skin_tone: None for concept in concepts if concept.skin_tones}
    tone_of = {person: SKIN_TONES[i % len(SKIN_TONES)] for i, person in enumerate(people)}
    return np.array([tone_of.get(c.without_skin_tone) == c.skin_tones for c in concepts], dtype=bool)


@dataclass(frozen=True, kw_only=True)
class EmojiConfig:
    """What the texts are and how often each is drawn.

    Attributes:
        languages: two-letter codes of the languages of the texts; English must be among them.
        english_share: share of the texts that are English; the others have equal parts of the rest.
        alias_share: share of the English texts that are an alias, where there is one.
        skin_tone_weight: how often a skin-tone variant is drawn, relative to any other emoji.
        ground: grey level behind a picture, 0 to 255; 127 is also the ground of rendered text.
        augmentation: from 0, every picture plain, to 1, scaled down by up to a quarter, turned by up to 8
            degrees, and on a ground that runs between two colours of any kind.

    Raises:
        UserError: an unknown language, or a share that is none.
    """

    languages: tuple[str, ...] = ("en", "de", "es", "fr", "zh")
    english_share: float = 0.4
    alias_share: float = 0.2
    skin_tone_weight: float = 0.25
    ground: int = 127
    augmentation: float = 0.25

    def __post_init__(self) -> None:
        if unknown := set(self.languages) - set(LANGUAGES):
            raise UserError(f"languages must be among {' '.join(LANGUAGES)}; got {' '.join(sorted(unknown))}")
        if "en" not in self.languages or len(set(self.languages)) != len(self.languages):
            raise UserError(f"languages must differ and have en among them, got {' '.join(self.languages)}")
        for name in ("english_share", "alias_share", "skin_tone_weight", "augmentation"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if not 0 <= self.ground <= 255:
            raise UserError(f"ground must be between 0 and 255, got {self.ground}")


@dataclass(frozen=True)
class Sample:
    """B pairs before they are drawn: (B,) concepts, (B, 5) random numbers of `draw`, and texts."""

    chosen: np.ndarray
    placements: np.ndarray
    texts: list[str]


class EmojiDataset:
    """Batches of pictures and rendered names; a batch is a function of the seed and its number alone.

    Args:
        config: the texts and how often each is drawn.
        renderer: draws the texts; its size S is the pictures' too, in px.
        seed: of the sampling and the augmentation.
        font_path: where NotoColorEmoji.ttf is, if not in a font folder of the system.
    """

    def __init__(
        self,
        config: EmojiConfig,
        renderer: UnifontRenderer,
        *,
        seed: int = 0,
        font_path: str | Path | None = None,
    ) -> None:
        self.config = config
        self.renderer = renderer
        self.seed = seed
        self.skia = import_skia()
        self.image_size = renderer.size
        self.concepts, pictures = load_concepts(config.languages, EmojiFont(font_path), self.image_size)
        rgba, premultiplied = self.skia.kRGBA_8888_ColorType, self.skia.kPremul_AlphaType
        self.images = [self.skia.Image.fromarray(picture, rgba, premultiplied) for picture in pictures]
        self.grounds = color_gradients(
            256, self.image_size, config.ground, config.augmentation, np.random.default_rng(seed)
        )
        self.held_out = is_held_out(self.concepts)
        self.weights = np.array([config.skin_tone_weight if c.skin_tones else 1.0 for c in self.concepts])
        others = len(config.languages) - 1
        english = config.english_share if others else 1.0
        self.language_shares = [
            english if language == "en" else (1 - english) / others for language in config.languages
        ]

    def batch(self, number: int, size: int, part: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Training batch `number`: `size` different concepts, each with one of its texts.

        Args:
            number: of the batch, from 0.
            size: B, pairs in the whole batch; at most as many as there are trained concepts.
            part: the rows to return, for one of several processes.

        Returns:
            (B, S, S, 3) uint8 pictures and (B, S, S) uint8 rendered texts.
        """
        [batch] = self.batches([number], size, part, lambda texts: map(self.renderer, texts))
        return batch

    def batches(
        self,
        numbers: Iterable[int],
        size: int,
        part: slice,
        render_all: Callable[[Iterable[list[str]]], Iterator[np.ndarray]],
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Training batches in a row, as of `batch`.

        Args:
            numbers, size, part: as of `batch`.
            render_all: turns batches of strings into rendered ones, such as a RenderPool's `map`, which works
                ahead while pictures are drawn here.
        """
        samples, ahead = itertools.tee(self.sample(number, size, part) for number in numbers)
        rendered = render_all(sample.texts for sample in ahead)
        for sample, texts in zip(samples, rendered, strict=True):
            yield self.draw(sample.chosen, sample.placements), texts

    def sample(self, number: int, size: int, part: slice = slice(None)) -> Sample:
        """Which concepts, placed how, and with which texts, are `part` of batch `number`."""
        rng = np.random.default_rng((self.seed, number))
        # Weighted sampling without replacement: the first arrivals among exponential clocks.
        arrivals = rng.exponential(size=len(self.weights)) / np.maximum(self.weights, 1e-30)
        arrivals[self.held_out] = np.inf  # never, whatever the weights
        chosen = np.argpartition(arrivals, size)[:size]
        languages = rng.choice(self.config.languages, size, p=self.language_shares)
        alias_draws = rng.random((size, 2))
        placements = rng.random((size, 5))
        texts = [
            self.text(self.concepts[index], language, *draws)
            for index, language, draws in zip(chosen[part], languages[part], alias_draws[part], strict=True)
        ]
        return Sample(chosen[part], placements[part], texts)

    def text(self, concept: Concept, language: str, use_alias: float, which: float) -> str:
        """A name, or an English alias; `use_alias` and `which` are in [0, 1)."""
        if language == "en" and use_alias < self.config.alias_share and concept.aliases:
            return concept.aliases[int(which * len(concept.aliases))]
        return concept.names[language]

    def draw(self, indices: Sequence[int] | np.ndarray, placements: np.ndarray | None = None) -> np.ndarray:
        """(B, S, S, 3) uint8 pictures: on a plain ground, or moved, scaled, turned and on a coloured one.

        Args:
            indices: (B,) into `concepts`.
            placements: (B, 5) in [0, 1), the random numbers of the augmentation.
        """
        skia = self.skia
        S = self.image_size
        if placements is None:
            out = np.full((len(indices), S, S, 4), 255, np.uint8)
            out[..., :3] = self.config.ground
        else:
            out = self.grounds[(placements[:, 0] * len(self.grounds)).astype(int)]
        sampling = skia.SamplingOptions(skia.FilterMode.kLinear, skia.MipmapMode.kLinear)
        for i, index in enumerate(indices):
            canvas = skia.Canvas(out[i], skia.kRGBA_8888_ColorType, skia.kPremul_AlphaType)
            if placements is not None:
                shrink, angle, x, y = placements[i, 1:]
                scale = 1 - 0.25 * self.config.augmentation * shrink
                canvas.translate(S * (1 - scale) * x, S * (1 - scale) * y)
                canvas.scale(scale, scale)
                canvas.rotate(8 * self.config.augmentation * (2 * angle - 1), S / 2, S / 2)
            canvas.drawImage(self.images[index], 0, 0, sampling)
        return out[..., :3]


def color_gradients(
    count: int, size: int, ground: int, strength: float, rng: np.random.Generator
) -> np.ndarray:
    """(count, size, size, 4) uint8 opaque RGBA, each from one random colour, top left, to another.

    `strength` 0 leaves the grey `ground`, 1 takes any colours.
    """
    ramp = np.add.outer(np.arange(size), np.arange(size))[..., None] / (2 * size - 2)
    start, end = ground + strength * (rng.uniform(0, 255, (2, count, 1, 1, 3)) - ground)
    out = np.full((count, size, size, 4), 255, np.uint8)
    out[..., :3] = start + (end - start) * ramp
    return out
