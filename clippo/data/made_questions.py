"""Questions made from what is known of the pictures of the picture dictionary.

Five kinds: what something is, its colour, how many there are, the continent of a flag, and yes or no. Each
picture shows one to four copies of a flag, an emoji, a stamp or a drawing, whatever the question, so that
the picture alone does not tell what is asked. Each answer of a kind is right equally often, also "yes" of
every wording, so that the question alone says nothing either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from clippo.data.decode import pixels_of
from clippo.data.dictionary import DictionaryConfig
from clippo.data.questions import Question, Questions, QuestionsConfig, QuestionsSplit
from clippo.data.records import FilesSource, Records
from clippo.errors import UserError
from clippo.model.preprocess import resized
from clippo.seeds import generator

__all__ = ["COLOURS", "CONTINENTS", "KINDS", "MadeQuestionsConfig", "dominant_colour"]

# The things that are asked about, and their classes in the collections; see also `class_of`. Classes of mixed
# content, such as "people-body", which has hands too, are left out.
KINDS = {
    "animal": ("stamps/animals", "drawings/animals"),
    "face": ("noto/smileys-emotion",),
    "flag": ("flags/",),
    "food": ("stamps/food", "drawings/food", "drawings/fruit_n_veg", "noto/food-drink"),
    "person": ("stamps/people", "drawings/people", "drawings/jobs"),
    "sign": ("stamps/symbols", "noto/symbols"),
    "vehicle": ("stamps/vehicles", "drawings/transport"),
}
COLOURS = ("black", "blue", "green", "orange", "red", "white", "yellow")
COUNTS = (1, 2, 3, 4)
# Codes of ISO 3166-1 by the continents of UN M49. Places that fly the flag of another country are left out.
CONTINENTS = {
    "africa": """ao bf bi bj bw cd cf cg ci cm cv dj dz eg eh er et ga gh gm gn gq gw io ke km lr ls ly ma mg
        ml mr mu mw mz na ne ng rw sc sd sh sl sn so ss st sz td tg tn tz ug za zm zw""".split(),
    "america": """ag ai ar aw bb bm bo bq br bs bz ca cl co cr cu cw dm do ec fk gd gl gs gt gy hn ht jm kn ky
        lc mf ms mx ni pa pe pr py sr sv sx tc tt us uy vc ve vg vi""".split(),
    "asia": """ae af am az bd bh bn bt cn cy ge hk id il in iq ir jo jp kg kh kp kr kw kz la lb lk mm mn mo mv
        my np om ph pk ps qa sa sg sy th tj tl tm tr tw uz vn ye""".split(),
    "europe": """ad al at ax ba be bg by ch cz de dk ee es fi fo fr gb gg gi gr hr hu ie im is it je li lt lu
        lv mc md me mk mt nl no pl pt ro rs ru se si sk sm ua va""".split(),
    "oceania": "as au cc ck cx fj fm gu ki mh mp nf nr nu nz pf pg pn pw sb tk to tv vu ws".split(),
}

# Two rows of text of a model of 64 px and patches of 16 px hold each of them.
WHAT, WHICH_COLOUR, HOW_MANY, WHICH_CONTINENT = (
    "what is it?",
    "which colour?",
    "how many?",
    "which continent?",
)
IS_IT = {thing: f"is it {'an' if thing[0] in 'aeiou' else 'a'} {thing}?" for thing in KINDS} | {
    "food": "is it food?"
}

COLOURED = ("stamps", "flags", "noto")  # drawings have white paper around them
BACKGROUND = 127  # that of rendered text
CACHE_BYTES = 2**27  # of pictures that are decoded already


@dataclass(frozen=True, kw_only=True)
class MadeQuestionsConfig(QuestionsConfig):
    """Questions made from the picture dictionary, see `clippo.data.made_questions`.

    Questions to train on are about the pictures that the dictionary trains on, the others about those that it
    holds out.

    Attributes:
        path: folder of the picture dictionary; by default the one in the user's cache.
        train, held_out: questions of each of the five kinds; rounded down where the answers of a kind could
            not all have the same number.
        seed: decides on pictures, copies and places.

    Raises:
        UserError: fewer than 14 questions of a kind, for which not every answer could come once.
    """

    name: ClassVar[str] = "made"
    path: str = ""
    train: int = 840
    held_out: int = 280
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("train", "held_out"):
            if getattr(self, name) < 2 * len(KINDS):
                raise UserError(
                    f"questions.{name} must be at least {2 * len(KINDS)}, got {getattr(self, name)}"
                )

    def build(self, split: QuestionsSplit, image_size: int) -> MadeQuestions:
        source = DictionaryConfig(path=self.path, languages=("en",)).build(split)
        count = self.train if split == "train" else self.held_out
        return MadeQuestions(source, split, count, self.seed, image_size)


class MadeQuestions(Questions):
    """See `MadeQuestionsConfig`.

    Args:
        source: pictures of the dictionary, all of one split.
        split: its name.
        count: questions of each kind.
        seed: as of `MadeQuestionsConfig`.
        image_size: side of the pictures, px.

    Raises:
        UserError: there is no picture for an answer.
    """

    def __init__(
        self, source: FilesSource, split: QuestionsSplit, count: int, seed: int, image_size: int
    ) -> None:
        self.source, self.split, self.seed, self.image_size = source, split, seed, image_size
        self.cutout = lru_cache(max(1, CACHE_BYTES // (4 * image_size**2)))(self.read)
        keys = [source.records.keys[row] for row in source.rows.tolist()]
        classes = [class_of(source.records, row) for row in source.rows.tolist()]
        things = {thing: self.shuffled(thing, of(classes, own)) for thing, own in KINDS.items()}
        colours: dict[str, list[int]] = {colour: [] for colour in COLOURS}
        for index in self.shuffled("colours", [i for i, key in enumerate(keys) if key.startswith(COLOURED)]):
            if (colour := dominant_colour(self.cutout(index))) in colours:
                colours[colour].append(index)
        flags = {
            continent: self.shuffled(continent, of(keys, [f"flags/{code}" for code in codes]))
            for continent, codes in CONTINENTS.items()
        }
        for answer, pictures in (things | colours | flags).items():
            if not pictures:
                raise UserError(f"the picture dictionary has no picture of {answer} in its part {split}")
        self.asked = []
        self.pictures: list[tuple[int, int]] = []  # number of a picture in the source, and how many copies
        for kind, asked in (
            ("kind", rounds(things, WHAT, count)),
            ("colour", rounds(colours, WHICH_COLOUR, count)),
            ("continent", rounds(flags, WHICH_CONTINENT, count)),
            ("count", counted(things, count)),
            ("yes_no", yes_or_no(things, count)),
        ):
            rng = generator(seed, "copies", split, kind)
            for text, answer, index in asked:
                copies = int(answer) if kind == "count" else int(rng.choice(COUNTS))
                key = f"{split}/{kind}/{len(self.asked)}"
                self.asked.append(Question(key, keys[index], text, (answer,), answer, kind))
                self.pictures.append((index, copies))

    def shuffled(self, name: str, indices: Sequence[int]) -> list[int]:
        order = generator(self.seed, "pictures", self.split, name).permutation(len(indices))
        return [indices[i] for i in order]

    def read(self, index: int) -> np.ndarray:
        """A picture of the source, at most as large as those of the questions; with alpha if it has any."""
        pixels = pixels_of(self.source[index])
        return resized(pixels, self.image_size, "bicubic")

    def image(self, index: int) -> np.ndarray:
        picture, copies = self.pictures[index]
        return copied(
            self.cutout(picture), copies, self.image_size, generator(self.seed, "places", self.split, index)
        )

    @property
    def fingerprint(self) -> str:
        """Checksum as of `Questions`, and of the pictures of the source."""
        return hashlib.sha256((super().fingerprint + self.source.fingerprint).encode()).hexdigest()


def class_of(records: Records, row: int) -> str:
    """The collection and class of a picture; "" for what its class is not said of."""
    key, label = records.keys[row], records.labels[row]
    is_heart = label == "smileys-emotion" and all("face" not in text.text for text in records.texts_of(row))
    if is_heart or "/body_parts/" in key:
        return ""
    return "flags/" if key.startswith("flags/") else f"{key.partition('/')[0]}/{label}"


def of(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """The numbers of the names that are wanted."""
    return [number for number, name in enumerate(names) if name in wanted]


def rounds(pictures: dict[str, list[int]], text: str, count: int) -> Iterator[tuple[str, str, int]]:
    """Ask one question about pictures of each answer in turn; where they are used up, they come again."""
    for number in range(count // len(pictures)):
        for answer, own in pictures.items():
            yield text, answer, own[number % len(own)]


def counted(things: dict[str, list[int]], count: int) -> Iterator[tuple[str, str, int]]:
    """Ask for the number of copies; each picture comes with every number."""
    for _, _, picture in rounds(things, HOW_MANY, count // len(COUNTS)):
        for copies in COUNTS:
            yield HOW_MANY, str(copies), picture


def yes_or_no(things: dict[str, list[int]], count: int) -> Iterator[tuple[str, str, int]]:
    """Ask each picture for what it is and for something else, each thing in turn.

    In a round of all things the other thing is so many places further on for all of them, so that each
    wording has as many questions to be denied as to be affirmed.
    """
    names = list(things)
    for number, (_, thing, picture) in enumerate(rounds(things, "", count // 2)):
        step = 1 + number // len(names) % (len(names) - 1)
        yield IS_IT[thing], "yes", picture
        yield IS_IT[names[(names.index(thing) + step) % len(names)]], "no", picture


def copied(cutout: np.ndarray, copies: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one to four copies on plain ground: (size, size, 3) uint8.

    One fills the picture, two a half each, more a quarter each, but for a random margin of a pixel or more.
    """
    across, down = min(copies, 2), 1 + (copies > 2)
    out = np.full((size, size, 3), BACKGROUND, np.uint8)
    cell_height, cell_width = size // down, size // across
    largest = min(cell_height, cell_width) - 2
    for cell in rng.permutation(across * down)[:copies].tolist():
        row, column = divmod(cell, across)
        own = round(largest * rng.uniform(0.75, 1))
        top = row * cell_height + 1 + int(rng.integers(cell_height - own - 1))
        left = column * cell_width + 1 + int(rng.integers(cell_width - own - 1))
        small = resized(cutout, own, "bicubic")
        ground = out[top : top + own, left : left + own]
        if small.shape[2] == 4:
            light = BACKGROUND * (255 - small[..., 3:].astype(np.int32))
            small = np.minimum(small[..., :3] + (light + 127) // 255, 255).astype(np.uint8)
        ground[:] = small
    return out


def dominant_colour(pixels: np.ndarray) -> str | None:
    """The name of the colour of more than half of the pixels that are not transparent, if there is one.

    Args:
        pixels: (H, W, 3) uint8, or (H, W, 4) with premultiplied alpha.

    Returns:
        One of `COLOURS`, or another colour such as "grey"; None if no colour has more than half.
    """
    flat = pixels.reshape(-1, pixels.shape[2]).astype(np.float64) / 255
    if flat.shape[1] == 4:
        flat = flat[flat[:, 3] > 0.5]
        flat = flat[:, :3] / flat[:, 3:]
    if not len(flat):
        return None
    numbers = np.bincount(colours_of(flat), minlength=len(ALL_COLOURS))
    best = int(numbers.argmax())
    return ALL_COLOURS[best] if 2 * numbers[best] > len(flat) else None


# The hues in order from 0 degrees, and the bounds between them; brown is dark orange or red.
HUES = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "red")
HUE_BOUNDS = (15, 40, 70, 165, 255, 290, 345)
ALL_COLOURS = (*HUES[:-1], "brown", "grey", "white", "black")


def colours_of(rgb: np.ndarray) -> np.ndarray:
    """Numbers in ALL_COLOURS of the colours of (N, 3) float pixels from 0 to 1."""
    number = ALL_COLOURS.index
    value, chroma = rgb.max(1), rgb.max(1) - rgb.min(1)
    saturation, safe = chroma / np.maximum(value, 1e-9), np.maximum(chroma, 1e-9)
    red, green, blue = rgb.T
    hue = np.where(
        value == red,
        (green - blue) / safe % 6,
        np.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    out: np.ndarray = np.searchsorted(HUE_BOUNDS, 60 * hue, side="right") % len(HUES[:-1])
    out[(out == number("orange")) & (value < 0.65) | (out == number("red")) & (value < 0.4)] = number("brown")
    out[saturation < 0.15] = number("grey")
    out[(saturation < 0.15) & (value > 0.85)] = number("white")
    out[value < 0.2] = number("black")
    return out
