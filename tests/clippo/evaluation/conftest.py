"""Labelled pictures, a small copy of the texts that are fetched, and models that know all or nothing."""

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clippo.data.base import Example, Source, SourceConfig, Text
from clippo.data.transform import SquashConfig, Transform


class Told:
    """Gives the embeddings that it is told: of texts by the text, of pictures by their grey level.

    Args:
        images: by the grey level of the first pixel.
        texts: by text; those that are not in it have that of "".
    """

    def __init__(self, images: Mapping[int, Tensor], texts: Mapping[str, Tensor]) -> None:
        self.images = images
        self.texts = texts

    def encode_image(self, pixels: Tensor) -> Tensor:
        return torch.stack([self.images[int(level)] for level in pixels[:, 0, 0, 0]])

    image_features = encode_image

    def encode_text(self, texts: list[str]) -> Tensor:
        return torch.stack([self.texts[text] if text in self.texts else self.texts[""] for text in texts])


class Labels(Source):
    """Pictures of one grey level each, which is their number, with these labels and texts."""

    def __init__(self, labels: list[tuple[str, ...]], texts: list[dict[str, str]] | None = None) -> None:
        self.labels = labels
        self.texts = texts or [{"": " and ".join(own) or "nothing"} for own in labels]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        texts = tuple(Text(text, language or None) for language, text in self.texts[index].items())
        return Example(str(index), np.full((2, 2, 3), index % 256, np.uint8), texts, self.labels[index])


@pytest.fixture
def config_of() -> Callable[..., SourceConfig]:
    """Makes a configuration of sources by their split."""

    class Config(SourceConfig):
        def __init__(self, **by_split: Source) -> None:
            object.__setattr__(self, "by_split", by_split)

        def build(self, split, *, image_size):
            return self.by_split[split]

    return Config


@pytest.fixture
def transform() -> Transform:
    return SquashConfig().build(2)


SECTIONS = [f"section{number}" for number in range(22)]


def letters(number: int, alphabet: str = "abcdefghijklmnopqrstuvwxyz") -> str:
    """A made-up word for a number."""
    word = ""
    for _ in range(5):
        number, digit = divmod(number * 7 + 3, len(alphabet))
        word += alphabet[digit]
    return word


def meaning(number: int, kind_of: list[int]) -> dict:
    word = letters(number)
    return {
        "id": f"{number:08}-n",
        "words": [word, f"{word}y"],
        "class": ["noun.Tops", "noun.animal", "noun.food"][min(number, 1 + number % 2)],
        "definition": f"something like {word}",
        "examples": [f"one {word}s there", f"a {word} here", "nothing of it"],
        "kind_of": [f"{target:08}-n" for target in kind_of],
    }


@pytest.fixture(scope="session")
def texts(tmp_path_factory) -> Path:
    """The folder of small files of the layout of `clippo data fetch texts`."""
    rated = [
        {"text": f"film {letters(i)}", "rating": (i % 81) / 10 - 4, "domain": "films"} for i in range(200)
    ] + [{"text": f"tweet {letters(i)}", "rating": 1.0, "domain": "tweets"} for i in range(100)]
    alphabets = {"eng": "abcdefghijkl", "rus": "абвгдежзикл", "ukr": "їєґабвгдежз", "fra": "éèàçabcdefg"}
    declared = [
        {"code": code, "language": code[:2], "article": article, "text": letters(article, alphabet)}
        for code, alphabet in alphabets.items()
        for article in range(31)
    ] + [{"code": "short", "language": "xx", "article": 1, "text": "one"}]
    meanings = [meaning(number, [number // 5] if number else []) for number in range(400)]
    # A second sense of each word, so that words in context have pairs of two senses.
    meanings += [
        meaning(number, []) | {"id": f"9{number:07}-n", "examples": [f"the other {letters(number)}"]}
        for number in range(1, 100)
    ]
    packages = [
        {
            "package": f"p{i}", "source": f"s{i // 3}",
            "section": SECTIONS[i % 20 if i < 600 else 20 + i % 2],
            "synopsis": {"en": f"tool {letters(i)}"} | ({"de": f"Werkzeug {letters(i)}"} if i % 2 else {}),
            "description": {"en": f" It makes {letters(i)}s.\n"},
        }
        for i in range(610)
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("texts")
    files = {"ratings": rated, "rights": declared, "wordnet": meanings, "packages": packages}
    for name, rows in files.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


GLUE_COUNT = 30
GLUE_MNLI = "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse"
GLUE_MNLI += "\tsentence2_parse\tsentence1\tsentence2\tlabel1"
GLUE_STS = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
GLUE_RELATED = ("entailment", "neutral", "contradiction")
GLUE_ENTAILED = ("entailment", "not_entailment")

# The header of a file, and a line of it by its number.
GLUE_FILES = {
    "CoLA/{}.tsv": ("", lambda i: f"gj04\t{i % 2}\t{'*' * (1 - i % 2)}\tsome \"words {i}"),
    "SST-2/{}.tsv": ("sentence\tlabel", lambda i: f"a \"film {i} \t{i % 2}"),
    "MRPC/{}.tsv": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", lambda i: f"{i % 2}\t1\t2\tone \"{i}\ttwo {i}"
    ),
    "STS-B/{}.tsv": (GLUE_STS, lambda i: f"{i}\tmain\tf\t2012\t{i}\tnone\tnone\ta {i}\tb {i}\t{i / 6:.3f}"),
    "QQP/{}.tsv": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        lambda i: f"{i}\t1\t2\twhy {i}?\thow {i}?\t{i % 2}"
    ),
    "QNLI/{}.tsv": (
        "index\tquestion\tsentence\tlabel", lambda i: f"{i}\twho {i}?\the {i}.\t{GLUE_ENTAILED[i % 2]}"
    ),
    "RTE/{}.tsv": (
        "index\tsentence1\tsentence2\tlabel", lambda i: f"{i}\tone {i}\ttwo {i}\t{GLUE_ENTAILED[i % 2]}"
    ),
    "MNLI/{}.tsv": (
        GLUE_MNLI + "\tgold_label",
        lambda i: "\t".join(
            [str(i), "1", "1e", "fiction", "( )", "( )", "(R)", "(R)", f"it {i}", f"that {i}", "neutral",
             GLUE_RELATED[i % 3]]
        ),
    ),
}  # fmt: skip


def write_glue(root: Path) -> Path:
    """Write GLUE as its authors gave it out, with 30 examples a part."""
    for pattern, (header, line) in GLUE_FILES.items():
        parts = ("train", "dev_matched", "dev_mismatched") if "MNLI" in pattern else ("train", "dev")
        for part in parts:
            file = root / pattern.format(part)
            file.parent.mkdir(parents=True, exist_ok=True)
            start = 0 if part == "train" else 1000
            lines = [header] * bool(header) + [line(i) for i in range(start, start + GLUE_COUNT)]
            if "QQP" in pattern:
                lines.insert(4, "7\t1\t2\tbroken?")
            if "MNLI/dev" in file.as_posix()[-20:]:  # with the labels of five people
                lines = ["\t".join([*x.split("\t")[:-1], *"abcd", x.split("\t")[-1]]) for x in lines]
            file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


class Ignorant:
    """A model whose embeddings are random, but the same for the same text."""

    def encode_text(self, texts):
        rows = [np.random.default_rng(zlib.crc32(text.encode())).normal(size=8) for text in texts]
        return torch.nn.functional.normalize(torch.tensor(np.array(rows), dtype=torch.float32))


class Knowing:
    """A model that is handed the embedding of each text."""

    def __init__(self, known: dict[str, np.ndarray]) -> None:
        self.known = known

    def encode_text(self, texts):
        return torch.tensor(np.array([self.known[text] for text in texts]), dtype=torch.float32)


@pytest.fixture
def ignorant() -> Ignorant:
    return Ignorant()


@pytest.fixture
def knowing():
    return Knowing
