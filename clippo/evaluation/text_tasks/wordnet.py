"""Tasks that are generated from WordNet 3.0, as `clippo data fetch texts` brings it.

Each function takes the folder of the texts. The tasks on pairs are made by rules and were not looked over by
people, unlike the data sets that they resemble.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from clippo.evaluation.text_tasks.base import PartName, TextExample, TextTask, made, part_of
from clippo.evaluation.text_tasks.fetched import rows_of
from clippo.seeds import generator

__all__ = ["is_a", "noun_class", "relatedness", "words_in_context"]

FIELDS = ("id", "words", "class", "definition", "examples", "kind_of")
Row = dict[str, Any]


def noun_class(folder: Path) -> TextTask:
    """Which of WordNet's 25 classes of nouns is a definition of?

    The class noun.Tops, of the 51 nouns that stand above all others, is left out. All meanings of a word
    that comes first among its synonyms are in one part.
    """
    nouns = [row for row in meanings(folder) if row["class"].startswith("noun.")]
    names = {row["id"]: row["class"].removeprefix("noun.") for row in nouns if row["class"] != "noun.Tops"}
    examples = (
        (part(row), TextExample(row["definition"], "", names[row["id"]]))
        for row in nouns
        if row["id"] in names
    )
    prompts = ("{}", "a kind of {}", "a word for a {}")
    return made("noun_class", examples, sorted({*names.values()}), ("accuracy", "macro_f1"), prompts)


def is_a(folder: Path) -> TextTask:
    """Is the thing of a definition a kind of what a word names? Half of the pairs are, as in entailment.

    For each true pair, the definition of "dog" and the word "canine", there is a false one: in turn the
    reverse, the definition of "canine" and "dog", and a sibling, the definition of "dog" and "wolf". Both
    meanings of a pair belong to the same part, so that remembering which words are wide does not help in the
    test (Levy et al. 2015).
    """
    known = {row["id"]: row for row in meanings(folder)}
    parts = {identity: part(row) for identity, row in known.items()}
    below: dict[str, list[Row]] = defaultdict(list)  # of one part with the wider meaning, by that
    for row in known.values():
        for wider in row["kind_of"]:
            if parts[row["id"]] == parts.get(wider):
                below[wider].append(row)

    def examples() -> Iterator[tuple[PartName, TextExample]]:
        number = 0
        for identity, members in below.items():
            wider, own = known[identity], parts[identity]
            for place, row in enumerate(members):
                if row["definition"] == wider["definition"] or word(row) == word(wider):
                    continue
                sibling = members[place - 1]
                false = TextExample(wider["definition"], word(row), "no")
                if number % 2 and word(sibling) not in row["words"]:
                    false = TextExample(row["definition"], word(sibling), "no")
                number += 1
                yield own, TextExample(row["definition"], word(wider), "yes")
                yield own, false

    return made("is_a", examples(), ("no", "yes"), ("accuracy",))


def words_in_context(folder: Path) -> TextTask:
    """Has a word the same meaning in two sentences? Half of the pairs are, as in WiC (arXiv 1808.09121).

    The sentences are the examples of WordNet in which the word, or it with another ending, is found. Each
    word gives as many pairs of one meaning as of two, and is in one part.
    """
    sentences: dict[tuple[str, str], list[list[str]]] = defaultdict(list)  # by word and part of speech
    for row in meanings(folder):
        for name in map(str.lower, row["words"]):
            stem = f" {name[:-1] if len(name) > 3 else name}"
            if own := [sentence for sentence in row["examples"] if stem in f" {sentence.lower()}"]:
                sentences[name, row["id"][-1]].append(own)

    def examples() -> Iterator[tuple[PartName, TextExample]]:
        for (name, speech), groups in sentences.items():
            same = [pair for own in groups for pair in combinations(own, 2)]
            other = [(a, b) for one, two in combinations(groups, 2) for a in one for b in two]
            count = min(len(same), len(other))
            for label, pairs in (("same", same), ("other", other)) if count else ():
                rng = generator(0, "words in context", name, speech, label)
                for index in rng.permutation(len(pairs))[:count].tolist():
                    first, second = pairs[index]
                    yield part_of(name), TextExample(f"{name}: {first}", second, label)

    return made("words_in_context", examples(), ("other", "same"), ("accuracy",))


def relatedness(folder: Path) -> TextTask:
    """How near are two words? 2 for synonyms, 1 for two words below the same wider term, 0 for any two.

    A stand-in for similarity as people judge it; a third of the pairs has each score.
    """
    rows = list(meanings(folder))
    by_part: dict[tuple[PartName, str], list[str]] = defaultdict(list)  # and part of speech
    below: dict[tuple[str, PartName], list[str]] = defaultdict(list)
    for row in rows:
        by_part[part(row), row["id"][-1]].append(word(row))
        for wider in row["kind_of"]:
            below[wider, part(row)].append(word(row))

    def examples() -> Iterator[tuple[PartName, TextExample]]:
        rng = generator(0, "relatedness")
        for row in rows:
            own, first = part(row), word(row)
            siblings = [name for wider in row["kind_of"] for name in below[wider, own] if name != first]
            if len(row["words"]) < 2 or not siblings:
                continue
            strangers = by_part[own, row["id"][-1]]
            yield own, TextExample(first, row["words"][1], 2.0)
            yield own, TextExample(first, siblings[rng.integers(len(siblings))], 1.0)
            yield own, TextExample(first, strangers[rng.integers(len(strangers))], 0.0)

    return made("relatedness", examples(), (), ("spearman", "pearson"))


def meanings(folder: Path) -> Iterator[Row]:
    return rows_of(folder / "wordnet.jsonl", *FIELDS)


def word(row: Row) -> str:
    """The first of the synonyms."""
    name: str = row["words"][0]
    return name


def part(row: Row) -> PartName:
    return part_of(word(row).lower())
