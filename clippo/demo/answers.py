"""The answers of a model and an index to a text, or to a picture, as JSON values."""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clippo.data.decode import decode
from clippo.index import PictureIndex
from clippo.model import Clippo, RenderedText

__all__ = ["MAX_POINTS", "Answers"]

MAX_NAMES = 5_000  # of a language that are compared with a picture; a small model embeds them in seconds
MAX_POINTS = 1_000  # of either modality on the map
WORDS = 5  # of each language for a picture
COMPARED_HITS = 4  # whose names tell the language of a text; in 229 languages this takes 5 ms
LIKE = 0.5  # Dice's coefficient of a text with a name that it is like
SCRIPT_SAMPLE = 100  # names that tell the scripts of a language


class Answers:
    """Answers of a model and an index. Any thread may call the methods, but one at a time runs the model.

    Args:
        model: what the index was made with.
        index: pictures with their embeddings, and the names of those that have any.

    Raises:
        UserError: the index was made with another model.

    Attributes:
        names: by language, the text of each picture that has one in it, by the picture's id. Texts of
            an unknown language have the language "und".
        files: the name of each picture's file, and the beginning of its SHA-256, by its id. Reading an entry
            of the index takes milliseconds where it has names in 200 languages.
        scripts: of the names in each language, as of `scripts_of`.
    """

    def __init__(self, model: Clippo, index: PictureIndex) -> None:
        index.check_model(model)
        self.model = model
        self.index = index
        self.transform = index.about.transform.build(model.config.image_size)
        self.names: dict[str, dict[int, str]] = {}
        self.files: dict[int, tuple[str, str]] = {}
        for id in index.ids.tolist():
            entry = index.entry(id)
            self.files[id] = entry.key.rpartition("/")[2], entry.sha256[:16]
            for text in entry.texts:
                self.names.setdefault(text.language or "und", {}).setdefault(id, text.text)
        self.scripts = {
            language: scripts_of("".join(spread([*names.values()], SCRIPT_SAMPLE)))
            for language, names in self.names.items()
        }

    def about(self) -> dict[str, Any]:
        """The model, the number of pictures, and how many of them have a name in each language."""
        counts = {language: len(names) for language, names in sorted(self.names.items())}
        name = self.index.about.model.rstrip("/").rpartition("/")[2]  # the page need not know the folders
        return {"model": name, "pictures": len(self.index), "languages": counts}

    def find_by_text(
        self, text: str, top: int, language: str | None, preferred: Sequence[str]
    ) -> dict[str, Any]:
        """The pictures most similar to a text, and the text as the model reads it.

        Args:
            text: what to look for.
            top: how many pictures to find.
            language: the language of the names; None for that of the text, as far as names tell it.
            preferred: languages of the reader, best first, which decide where several are as likely.
        """
        text_input = self.model.text_input
        cut = text_input.num_cut
        tokens = torch.from_numpy(text_input.tokenizer([text]))
        is_cut = text_input.num_cut > cut
        [hits] = self.index.search(self.model.encode_text(tokens), top)
        ids = [hit.id for hit in hits]
        language = language or self.language_of(text, ids[:COMPARED_HITS], preferred)
        reading = None  # a model that reads bytes sees no picture
        if isinstance(text_input, RenderedText):
            mask = text_input.mask(tokens)
            reading = self.reading(tokens[0].numpy(), None if mask is None else mask[0])
        pictures = [self.shown(hit.id, language) | {"score": round(hit.score, 4)} for hit in hits]
        return {"pictures": pictures, "reading": reading, "cut": is_cut}

    def pixels(self, encoded: bytes) -> np.ndarray:
        """Decode a picture file, and turn it into what the model reads: (S, S, 3) uint8.

        Raises:
            TooLargeError, ValueError: as of `clippo.data.decode.decode`.
        """
        at_least = max(2 * self.transform.image_size, self.index.about.thumbnail_px)  # as the index does
        return self.transform(decode(encoded, at_least=at_least))

    def find_by_picture(
        self, pixels: np.ndarray, top: int, language: str | None, preferred: Sequence[str]
    ) -> tuple[dict[str, Any], Tensor]:
        """The pictures most similar to one, with the picture as the model reads it; and its embedding, (D,).

        Args:
            pixels: of the picture, from `pixels`.
            top, preferred: as of `find_by_text`.
            language: the language of the names; None for the first of the preferred ones that has any.
        """
        z = self.model.encode_image(pixels[None])
        [hits] = self.index.search(z, top)
        language = language or self.language_of("", [], preferred)
        pictures = [self.shown(hit.id, language) | {"score": round(hit.score, 4)} for hit in hits]
        return {"pictures": pictures, "reading": self.reading(pixels), "cut": False}, z[0]

    def shown(self, id: int, language: str) -> dict[str, Any]:
        """A picture, with its name in a language or else in English; if it has none, that of its file.

        The address of the thumbnail changes with the content, so that browsers may keep it.
        """
        file, sha256 = self.files[id]
        named = next((code for code in (language, "en") if id in self.names.get(code, {})), None)
        return {
            "id": id,
            "name": file if named is None else self.names[named][id],
            "language": named,
            "thumbnail": f"/thumbnail/{id}?sha256={sha256}",
        }

    def reading(self, pixels: np.ndarray, mask: Tensor | None = None) -> dict[str, Any]:
        """An image as the model reads it: its pixels in base64, and the patches that it looks at."""
        config = self.model.config
        patches = range((config.image_size // config.patch_size) ** 2)
        return {
            "size": config.image_size,
            "patch_size": config.patch_size,
            "channels": 1 if pixels.ndim == 2 else 3,
            "pixels": base64.b64encode(np.ascontiguousarray(pixels).data).decode(),
            "patches": list(patches) if mask is None else mask.nonzero()[:, 0].tolist(),
        }

    def language_of(self, text: str, ids: Sequence[int], preferred: Sequence[str]) -> str:
        """The language in which one of some pictures has the name most like a text, letter by letter.

        Where no name is much like it, as with emoji, it is the first of the preferred languages whose names
        are in the text's script, or the one with most names.
        """
        letters, scripts = letters_of(text), scripts_of(text)
        ranks = {code: -rank for rank, code in enumerate(dict.fromkeys([*preferred, "en"]))}

        def fitness(language: str) -> tuple[bool, float, int, int]:
            names, shares_script = self.names[language], scripts <= self.scripts[language]
            own = [names[id] for id in ids if id in names] if shares_script else []
            likeness = max((dice(letters, letters_of(name)) for name in own), default=0.0)
            likeness = likeness if likeness >= LIKE else 0.0
            return shares_script, likeness, ranks.get(language, -len(ranks)), len(names)

        return max(self.names, key=fitness, default="und")

    def names_of(self, language: str) -> list[str]:
        """Distinct names in a language, spread evenly over the pictures; none if it has no names."""
        return spread(list(dict.fromkeys(self.names.get(language, {}).values())), MAX_NAMES)

    def words(self, embedding: Tensor, names: Sequence[str], embeddings: Tensor) -> list[dict[str, Any]]:
        """The names most similar to a picture.

        Args:
            embedding: (D,), of the picture.
            names: N names of one language.
            embeddings: (N, D), of the names.
        """
        scores, found = (embeddings @ embedding).topk(min(WORDS, len(names)))
        return [
            {"text": names[i], "score": round(score, 4)}
            for i, score in zip(found.tolist(), scores.tolist(), strict=True)
        ]

    def map(self, language: str, names: Sequence[str], embeddings: Tensor) -> dict[str, Any]:
        """Pictures and names in the plane of their first two principal components.

        Args:
            language: of the names.
            names, embeddings: as of `words`.

        Returns:
            At most 1,000 pictures and as many names, each with its "x" and "y"; the share of the variance
            that the plane holds; and the gap, the distance between the means of the modalities.
        """
        rows = spread(range(len(self.index)), MAX_POINTS)
        columns = spread(range(len(names)), MAX_POINTS)
        z_pictures, z_names = self.index.embeddings[rows].float(), embeddings[columns]
        both = torch.cat([z_pictures, z_names])
        both = both - both.mean(0)
        variances, axes = torch.linalg.eigh(both.T @ both)  # ascending
        shown = [self.shown(int(self.index.ids[row]), language) for row in rows]
        shown += [{"name": names[column], "language": language} for column in columns]
        plane = (both @ axes[:, -2:].flip(1)).tolist()
        points = [
            {"x": round(x, 4), "y": round(y, 4), **mark} for (x, y), mark in zip(plane, shown, strict=True)
        ]
        gap = torch.linalg.vector_norm(z_pictures.mean(0) - z_names.mean(0)) if rows and columns else 0.0
        return {
            "pictures": points[: len(rows)],
            "names": points[len(rows) :],
            "explained": round(float(variances[-2:].sum() / variances.sum().clamp(min=1e-12)), 4),
            "gap": round(float(gap), 4),
        }


def scripts_of(text: str) -> set[str]:
    """The scripts of the letters of a text, by the first words of their Unicode names, such as "LATIN"."""
    return {unicodedata.name(letter, "").partition(" ")[0] for letter in text if letter.isalpha()}


def letters_of(text: str) -> set[str]:
    """The letters of a text, and the pairs of neighbours, with the ends of words as blanks."""
    text = f" {' '.join(text.casefold().split())} "
    return {*text, *(text[i : i + 2] for i in range(len(text) - 1))} - {" "}


def dice(a: set[str], b: set[str]) -> float:
    """Dice's coefficient: twice the number of common elements, over the number of all."""
    return 2 * len(a & b) / (len(a) + len(b)) if a and b else 0.0


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most so many items, spread evenly over a sequence."""
    return [items[i * len(items) // count] for i in range(count)] if len(items) > count else list(items)
