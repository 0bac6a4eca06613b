"""Line breaking of plain text, without a full implementation of the Unicode algorithms.

Most captions are letters, digits and common punctuation with single spaces between the words. For these the
rules of UAX #14 for line breaking reduce to a table over pairs of neighbours. This module has that table,
for a few kinds of characters and only where the rules are unambiguous; ICU breaks all other text. The tests
compare it with the breaks of ICU.
"""

import unicodedata
from enum import IntEnum
from functools import cache

import numpy as np

from clippo.renderer.code_points import CODE_POINTS

__all__ = ["Break", "Kind", "breaks", "kinds"]


class Kind(IntEnum):
    """Kind of a character for line breaking; the names in parentheses are classes of UAX #14."""

    OTHER = 0
    SPACE = 1  # U+0020
    LETTER = 2  # (AL) of a script that is written from left to right, letter by letter
    DIGIT = 3  # (NU) 0 to 9
    IDEOGRAPH = 4  # (ID, H2, H3)
    STOP = 5  # (IS) , . : ;
    EXCLAMATION = 6  # (EX) ! ?
    PARENTHESIS = 7  # (CP) ) ]
    WIDE_STOP = 8  # (CL, EX, NS) the same of East Asian scripts, as wide as an ideograph
    QUOTE = 9  # (QU) " '
    OPENING = 10  # (OP) ( [
    HYPHEN = 11  # (HY) -
    MARK = 12  # (CM) a combining mark of a script of LETTER or RTL
    RTL = 13  # (AL, HL) a letter of a script that is written from right to left
    DANDA = 14  # (BA) the full stop of Indic scripts
    CURLY_OPENING = 15  # (QU) quotes that are known to open
    CURLY_CLOSING = 16  # (QU) quotes that are known to close, and apostrophes
    RTL_ENDING = 17  # (IS, EX) ، ؛ ؟
    EMOJI = 18  # (ID) that is as wide as an ideograph
    PERSON = 19  # (EB) the same, which may have a skin tone
    TONE = 20  # (EM) a skin tone
    SELECTOR = 21  # (CM) U+FE0F
    JOINER = 22  # (ZWJ) U+200D
    SIGN = 23  # ♀ ❤ ☀ and the like, of which only what holds for all classes is known
    START = 24  # before the first character


class Break(IntEnum):
    """Whether a line may be broken between two characters."""

    FORBIDDEN = 0
    ALLOWED = 1
    UNKNOWN = 2  # a case for ICU


# East Asian wide emoji that take a skin tone (Emoji_Modifier_Base of Unicode).
PEOPLE = (
    *((0x1F385, 0x1F385), (0x1F3C2, 0x1F3C4), (0x1F3C7, 0x1F3C7), (0x1F3CA, 0x1F3CA), (0x1F442, 0x1F443)),
    *((0x1F446, 0x1F450), (0x1F466, 0x1F478), (0x1F47C, 0x1F47C), (0x1F481, 0x1F483), (0x1F485, 0x1F487)),
    *((0x1F48F, 0x1F48F), (0x1F491, 0x1F491), (0x1F4AA, 0x1F4AA), (0x1F57A, 0x1F57A), (0x1F595, 0x1F596)),
    *((0x1F645, 0x1F647), (0x1F64B, 0x1F64F), (0x1F6A3, 0x1F6A3), (0x1F6B4, 0x1F6B6), (0x1F6C0, 0x1F6C0)),
    *((0x1F6CC, 0x1F6CC), (0x1F90C, 0x1F90C), (0x1F90F, 0x1F90F), (0x1F918, 0x1F91F), (0x1F926, 0x1F926)),
    *((0x1F930, 0x1F939), (0x1F93C, 0x1F93E), (0x1F977, 0x1F977), (0x1F9B5, 0x1F9B6), (0x1F9B8, 0x1F9B9)),
    *((0x1F9BB, 0x1F9BB), (0x1F9CD, 0x1F9CF), (0x1F9D1, 0x1F9DD), (0x1FAC3, 0x1FAC5), (0x1FAF0, 0x1FAF6)),
)


@cache
def kinds() -> np.ndarray:
    """(0x110000,) uint8, the `Kind` of every code point."""
    table = np.full(CODE_POINTS, Kind.OTHER, np.uint8)
    for kind, characters in {
        Kind.SPACE: " ",
        Kind.DIGIT: "0123456789",
        Kind.STOP: ",.:;",
        Kind.EXCLAMATION: "!?",
        Kind.PARENTHESIS: ")]",
        Kind.WIDE_STOP: "，。、！？：；」』）】》",
        Kind.QUOTE: "\"'",
        Kind.OPENING: "([",
        Kind.HYPHEN: "-",
        Kind.DANDA: "।॥",
        Kind.RTL_ENDING: "،؛؟",
        Kind.CURLY_OPENING: "“‘",
        Kind.CURLY_CLOSING: "”’",
        Kind.TONE: "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff",
        Kind.SELECTOR: "\ufe0f",
        Kind.JOINER: "\u200d",
    }.items():
        table[[ord(c) for c in characters]] = kind
    table[0x3400:0x4DC0] = table[0x4E00:0x9FFD] = Kind.IDEOGRAPH
    table[0xAC00:0xD7A4] = Kind.IDEOGRAPH  # Hangul syllables
    # Scripts whose letters do not join and whose lines break at spaces. Not among them: Thai, Lao, Khmer,
    # Burmese (broken with dictionaries), Mongolian (joins), kana (small ones stick to their neighbours).
    for first, last in (
        (0x41, 0x24F),  # Latin
        (0x250, 0x2AF),  # phonetic
        (0x370, 0x52F),  # Greek, Cyrillic
        (0x531, 0x587),  # Armenian
        (0x900, 0xDFF),  # Devanagari to Sinhala
        (0x10A0, 0x10FF),  # Georgian
        (0x1200, 0x167F),  # Ethiopic, Cherokee, Canadian syllabics
        (0x1E00, 0x1FFF),  # Latin, Greek
    ):
        for code_point in range(first, last + 1):
            category = unicodedata.category(chr(code_point))
            if category in ("Lu", "Ll", "Lo") and unicodedata.bidirectional(chr(code_point)) == "L":
                table[code_point] = Kind.LETTER
            elif category in ("Mn", "Mc"):
                table[code_point] = Kind.MARK
    for code_point in range(0x1F300, 0x1FB00):
        if table[code_point] == Kind.OTHER and unicodedata.east_asian_width(chr(code_point)) == "W":
            table[code_point] = Kind.EMOJI
    for code_point in (*range(0x2190, 0x2BFF), *range(0x1F300, 0x1FB00)):
        is_symbol = unicodedata.category(chr(code_point)) == "So"
        if table[code_point] == Kind.OTHER and is_symbol:
            table[code_point] = Kind.SIGN
    for first, last in PEOPLE:
        table[first : last + 1] = Kind.PERSON
    table[0x300:0x34F] = Kind.MARK
    for first, last in ((0x590, 0x5FF), (0x610, 0x6FF), (0x750, 0x77F), (0x8A0, 0x8FF)):  # Hebrew, Arabic
        for code_point in range(first, last + 1):
            if unicodedata.category(chr(code_point)) == "Lo" or code_point == 0x640:
                table[code_point] = Kind.RTL
            elif unicodedata.category(chr(code_point)) == "Mn":
                table[code_point] = Kind.MARK
    return table


ENDINGS = (Kind.STOP, Kind.EXCLAMATION, Kind.PARENTHESIS)
LATIN = (Kind.LETTER, Kind.DIGIT)
WORD = (Kind.LETTER, Kind.DIGIT, Kind.MARK)
KINDS = len(Kind)


@cache
def breaks() -> np.ndarray:
    """(2, K, K) uint8: the `Break` between two kinds of characters, [0] side by side, [1] with one space.

    The break of [1] is after the space.
    """
    table = np.full((2, KINDS, KINDS), Break.UNKNOWN, np.uint8)

    def rule(distance: int, before: tuple[Kind, ...], after: tuple[Kind, ...], what: Break) -> None:
        table[distance][np.ix_(before, after)] = what

    K, no, yes = Kind, Break.FORBIDDEN, Break.ALLOWED
    beginnings = (*LATIN, K.IDEOGRAPH, K.QUOTE, K.OPENING, K.RTL, K.CURLY_OPENING)
    rule(0, (K.START,), beginnings, no)
    rule(0, WORD, WORD, no)  # LB9, LB23, LB25, LB28
    rule(0, (K.RTL, K.MARK), (K.RTL, K.MARK), no)
    rule(0, (K.IDEOGRAPH,), (K.IDEOGRAPH, *LATIN, K.OPENING), yes)  # LB31
    rule(0, WORD, (K.IDEOGRAPH,), yes)
    rule(0, (*WORD, K.RTL, K.IDEOGRAPH, K.QUOTE, *ENDINGS), ENDINGS, no)  # LB13
    rule(0, (*WORD, K.IDEOGRAPH, K.WIDE_STOP), (K.WIDE_STOP,), no)  # LB13, LB21
    rule(0, (K.WIDE_STOP,), (K.IDEOGRAPH, *LATIN), yes)
    rule(0, (K.STOP,), LATIN, no)  # LB29, LB25
    rule(0, (K.PARENTHESIS,), LATIN, no)  # LB30
    rule(0, (K.EXCLAMATION,), (*LATIN, K.IDEOGRAPH), yes)
    rule(0, (*WORD, K.IDEOGRAPH, *ENDINGS, K.OPENING), (K.QUOTE,), no)  # LB19
    rule(0, (K.QUOTE,), (*LATIN, K.IDEOGRAPH), no)
    rule(0, (K.OPENING,), (*LATIN, K.IDEOGRAPH), no)  # LB14
    rule(0, WORD, (K.OPENING,), no)  # LB30
    rule(0, WORD, (K.HYPHEN,), no)  # LB21
    rule(0, (K.HYPHEN,), (K.LETTER,), yes)
    rule(0, (K.HYPHEN,), (K.DIGIT,), no)  # LB25
    rule(0, (K.LETTER, K.MARK), (K.DANDA,), no)
    rule(0, (K.RTL, K.MARK), (K.RTL_ENDING,), no)
    rule(0, (K.CURLY_OPENING,), LATIN, no)  # LB19
    rule(0, (*WORD, *ENDINGS), (K.CURLY_CLOSING,), no)  # LB19
    rule(0, (K.CURLY_CLOSING,), (*LATIN, *ENDINGS), no)

    pictures = (K.EMOJI, K.PERSON)
    for one in pictures:  # as ideographs
        table[0, one, :] = table[0, K.IDEOGRAPH, :]
        table[0, :, one] = table[0, :, K.IDEOGRAPH]
    rule(0, (*pictures, K.TONE), (*pictures, K.IDEOGRAPH, *LATIN), yes)
    rule(0, (K.IDEOGRAPH,), pictures, yes)
    rule(0, (K.PERSON,), (K.TONE,), no)  # LB30b
    rule(0, (*pictures, K.SIGN), (K.SELECTOR,), no)  # LB9
    rule(0, (*pictures, K.SIGN, K.TONE, K.SELECTOR), (K.JOINER,), no)  # LB9
    rule(0, (K.JOINER,), (*pictures, K.SIGN), no)  # LB8a
    rule(0, (*pictures, K.SIGN, K.TONE, K.SELECTOR), ENDINGS, no)  # LB13
    rule(0, (K.START,), (K.SIGN,), no)

    quotes = (K.QUOTE, K.CURLY_CLOSING)
    closed: tuple[Kind, ...] = (*WORD, K.IDEOGRAPH, *ENDINGS, K.WIDE_STOP, K.RTL, K.RTL_ENDING, K.DANDA)
    closed = (*closed, *quotes, *pictures, K.SIGN, K.TONE, K.SELECTOR)
    rule(0, closed, (K.SPACE,), no)  # LB7
    rule(1, closed, (*beginnings, *pictures, K.SIGN), yes)  # LB18
    rule(1, quotes, (K.OPENING, K.QUOTE, K.CURLY_OPENING), Break.UNKNOWN)  # LB15
    return table
