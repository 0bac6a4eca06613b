"""Choice of the examples, and of the text of each, that are measured."""

from __future__ import annotations

from collections.abc import Sequence

from clippo.data.base import Example, Text
from clippo.seeds import generator

__all__ = ["main_text", "sample"]


def sample(rows: Sequence[int], most: int) -> list[int]:
    """Draw numbers of examples at random, at most so many: in another order, but the same ones each time."""
    order = generator(0, "sample").permutation(len(rows))[:most]
    return [rows[index] for index in order.tolist()]


def main_text(example: Example) -> Text:
    """The first English text of an example, or its first if there is none."""
    return next((text for text in example.texts if text.language == "en"), example.texts[0])
