"""Captions in six kinds of text, made of the words of the Unicode CLDR: as long as real ones.

No collection of captions in many languages may be shipped with this project. CLDR names every emoji in each
of its languages, with keywords; here their words are drawn with Zipf's frequencies. Debian has the files in
the package unicode-cldr-core.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

__all__ = ["CLDR", "KINDS", "captions"]

CLDR = Path("/usr/share/unicode/cldr/common")
KINDS = ("English", "Chinese", "Arabic", "Hindi", "Thai", "emoji")

# Code of the language, a letter of its script, what joins two words, and the mean number of code points.
LANGUAGES = {
    "English": ("en", "[A-Za-z]", " ", 60),
    "Chinese": ("zh", "[\u4e00-\u9fff]", "", 24),
    "Arabic": ("ar", "[\u0620-\u064a]", " ", 55),
    "Hindi": ("hi", "[\u0900-\u097f]", " ", 50),
    "Thai": ("th", "[\u0e00-\u0e7f]", "", 55),
}
FUNCTION_WORDS = "a the of in on with and at to is for two man woman standing photo".split()
EDGES = '()[]{}<>،,.:;!?"“”«»/\u200e\u200f\u202b\u202c'


def captions(kind: str, count: int, seed: int = 0) -> list[str]:
    """`count` different captions of a kind, a function of the arguments alone.

    Those with emoji are English, with three emoji at the end.

    Raises:
        FileNotFoundError: CLDR's files are not there; the message names the package.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    code, letter, joint, mean_length = LANGUAGES.get(kind, LANGUAGES["English"])
    names = cldr_annotations(code)
    words = dict.fromkeys(w.strip(EDGES) for name in names.values() for w in name.split())
    vocabulary = np.array([w for w in words if re.search(letter, w)])
    rank = rng.permutation(len(vocabulary)) + 3
    weights = (1 / rank) / (1 / rank).sum()
    emoji = np.array([e for e in names if ord(e[0]) >= 0x1F300])
    if kind == "emoji":
        mean_length = 40

    found: dict[str, None] = {}
    while len(found) < count:
        length = max(8, rng.normal(mean_length, mean_length / 4))
        drawn = rng.choice(vocabulary, 40, p=weights).tolist()
        if code == "en":
            drawn = [rng.choice(FUNCTION_WORDS) if rng.random() < 0.4 else word for word in drawn]
        ends = np.cumsum([len(word) + len(joint) for word in drawn])
        text = joint.join(drawn[: int(np.searchsorted(ends, length)) + 1])
        if kind == "emoji":
            text = " ".join([text, *rng.choice(emoji, 3, replace=False)])
        found[text] = None
    return list(found)


def cldr_annotations(code: str) -> dict[str, str]:
    """Emoji -> its name and keywords in a language."""
    found: dict[str, str] = {}
    for folder in ("annotations", "annotationsDerived"):
        path = CLDR / folder / f"{code}.xml"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: apt-get install unicode-cldr-core")
        for element in ElementTree.parse(path).getroot().iter("annotation"):  # noqa: S314 - the system's file
            text = (element.text or "").replace("|", " ")
            found[element.attrib["cp"]] = f"{found.get(element.attrib['cp'], '')} {text}"
    return found
