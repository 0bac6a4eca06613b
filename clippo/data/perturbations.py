"""Perturbations of texts: what people, keyboards and spammers do to letters, from a random generator.

Each changes a share of the letters that it can change. A letter is a character of Unicode's category L with
the combining marks after it; a word is a run of letters. All else stays as it is: digits, punctuation,
spaces, emoji, joiners, and surrogates.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from clippo.errors import UserError
from clippo.renderer.code_points import scripts

__all__ = ["LOOK_ALIKES", "PERTURBATIONS", "Perturbation", "Perturbed"]

MIN_TYPO_LETTERS = 4  # of a word; in a shorter one a slip leaves little to recognise

# Letters that look the same in most fonts: Latin, Cyrillic, Greek. Each case has rows of its own, because
# letters of two scripts often look alike in one case only, such as B and Β, whose lower case is b and β.
LOOK_ALIKES = (
    "aа", "cс", "eе", "hһ", "iі", "jј", "lӏ", "oоο", "pр", "qԛ", "sѕ", "vν", "wԝ", "xх", "yу", "dԁ",
    "AАΑ", "BВΒ", "CС", "EЕΕ", "HНΗ", "IІΙ", "JЈ", "KКΚ", "MМΜ", "NΝ", "OОΟ", "PРΡ", "SЅ", "TТΤ", "XХΧ",
    "YΥ", "ZΖ", "QԚ", "WԜ", "ГΓ", "ПΠ", "ФΦ",
)  # fmt: skip
LEET = {"o": "0", "l": "1", "i": "1", "e": "3", "a": "4", "s": "5", "t": "7"}
FULL_WIDTH = ord("Ａ") - ord("A")

# Rows of keys, each half a key to the right of the one above.
KEYBOARDS = (("qwertyuiop", "asdfghjkl", "zxcvbnm"), ("йцукенгшщзхъ", "фывапролджэ", "ячсмитьбю"))

# Scripts that are often written without their marks. In others, such as Devanagari, marks are vowels, or make
# another letter, as in Japanese.
OPTIONAL_MARKS = ("Latn", "Grek", "Cyrl", "Arab", "Hebr")


class Perturbed(NamedTuple):
    """A text after a perturbation.

    Attributes:
        text: the string.
        num_changed: letters of the given text that are another, gone, doubled, or in another place.
        num_letters: letters of the given text.
    """

    text: str
    num_changed: int
    num_letters: int


class Word(NamedTuple):
    """The letters of a word, and the place of one of them."""

    letters: Sequence[str]
    place: int

    @property
    def letter(self) -> str:
        return self.letters[self.place]

    @property
    def is_long(self) -> bool:
        return len(self.letters) >= MIN_TYPO_LETTERS


# A replacement: the new string, and how many letters it replaces, one or two; None where the perturbation
# changes nothing. Where there is a choice, the generator decides.
Change = tuple[str, int] | None
Rule = Callable[[Word, np.random.Generator], Change]


def swap(word: Word, rng: np.random.Generator) -> Change:
    """The letter and the next one change places."""
    pair = word.letters[word.place : word.place + 2]
    return (pair[1] + pair[0], 2) if word.is_long and len({*pair}) == 2 else None


def drop(word: Word, rng: np.random.Generator) -> Change:
    """The letter is left out."""
    return ("", 1) if word.is_long else None


def double(word: Word, rng: np.random.Generator) -> Change:
    """The letter comes twice."""
    return (2 * word.letter, 1) if word.is_long else None


def neighbouring_key(word: Word, rng: np.random.Generator) -> Change:
    """A letter whose key touches the right one, on a QWERTY or a Russian keyboard, in the same case."""
    near = NEIGHBOURS.get(word.letter.lower(), "")
    if not (word.is_long and near):
        return None
    key = near[rng.integers(len(near))]
    return key if word.letter.islower() else key.upper(), 1


def typo(word: Word, rng: np.random.Generator) -> Change:
    """One of the slips above, each as often as the others that are possible."""
    order = rng.permutation(len(TYPOS))
    return next((change for kind in order.tolist() if (change := TYPOS[kind](word, rng))), None)


def upper_case(word: Word, rng: np.random.Generator) -> Change:
    """The letter in upper case."""
    return replaced(word.letter, unicodedata.normalize("NFC", word.letter).upper())


def no_diacritics(word: Word, rng: np.random.Generator) -> Change:
    """The letter without its combining marks, in scripts that are often written so."""
    names, script_of = scripts()
    decomposed = unicodedata.normalize("NFD", word.letter)
    if names[script_of[ord(decomposed[0])]] not in OPTIONAL_MARKS:
        return None
    bare = "".join(char for char in decomposed if unicodedata.category(char) != "Mn")
    return (bare, 1) if bare != decomposed else None


def look_alike(word: Word, rng: np.random.Generator) -> Change:
    """A letter of another script that looks the same."""
    others = OTHERS.get(word.letter[0], "")
    return (others[rng.integers(len(others))] + word.letter[1:], 1) if others else None


def leet(word: Word, rng: np.random.Generator) -> Change:
    """A digit that resembles the letter."""
    digit = LEET.get(word.letter.lower())
    return (digit, 1) if digit else None


def full_width(word: Word, rng: np.random.Generator) -> Change:
    """The full-width form of a letter of ASCII, as Chinese and Japanese keyboards write it."""
    return (chr(ord(word.letter) + FULL_WIDTH), 1) if word.letter.isascii() else None


def replaced(letter: str, other: str) -> Change:
    return (other, 1) if other not in (letter, unicodedata.normalize("NFC", letter)) else None


def neighbours() -> dict[str, str]:
    """The keys that touch each key."""
    found: dict[str, str] = {}
    for rows in KEYBOARDS:
        keys = {(2 * place + row, row): key for row, own in enumerate(rows) for place, key in enumerate(own)}
        for (x, y), key in keys.items():
            around = ((x - 2, y), (x + 2, y), (x - 1, y - 1), (x + 1, y - 1), (x - 1, y + 1), (x + 1, y + 1))
            found[key] = "".join(keys[place] for place in around if place in keys)
    return found


NEIGHBOURS = neighbours()
OTHERS = {char: row.replace(char, "") for row in LOOK_ALIKES for char in row}
TYPOS = (swap, drop, double, neighbouring_key)
PERTURBATIONS: dict[str, Rule] = {
    "typos": typo,
    "swap": swap,
    "drop": drop,
    "double": double,
    "neighbouring_key": neighbouring_key,
    "upper_case": upper_case,
    "no_diacritics": no_diacritics,
    "look_alikes": look_alike,
    "leet": leet,
    "full_width": full_width,
}


@dataclass(frozen=True)
class Perturbation:
    """A change of the letters of a text.

    - "swap", "drop", "double", "neighbouring_key": slips of the fingers, in words of at least four letters;
      "typos" is one of the four at random.
    - "upper_case", and "no_diacritics" in Latin, Greek, Cyrillic, Arabic and Hebrew.
    - "look_alikes": letters of Latin, Cyrillic and Greek that look the same, each as one of another script;
      "leet": digits, such as 0 for o; "full_width": the forms of Latin letters that are as wide as a Chinese
      character.

    Attributes:
        name: in `PERTURBATIONS`.
        rate: share of the letters that can be changed that are, from 0 to 1. At 1 all are, but for the second
            of two that have changed places.

    Raises:
        UserError: another name, or a rate out of range.
    """

    name: str
    rate: float

    def __post_init__(self) -> None:
        if self.name not in PERTURBATIONS:
            raise UserError(f"a perturbation must be one of {', '.join(PERTURBATIONS)}, got {self.name!r}")
        if not 0 <= self.rate <= 1:
            raise UserError(f"the rate of {self.name} must be from 0 to 1, got {self.rate}")

    @classmethod
    def of(cls, specification: str) -> Perturbation:
        """Read "NAME=RATE", such as "typos=0.1".

        Raises:
            UserError: something else.
        """
        name, _, rate = specification.partition("=")
        try:
            number = float(rate)
        except ValueError as error:
            message = f"a perturbation must be NAME=RATE, such as typos=0.1, got {specification!r}"
            raise UserError(message) from error
        return cls(name, number)

    def __call__(self, text: str, rng: np.random.Generator) -> Perturbed:
        """Change a text.

        With a generator in the same state, a higher rate hits the letters that a lower one does, and others.
        """
        rule = PERTURBATIONS[self.name]
        out: list[str] = []
        num_changed = num_letters = 0
        words = words_of(text)
        hits = iter(rng.random(sum(len(letters) for letters, is_word in words if is_word)).tolist())
        for letters, is_word in words:
            if not is_word:
                out += letters
                continue
            num_letters += len(letters)
            is_hit = [next(hits) < self.rate for _ in letters]
            place = 0
            while place < len(letters):
                change = rule(Word(letters, place), rng) if is_hit[place] else None
                written, count = change or (letters[place], 1)
                num_changed += count if change else 0
                out.append(written)
                place += count
        return Perturbed("".join(out), num_changed, num_letters)


def words_of(text: str) -> list[tuple[list[str], bool]]:
    """Split a text into runs of letters and runs of other characters, each with the marks after it."""
    runs: list[tuple[list[str], bool]] = []
    for char in text:
        kind = unicodedata.category(char)[0]
        if kind == "M" and runs:
            runs[-1][0][-1] += char
        elif runs and runs[-1][1] == (kind == "L"):
            runs[-1][0].append(char)
        else:
            runs.append(([char], kind == "L"))
    return runs
