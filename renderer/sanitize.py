"""Makes any string safe to lay out: bounded in length, and free of what breaks or misleads text layout."""

import re
import unicodedata
from functools import cache

import numpy as np

from clippo.renderer.code_points import CODE_POINTS, code_points_of, scripts

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
    """Clean a string, and count what was done to it.

    In this order: what is beyond `max_chars` code points is cut off, or where the script changes for the
    128th time, so that time is bounded; line ends of every kind become line feeds, tabs become spaces, and
    other control characters go; so do the controls that open and close directional embeddings, overrides and
    isolates, with which text can be made to read differently from what it says (the marks U+200E, U+200F and
    U+061C stay); lone surrogates become U+FFFD; variation selectors go that follow no character of their own,
    but a mark, a format character or nothing, and so do skin tones that follow no symbol (on some of these
    Skia crashes); of more than four combining marks on a base, also if format characters are between them,
    the first four stay.

    Returns:
        The clean string, and a count by what was done, without zeros; "cut off" counts code points.
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


def needs_sanitizing(code_point_C: np.ndarray, length_B: np.ndarray) -> np.ndarray:
    """(C,) bool; where none of a string's code points is True, `sanitize` does not change it.

    For B strings of `length_B` code points at once, joined: searching each of them costs as much as laying it
    out. A run of marks may be found across the end of a string, which does no harm.
    """
    class_C = character_classes()[code_point_C]
    suspicious_C: np.ndarray = class_C == UNSAFE
    end_B = np.cumsum(length_B)
    for string in np.flatnonzero(length_B > MAX_SCRIPT_RUNS).tolist():
        first, end = int(end_B[string] - length_B[string]), int(end_B[string])
        suspicious_C[first] |= end_of_script_runs(code_point_C[first:end]) < end - first
    is_selector_C = class_C == SELECTOR
    is_mark_C = (class_C == MARK) | is_selector_C
    if is_mark_C.any():
        # A selector must have its character before it; a space or a line feed is none.
        has_own_C = np.zeros(len(class_C), bool)
        has_own_C[1:] = ~is_mark_C[:-1] & (code_point_C[:-1] != ord(" ")) & (code_point_C[:-1] != ord("\n"))
        has_own_C[(end_B - length_B)[length_B > 0]] = False
        suspicious_C |= is_selector_C & ~has_own_C
        run_C = is_mark_C.copy()
        for distance in range(1, MAX_MARKS + 1):
            run_C[distance:] &= is_mark_C[:-distance]
        run_C[:MAX_MARKS] = False
        suspicious_C |= run_C
    return suspicious_C


UNSAFE, MARK, SELECTOR = 1, 2, 3


@cache
def character_classes() -> np.ndarray:
    """Over all code points: what sanitising changes, and marks or what may stand between them."""
    table = np.zeros(CODE_POINTS, np.uint8)
    for category in ("M", "Cf"):
        table[[ord(c) for c in characters_in(category)]] = MARK
    table[[c for c in ASSIGNED if SELECTOR_PATTERN.match(chr(c))]] = SELECTOR
    table[0x1F3FB:0x1F400] = UNSAFE  # a matter of what is before them
    unsafe = [c for c in range(0x3000) if ALL_BUT_MARKS.match(chr(c))]
    table[unsafe] = UNSAFE
    table[0xD800:0xE000] = UNSAFE
    return table


def end_of_script_runs(code_point_C: np.ndarray) -> int:
    """How many code points a string has up to the end of its last run that is laid out."""
    if len(code_point_C) <= MAX_SCRIPT_RUNS:
        return len(code_point_C)
    script_names, script_of = scripts()
    script_C = script_of[code_point_C]
    own = np.flatnonzero(script_C != script_names.index(""))  # spaces and marks are of the script before them
    starts = own[1:][np.diff(script_C[own]) != 0]
    return int(starts[MAX_SCRIPT_RUNS - 1]) if len(starts) >= MAX_SCRIPT_RUNS else len(code_point_C)


def without_strays(text: str, done: dict[str, int]) -> str:
    """Without excess marks, and selectors and skin tones that are out of place; counts them in `done`."""
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
    """All characters whose general category begins with this."""
    return "".join(chr(c) for c in ASSIGNED if unicodedata.category(chr(c)).startswith(category))
