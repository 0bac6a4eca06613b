"""Sanitising: bound the length of strings, and remove code points that break or mislead text layout."""

import re
import unicodedata
from functools import cache

import numpy as np

from clippo.renderer.code_points import CODE_POINTS, code_points_of, scripts

__all__ = ["MAX_SCRIPT_RUNS", "needs_sanitizing", "sanitize", "sanitize_all"]

MAX_MARKS = 4  # combining marks on one base; Vietnamese needs two, pointed Hebrew and Burmese up to four
MAX_SCRIPT_RUNS = 128  # each is shaped by itself; some hundred of them take Skia milliseconds

ASSIGNED = (*range(0x20000), *range(0xE0000, 0xE0200))  # ideographs and private use fill the others

LINE_END = "\r\v\f\x85\u2028\u2029"  # and a carriage return with a line feed
CONTROLS = "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f"
BIDI_CONTROLS = "\u202a-\u202e\u2066-\u2069"
SURROGATES = "\ud800-\udfff"
SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef\u180b-\u180d\u180f"
SELECTOR_PATTERN = re.compile(f"[{SELECTORS}]")
STEPS = (
    ("line ends", re.compile(f"\r\n|[{LINE_END}]"), "\n"),
    ("tabs", re.compile("\t"), " "),
    ("controls removed", re.compile(f"[{CONTROLS}]"), ""),
    ("bidi controls removed", re.compile(f"[{BIDI_CONTROLS}]"), ""),
    ("surrogates replaced", re.compile(f"[{SURROGATES}]"), "\ufffd"),
)
ALL_BUT_MARKS = re.compile(f"[\t{LINE_END}{CONTROLS}{BIDI_CONTROLS}{SURROGATES}]")


def sanitize(text: str, max_chars: int) -> tuple[str, dict[str, int]]:
    """Clean a string, and count the changes.

    The steps are, in this order:

    - The string is cut at `max_chars` code points, or where the script changes for the 128th time, so that
      the time to lay it out is bounded.
    - Line ends of every kind become line feeds, tabs become spaces, and other control characters are removed.
    - Controls that open and close directional embeddings, overrides and isolates are removed, because they
      can make text read differently from its code points (the marks U+200E, U+200F and U+061C stay).
    - Lone surrogates become U+FFFD.
    - Variation selectors that do not follow a character of their own are removed, and so are skin tones that
      do not follow a symbol. Skia crashes on some of these.
    - At most four combining marks are kept on a base, also where format characters are between them.

    Returns:
        The clean string, and the number of changes of each kind, without zeros; "cut off" counts code points.
    """
    done = {}
    kept = min(max_chars, end_of_script_runs(code_points_of([text[:max_chars]])[0]))
    if len(text) > kept:
        done["cut off"] = len(text) - kept
        text = text[:kept]
    if ALL_BUT_MARKS.search(text) is not None:
        for name, pattern, replacement in STEPS:
            text, count = pattern.subn(replacement, text)
            if count:
                done[name] = count
    if not text.isascii():
        text = without_strays(text, done)
    return text, done


def sanitize_all(texts: list[str], max_chars: int) -> tuple[list[str], dict[int, dict[str, int]]]:
    """Clean strings; the changes, as of `sanitize`, only of those that may need it.

    A string that needs nothing is cut at `max_chars`.
    """
    kept = [text[:max_chars] for text in texts]
    cleaned: dict[int, dict[str, int]] = {}
    code_point_C, length_B = code_points_of(kept)
    suspicious_C = needs_sanitizing(code_point_C, length_B)
    if suspicious_C.any():
        for string in np.unique(np.repeat(np.arange(len(kept)), length_B)[suspicious_C]).tolist():
            kept[string], cleaned[string] = sanitize(texts[string], max_chars)
    return kept, cleaned


def needs_sanitizing(code_point_C: np.ndarray, length_B: np.ndarray) -> np.ndarray:
    """Mark code points that may need sanitising: (C,) bool; `sanitize` changes no string without any.

    All B strings are searched at once, concatenated, with `length_B` code points each, because searching them
    one by one costs as much as laying them out. A run of marks across the end of a string may be marked
    too, which only costs time.
    """
    class_C = character_classes()[code_point_C]
    suspicious_C: np.ndarray = class_C == UNSAFE
    end_B = np.cumsum(length_B)
    for string in np.flatnonzero(length_B > MAX_SCRIPT_RUNS).tolist():
        first, end = int(end_B[string] - length_B[string]), int(end_B[string])
        suspicious_C[first] |= end_of_script_runs(code_point_C[first:end]) < end - first
    first_S = (end_B - length_B)[length_B > 0]  # of the strings that are not empty
    is_tone_C = class_C == TONE
    if is_tone_C.any():
        follows_symbol_C = np.zeros(len(class_C), bool)
        follows_symbol_C[1:] = class_C[:-1] == SYMBOL
        follows_symbol_C[first_S] = False
        suspicious_C |= is_tone_C & ~follows_symbol_C
    is_selector_C = class_C == SELECTOR
    is_mark_C = (class_C == MARK) | is_selector_C
    if is_mark_C.any():
        # A selector must follow its character, which is not a space or a line feed.
        has_own_C = np.zeros(len(class_C), bool)
        has_own_C[1:] = ~is_mark_C[:-1] & (code_point_C[:-1] != ord(" ")) & (code_point_C[:-1] != ord("\n"))
        has_own_C[first_S] = False
        suspicious_C |= is_selector_C & ~has_own_C
        run_C = is_mark_C.copy()
        for distance in range(1, MAX_MARKS + 1):
            run_C[distance:] &= is_mark_C[:-distance]
        run_C[:MAX_MARKS] = False
        suspicious_C |= run_C
    return suspicious_C


UNSAFE, MARK, SELECTOR, TONE, SYMBOL = 1, 2, 3, 4, 5


@cache
def character_classes() -> np.ndarray:
    """Class of every code point: one of the above, 0 for what may stand anywhere."""
    table = np.zeros(CODE_POINTS, np.uint8)
    for category in ("M", "Cf"):
        table[[ord(c) for c in characters_in(category)]] = MARK
    table[[c for c in ASSIGNED if SELECTOR_PATTERN.match(chr(c))]] = SELECTOR
    table[[ord(c) for c in characters_in("So")]] = SYMBOL
    table[0x1F3FB:0x1F400] = TONE
    unsafe = [c for c in range(0x3000) if ALL_BUT_MARKS.match(chr(c))]
    table[unsafe] = UNSAFE
    table[0xD800:0xE000] = UNSAFE
    return table


def end_of_script_runs(code_point_C: np.ndarray) -> int:
    """Number of code points of a string up to the end of its last script run that is laid out."""
    if len(code_point_C) <= MAX_SCRIPT_RUNS:
        return len(code_point_C)
    script_names, script_of = scripts()
    script_C = script_of[code_point_C]
    own = np.flatnonzero(
        script_C != script_names.index("")
    )  # spaces and marks belong to the script before them
    starts = own[1:][np.diff(script_C[own]) != 0]
    return int(starts[MAX_SCRIPT_RUNS - 1]) if len(starts) >= MAX_SCRIPT_RUNS else len(code_point_C)


def without_strays(text: str, done: dict[str, int]) -> str:
    """Remove excess marks and misplaced selectors and skin tones, and count them in `done`."""
    kept: list[str] = []
    categories: list[str] = []  # of what is kept
    marks = 0
    for character in text:
        category = unicodedata.category(character)
        removed = ""
        if category[0] == "M":
            if SELECTOR_PATTERN.match(character) and (
                not kept or kept[-1] in " \n" or categories[-1][0] == "M" or categories[-1] == "Cf"
            ):
                removed = "variation selectors removed"
            else:
                marks += 1
                if marks > MAX_MARKS:
                    removed = "marks removed"
        elif category == "Cf":
            if marks > MAX_MARKS:
                removed = "marks removed"
        else:
            marks = 0
            if "\U0001f3fb" <= character <= "\U0001f3ff" and kept and kept[-1] != "\n":
                symbol = categories[-2] if kept[-1] == "\ufe0f" else categories[-1]
                if symbol != "So":
                    removed = "skin tones removed"
        if removed:
            done[removed] = done.get(removed, 0) + 1
        else:
            kept.append(character)
            categories.append(category)
    return "".join(kept)


@cache
def characters_in(category: str) -> str:
    """All characters whose general category begins with the given letters."""
    return "".join(chr(c) for c in ASSIGNED if unicodedata.category(chr(c)).startswith(category))
