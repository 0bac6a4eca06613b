"""The picture dictionary: pictures of things and their names in 168 languages.

Eight collections are made of packages of Debian and npm, each a tar in the layout of WebDataset with the
names by language. `stamps`, `drawings`, `flags` and `noto` are for training; `openmoji` and `fluent` show
what noto shows in two other styles of drawing. `emoji` and `territories` hold the pictures of noto and flags
with all that Unicode CLDR calls them, names and keywords; everything in these two has a permissive licence.
"""

from __future__ import annotations

import ast
import gettext
import io
import json
import re
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from xml.etree import ElementTree

import emoji as emoji_package
import numpy as np
from PIL import Image
from tqdm import tqdm

from clippo.data.convert import add_member, png
from clippo.data.emoji import FULLY_QUALIFIED, SKIN_TONES, EmojiFont
from clippo.data.fetch.packages import Package, described, fetched_for, members
from clippo.files import atomic_path, write_manifest
from clippo.renderer import import_skia

__all__ = ["fetch_dictionary"]

PACKAGES = {
    "stamps": Package("apt", "tuxpaint-stamps-default", "GPL-2+"),
    "drawings": Package("apt", "pysiogame", "CC-BY-SA (pictures of art4apps), GPL-3+ (names)"),
    "flags": Package("apt", "iso-flags-png-320x240", "public domain"),
    "countries": Package("apt", "iso-codes", "LGPL-2.1+"),
    "noto": Package("apt", "fonts-noto-color-emoji", "OFL-1.1"),
    "cldr": Package("apt", "unicode-cldr-core", "Unicode-DFS-2016"),
    "openmoji": Package(
        "npm", "openmoji", "CC-BY-SA-4.0", "17.0.0",
        "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
    ),
    "fluent": Package(
        "npm", "@lobehub/fluent-emoji-3d", "MIT", "1.1.0",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    ),
}  # fmt: skip
MAX_PX = 256  # longer side of a stamp, whose decoding takes most of the time; the largest had 2,348 px
DRAWN_PX = 128  # longer side of the pictures that are drawn here; those of Noto's font are 136 px wide
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Z][a-z]{3})?")  # variants of regions, such as de_CH, are left out
# Language codes of the packages that differ from those of Unicode CLDR.
LANGUAGE_CODES = {
    "no": "nb", "pt-BR": "pt", "pt": "pt-PT", "zh-CN": "zh", "zh-TW": "zh-Hant", "zh-Hans": "zh", "tl": "fil",
    "in": "id", "iw": "he", "en-US": "en", "nb-NO": "nb", "mo": "ro", "sh": "sr-Latn",
}  # fmt: skip
FLAG = re.compile("[\U0001f1e6-\U0001f1ff]{2}|\U0001f3f4[\U000e0020-\U000e007f]+")
SCRIPTS = {"latin": "Latn", "cyrillic": "Cyrl"}


@dataclass(frozen=True)
class Entry:
    """A picture of the dictionary: its key, file and class, and its name, or all its names, by language."""

    key: str
    suffix: str
    picture: bytes
    names: Mapping[str, str | list[str]]
    label: str = ""


class Emoji(NamedTuple):
    """An emoji: its code points as they are recommended, and its group, such as "animals-nature"."""

    sequence: str
    group: str


# By emoji without variation selectors, which the packages use in different ways; names also by language.
Emojis = dict[str, Emoji]
Names = dict[str, dict[str, str]]
Words = dict[str, dict[str, list[str]]]


def fetch_dictionary(folder: Path, packages: Path | None = None) -> dict[str, dict[str, int]]:
    """Make the picture dictionary.

    Args:
        folder: gets a tar a collection, and manifest.json with where each is from, its licence and its
            checksum, and how many people speak each language. It must not exist, or be empty.
        packages: folder of the downloads, of about 230 MB; one in the user's cache by default.

    Returns:
        The numbers of pictures, names and languages of each collection.

    Raises:
        UserError: the folder holds something, or a package cannot be fetched.
    """
    archives = fetched_for(folder, PACKAGES, packages)
    words, emoji = words_of_emoji(archives["cldr"]), emoji_of(archives["openmoji"])
    names = {sign: {code: own[0] for code, own in words[sign].items()} for sign in words}
    collections: dict[str, Callable[[], Iterator[Entry]]] = {
        "stamps": lambda: stamps(archives["stamps"]),
        "drawings": lambda: drawings(archives["drawings"]),
        "flags": lambda: flags(archives["flags"], archives["countries"]),
        "noto": lambda: noto(archives["noto"], names, emoji),
        "openmoji": lambda: openmoji(archives["openmoji"], names, emoji),
        "fluent": lambda: fluent(archives["fluent"], names, emoji),
        "emoji": lambda: with_words(archives["noto"], words),
        "territories": lambda: territories(archives["flags"], archives["cldr"]),
    }
    counts = {}
    with atomic_path(folder) as unfinished:
        unfinished.mkdir()
        for name, entries in collections.items():
            pictures = tqdm(entries(), desc=name, unit="picture", leave=False)
            counts[name] = write(unfinished / f"{name}.tar", pictures)
        about = [described(package, archives[name]) for name, package in PACKAGES.items()]
        speakers = speakers_of(archives["cldr"])
        write_manifest(unfinished, packages=about, collections=counts, speakers=speakers)
    return counts


def write(file: Path, entries: Iterable[Entry]) -> dict[str, int]:
    """Write a collection as a tar; returns the numbers of pictures, names and languages."""
    languages: dict[str, int] = defaultdict(int)
    count = 0
    with tarfile.open(file, "w") as tar:
        for entry in entries:
            count += 1
            for language, names in entry.names.items():
                languages[language] += 1 if isinstance(names, str) else len(names)
            key = f"{file.stem}/{entry.key}"
            add_member(tar, f"{key}.{entry.suffix}", entry.picture)
            captions = {"captions": dict(entry.names)}
            add_member(tar, f"{key}.json", json.dumps(captions, ensure_ascii=False).encode())
            if entry.label:
                add_member(tar, f"{key}.cls", entry.label.encode())
    return {"pictures": count, "names": sum(languages.values()), "languages": len(languages)}


def language_code(name: str) -> str | None:
    """The code of a language in Unicode CLDR, None for variants of a region: `zh_TW` -> `zh-Hant`."""
    language, _, modifier = name.partition("@")
    code = language.replace("_", "-")
    if modifier:
        code += f"-{SCRIPTS[modifier]}" if modifier in SCRIPTS else "-x"
    code = LANGUAGE_CODES.get(code, code)
    return code if code == "pt-PT" or LANGUAGE.fullmatch(code) else None


def stamps(archive: Path) -> Iterator[Entry]:
    """The stamps of Tux Paint: cut-out photographs and drawings. A text file beside each has its names."""
    root = "usr/share/tuxpaint/stamps/"
    files = dict(
        members(archive, lambda path: path.startswith(root) and path.endswith(("png", "svg", "txt")))
    )
    for path in sorted(files):
        stem, _, suffix = path.rpartition(".")
        if suffix != "txt":
            continue
        png_file, svg_file = files.get(f"{stem}.png"), files.get(f"{stem}.svg")
        picture = shrunk(png_file) if png_file else drawn_svg(svg_file)
        if picture is None:
            continue
        english, *others = files[path].decode("utf-8", "replace").splitlines()
        names = {"en": english.strip()}
        for line in others:
            locale, _, name = line.partition(".utf8=")
            if (code := language_code(locale)) and name.strip():
                names.setdefault(code, name.strip())
        key = stem.removeprefix(root).replace(".", "-")
        yield Entry(key, "png", picture, names, label=key.partition("/")[0])


def drawings(archive: Path) -> Iterator[Entry]:
    """The word pictures of eduActiv8: lists of English words by class, and translations in the same order."""
    root = "usr/share/games/pysiogame/"
    lists, pictures = "i18n/custom/a4a_py/", "res/images/art4apps/"
    files = dict(members(archive, lambda path: path.startswith((f"{root}{lists}", f"{root}{pictures}"))))
    words = {
        path.removeprefix(root + lists).removesuffix(".py"): word_lists(content.decode())
        for path, content in files.items()
        if path.endswith(".py")
    }
    english = words.pop("en_US")
    for unfinished in ("_bg_old", "bs"):  # the second holds the Bulgarian words
        words.pop(unfinished, None)
    for label, own in english.items():
        for number, word in enumerate(own):
            picture = files.get(f"{root}{pictures}{label}/{word.replace(' ', '_')}.jpg")
            if picture is None:
                continue
            names = {"en": word}
            for locale, by_label in words.items():
                code, translated = language_code(locale), by_label.get(label, [])
                # A word that has not been translated stands in angle brackets.
                if code and len(translated) == len(own) and not translated[number].startswith("<"):
                    names.setdefault(code, translated[number].replace("\u00ad", ""))
            yield Entry(f"{label}/{word.replace(' ', '-')}", "jpg", picture, names, label)


def word_lists(module: str) -> dict[str, list[str]]:
    """The lists of words of a module of lines `d["a4a_animals"] = ["cow", ...]`, which is not run."""
    found = {}
    for statement in ast.parse(module).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Subscript):
            label = ast.literal_eval(statement.targets[0].slice)
            found[label.removeprefix("a4a_")] = ast.literal_eval(statement.value)
    return found


class NotTranslated(gettext.NullTranslations):
    """Gives "" for a text that has no translation."""

    def gettext(self, message: str) -> str:
        return ""


def flags(archive: Path, countries: Path) -> Iterator[Entry]:
    """Flags, and the names of their countries of ISO 3166-1."""
    is_wanted = re.compile(r"usr/share/(iso-codes/json/iso_3166-1\.json|locale/.*/iso_3166-1\.mo)").fullmatch
    files = dict(members(countries, lambda path: is_wanted(path) is not None))
    translations: dict[str, gettext.GNUTranslations] = {}
    for path, content in sorted(files.items()):
        if path.endswith(".mo") and (code := language_code(path.split("/")[3])):
            translation = gettext.GNUTranslations(io.BytesIO(content))
            translation.add_fallback(NotTranslated())
            translations.setdefault(code, translation)
    pictures = {Path(path).stem: content for path, content in members(archive, lambda p: p.endswith(".png"))}
    for country in json.loads(files["usr/share/iso-codes/json/iso_3166-1.json"])["3166-1"]:
        code, usual = country["alpha_2"].lower(), country.get("common_name", country["name"])
        if code not in pictures:
            continue
        names = {"en": usual}
        for language, translation in translations.items():
            if name := translation.gettext(usual) or translation.gettext(country["name"]):
                names.setdefault(language, name)
        yield Entry(code, "png", pictures[code], names, label=code)


def words_of_emoji(archive: Path) -> Words:
    """The names of emoji in the annotations of Unicode CLDR, each followed by its keywords."""
    found: Words = defaultdict(dict)
    for code, content in cldr_files(archive, "annotations(Derived)?"):
        keywords: dict[str, list[str]] = {}
        for annotation in ElementTree.fromstring(content).iter("annotation"):  # noqa: S314, apt has verified it
            text, sign = annotation.text or "", str(annotation.get("cp")).replace("\ufe0f", "")
            if not text or "↑" in text:  # as in another language
                continue
            if annotation.get("type") != "tts":
                keywords[sign] = [word.strip() for word in text.split("|")]
            elif code not in found[sign]:
                found[sign][code] = list(dict.fromkeys([text, *keywords.get(sign, [])]))
    return dict(found)


def cldr_files(archive: Path, folder: str) -> Iterator[tuple[str, bytes]]:
    """The files of a folder of Unicode CLDR, a pattern, by the codes of their languages."""
    pattern = re.compile(rf"usr/share/unicode/cldr/common/{folder}/(?P<locale>\w+)\.xml")
    for path, content in members(archive, lambda path: pattern.fullmatch(path) is not None):
        match = pattern.fullmatch(path)
        assert match is not None
        if code := language_code(cldr_locale(match["locale"])):
            yield code, content


def cldr_locale(name: str) -> str:
    """CLDR's own locales already have the codes, of which "pt" is Brazilian here and pt_PT is the other."""
    return {"pt": "pt_BR", "pt_PT": "pt", "zh_Hant": "zh_TW"}.get(name, name)


def speakers_of(archive: Path) -> dict[str, int]:
    """How many people speak each language, in all territories together, as Unicode CLDR estimates."""
    name = "usr/share/unicode/cldr/common/supplemental/supplementalData.xml"
    content = next(members(archive, lambda path: path == name))[1]
    found: dict[str, float] = defaultdict(float)
    for territory in ElementTree.fromstring(content).iter("territory"):  # noqa: S314, apt has verified it
        for language in territory.iter("languagePopulation"):
            share = float(str(language.get("populationPercent"))) / 100
            code = language_code(cldr_locale(str(language.get("type"))))
            if code:
                found[code] += share * float(str(territory.get("population")))
    return {code: round(count) for code, count in sorted(found.items())}


def emoji_of(openmoji_archive: Path) -> dict[str, Emoji]:
    """The emoji of the dictionary, without flags and skin tones, by their letters but variation selectors."""
    files = members(openmoji_archive, lambda path: path == "package/data/openmoji.json")
    return {
        plain: Emoji(one["emoji"], one["group"])
        for one in json.loads(next(files)[1])
        if one["group"] != "flags" and not one["group"].startswith("extras")
        if not set(plain := one["emoji"].replace("\ufe0f", "")) & set(SKIN_TONES)
    }


def entry_of(sequence: str, suffix: str, picture: bytes, names: Names, emoji: Emojis) -> Entry | None:
    """The entry of an emoji, None if it is none of the dictionary's, or has no English name."""
    plain = sequence.replace("\ufe0f", "")
    if plain not in emoji or "en" not in names.get(plain, {}):
        return None
    return Entry(key_of(plain), suffix, picture, names[plain], emoji[plain].group)


def key_of(sequence: str) -> str:
    """The key of an emoji: its code points, `1f469-200d-1f52c`."""
    return "-".join(f"{ord(character):x}" for character in sequence)


def noto(archive: Path, names: Names, emoji: Emojis) -> Iterator[Entry]:
    """Noto Color Emoji."""
    for sequence, picture in noto_pictures(archive, (one.sequence for one in emoji.values())):
        if entry := entry_of(sequence, "png", picture, names, emoji):
            yield entry


def with_words(archive: Path, words: Words) -> Iterator[Entry]:
    """Noto Color Emoji with their names and keywords; flags and skin tones are left out."""
    named = {
        sequence: plain
        for sequence, about in emoji_package.EMOJI_DATA.items()
        if about["status"] == FULLY_QUALIFIED and not set(sequence) & set(SKIN_TONES)
        if "en" in words.get(plain := sequence.replace("\ufe0f", ""), {}) and not FLAG.match(plain)
    }
    for sequence, picture in noto_pictures(archive, named):
        yield Entry(key_of(named[sequence]), "png", picture, words[named[sequence]])


def noto_pictures(archive: Path, sequences: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """The emoji that Noto Color Emoji has a picture of, with the picture as PNG; no picture comes twice."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "NotoColorEmoji.ttf")
        file.write_bytes(next(members(archive, lambda path: path.endswith(file.name)))[1])
        font = EmojiFont(file)
        seen = set()  # for emoji newer than itself the font may have a picture of another
        for sequence in sequences:
            picture = font.draw(sequence, DRAWN_PX)
            if picture is None or picture.tobytes() in seen:
                continue
            seen.add(picture.tobytes())
            yield sequence, png(picture)


def territories(archive: Path, cldr: Path) -> Iterator[Entry]:
    """Flags, and the names of their territories in Unicode CLDR, the usual one first."""
    names: Words = defaultdict(dict)
    for code, content in cldr_files(cldr, "main"):
        own: dict[str, list[str]] = defaultdict(list)
        for territory in ElementTree.fromstring(content).iter("territory"):  # noqa: S314, apt has verified it
            name, sign = territory.text or "", str(territory.get("type"))
            if name and "↑" not in name:
                own[sign].insert(len(own[sign]) if territory.get("alt") else 0, name)
        for sign, found in own.items():
            names[sign].setdefault(code, list(dict.fromkeys(found)))
    for path, content in sorted(members(archive, lambda path: path.endswith(".png"))):
        code = Path(path).stem
        if "en" in names.get(code.upper(), {}):
            yield Entry(code, "png", content, names[code.upper()])


def openmoji(archive: Path, names: Names, emoji: Emojis) -> Iterator[Entry]:
    """OpenMoji: flat drawings with black outlines."""
    for path, content in members(archive, lambda path: path.startswith("package/color/svg/")):
        entry = entry_of(sequence_of(path), "png", content, names, emoji)
        if entry and (picture := drawn_svg(content)):
            yield replace(entry, picture=picture)


def fluent(archive: Path, names: Names, emoji: Emojis) -> Iterator[Entry]:
    """Fluent emoji: rendered bodies with light and shade."""
    seen = set()  # some come twice, with and without variation selectors
    for path, content in members(archive, lambda path: path.endswith(".webp")):
        entry = entry_of(sequence_of(path), "webp", content, names, emoji)
        if entry and entry.key not in seen:
            seen.add(entry.key)
            yield entry


def sequence_of(path: str) -> str:
    """The emoji of a file whose name has its code points: `1F469-200D-1F52C.svg`."""
    try:
        return "".join(chr(int(part, 16)) for part in Path(path).stem.split("-"))
    except (ValueError, OverflowError):
        return ""


def shrunk(picture: bytes) -> bytes:
    """A PNG whose longer side is at most MAX_PX; one that is small enough keeps its bytes."""
    with Image.open(io.BytesIO(picture)) as image:
        if max(image.size) <= MAX_PX:
            return picture
        small = image.convert("RGBA")
    small.thumbnail((MAX_PX, MAX_PX), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "PNG")
    return out.getvalue()


def drawn_svg(svg: bytes | None) -> bytes | None:
    """An SVG as a PNG with transparency, None if there is none, or nothing to be seen in it."""
    skia: Any = import_skia()
    image = skia.SVGDOM.MakeFromStream(skia.MemoryStream(svg)) if svg else None
    if image is None:
        return None
    width, height = image.containerSize().width(), image.containerSize().height()
    if not width * height:  # its size is that of its surroundings
        width = height = DRAWN_PX
        image.setContainerSize(skia.Size(width, height))
    scale = DRAWN_PX / max(width, height)
    picture = np.zeros((max(1, round(height * scale)), max(1, round(width * scale)), 4), np.uint8)
    canvas = skia.Canvas(picture, skia.kRGBA_8888_ColorType, skia.kPremul_AlphaType)
    canvas.scale(scale, scale)
    image.render(canvas)
    return png(picture) if picture.any() else None
