"""Texts of pictures as they are written down: a line each, JSON, and what describes nothing."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["Captions", "in_json", "in_lines", "of_name", "reason_against", "texts_of"]

Captions = list[tuple[str, str]]  # texts and their languages, "" where it is not known

FIELDS = ("captions", "caption", "texts", "text", "title")  # of JSON
MAX_CHARS = 100_000  # of a text: more is not a caption
FILE_NAME = re.compile(
    r"[\w-]*\.(jpe?g|png|webp|gif|bmp|tiff?)|(img|dsc|dscn|dcim|pxl)[_-]?\d+", re.IGNORECASE
)


def reason_against(text: str, min_chars: int) -> str:
    """Why a text describes nothing, "" if it may describe something."""
    if len(text) < min_chars and sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text) < min_chars:
        return "too short"
    if len(text) > MAX_CHARS:
        return "too long"
    if not any(character.isalpha() for character in text):
        return "no letters"
    return "the name of a file" if FILE_NAME.fullmatch(text) else ""


def in_lines(content: bytes) -> Captions:
    """The texts of a text file in UTF-8, one a line.

    Raises:
        ValueError: it is not UTF-8.
    """
    return [(line, "") for line in decoded(content).splitlines() if line.strip()]


def in_json(content: bytes) -> Captions:
    """The texts of a JSON object, in its field caption, captions, text, texts or title.

    Raises:
        ValueError: it is not JSON in UTF-8, or what the field holds is no text.
    """
    try:
        found = json.loads(decoded(content))
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("JSON that is not an object")
    field = next((field for field in FIELDS if found.get(field)), None)
    return [] if field is None else list(texts_of(found[field]))


def texts_of(value: Any, language: str = "") -> Iterator[tuple[str, str]]:
    """The texts of a value: a string, a list of strings, or an object with these by language.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, str):
        yield value, language
    elif isinstance(value, Mapping) and not language:
        for code, values in value.items():
            yield from texts_of(values, str(code))
    elif isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        yield from ((one, language) for one in value)
    elif value is not None:
        raise ValueError(f"a text must be a string, strings, or these by language; got {str(value)[:80]!r}")


def of_name(name: str) -> str:
    """The words of the name of a file or folder: `golden_retriever` -> `golden retriever`."""
    return " ".join(re.split(r"[\s_-]+", name)).strip()


def decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"text that is not UTF-8, at byte {error.start}") from error
