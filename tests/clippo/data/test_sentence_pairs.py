import json
import pickle
import zlib
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest

from clippo.data import records, sentence_pairs
from clippo.data.sentence_pairs import Document, SentencePairsConfig, sentences_of
from clippo.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Given(SentencePairsConfig):
    """Documents that a test gives."""

    name: ClassVar[str] = "given"
    given: tuple[Document, ...] = ()

    @property
    def state(self):
        return None

    def documents(self):
        yield from self.given


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "clippo" / "sentences"


def texts(source) -> list[tuple[str, ...]]:
    return [tuple(text.text for text in source[i].texts) for i in range(len(source))]


def documents(count=300, seed=0) -> tuple[Document, ...]:
    """Documents of a few sentences, many of which are in other documents too."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        size = rng.integers(0, 6)
        own = np.where(rng.random(size) < 0.3, rng.zipf(1.5, size) % 30, rng.integers(0, 2000, size))
        found.append(Document([f"Sentence {n} of 'é'." for n in own], "en", f"group {number // 2}"))
    return tuple(found)


def test_pairs_are_those_of_the_definition():
    given = documents()
    config = Given(given=given, held_out=0.3, max_repeats=20)
    held_out = {d.group for d in given if zlib.crc32(d.group.encode()) < 0.3 * 2**32}
    counts = Counter(sentence for document in given for sentence in document.sentences)
    trained, measured = {}, {}
    for document in given:
        for pair in pairwise(document.sentences):
            if max(counts[sentence] for sentence in pair) <= 20 and pair[0] != pair[1]:
                trained.setdefault(pair, document.group)
    seen = {s for pair, group in trained.items() if group not in held_out for s in pair}
    for pair, group in trained.items():
        if group in held_out and not seen & {*pair}:
            measured.setdefault(group, []).append(pair)
    train, held = (config.build(split) for split in ("train", "held_out"))
    assert texts(train) == [pair for pair, group in trained.items() if group not in held_out]
    assert len(held) > 10
    assert set(texts(held)) <= {pair for pairs in measured.values() for pair in pairs}
    assert {pairs[0] for pairs in measured.values()} <= set(texts(held))
    assert len({held[i].key.split("/")[0] for i in range(len(held))}) == len(held)
    assert texts(config.build("all")) == texts(train) + texts(held)
    left_out = train.left_out
    assert left_out["sentences that come more than 20 times"] == sum(n for n in counts.values() if n > 20)


def test_examples_say_their_language_and_their_place():
    given = (
        Document(["Erster Satz.", "Zweiter Satz.", "Dritter Satz."], "de", "a"),
        Document(["Nobody knows."], "", "b"),
        Document(["One two.", "Three four."], "", "c"),
    )
    source = Given(given=given, held_out=0.0).build("all")
    examples = [source[i] for i in range(3)]
    assert [(e.key, e.image, e.texts[0].language) for e in examples] == [
        ("0/0", None, "de"), ("0/1", None, "de"), ("2/0", None, None),
    ]  # fmt: skip
    assert [text.text for text in examples[1].texts] == ["Zweiter Satz.", "Dritter Satz."]


def test_sentences_are_written_once_and_read_by_many(cache, monkeypatch):
    config = Given(given=documents())
    source = config.build("train")
    monkeypatch.setattr(sentence_pairs, "write", None)  # would raise
    again = config.build("train")
    sent = pickle.dumps(source)
    assert len(sent) < 1000
    assert texts(again) == texts(pickle.loads(sent)) == texts(source)  # noqa: S301
    assert again.fingerprint == source.fingerprint != config.build("held_out").fingerprint
    assert [path.name for path in cache.iterdir()] == [source.folder.name]


def test_another_process_may_be_sooner(cache, monkeypatch):
    config, write = Given(given=documents()), sentence_pairs.write

    def write_twice(config, folder):
        monkeypatch.setattr(sentence_pairs, "write", write)
        config.build("train")
        write(config, folder)

    monkeypatch.setattr(sentence_pairs, "write", write_twice)
    assert len(config.build("train")) > 100
    assert len(list(cache.iterdir())) == 1


def test_what_cannot_be_written_leaves_nothing(cache, monkeypatch):
    with pytest.raises(UserError, match="given holds no pair of sentences: 1 documents, 1 sentences"):
        Given(given=(Document(["Alone."], "", ""),)).build("train")
    assert not list(cache.iterdir())
    cache.rmdir()
    cache.write_text("a file")
    with pytest.raises(UserError, match="cannot write into"):
        Given(given=documents()).build("train")


def test_a_bound_on_what_is_held_out(monkeypatch):
    monkeypatch.setattr(records, "MAX_HELD_OUT", 5)
    given = tuple(Document([f"{n} a long one.", f"{n} another."], "", str(n)) for n in range(100))
    config = Given(given=given, held_out=0.5)
    assert len(config.build("held_out")) == 5
    assert len(config.build("train")) == 95


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "Dr. Smith met J. R. Tolkien. Then  he\nleft!\n\nNew paragraph", 3),
        ("ja", "今日は良い天気です。明日は雨でしょう！", 2),
        ("hi", "यह एक वाक्य है। यह दूसरा है।", 2),
        ("ar", "هذا سؤال؟ نعم هذا جواب.", 2),
        ("de", "Das ist z. B. ein Satz. Und noch einer.", 2),
        ("xx", "No such language. It has rules, too.", 2),
        ("", "A lone \ud800 surrogate. And more.", 2),
        ("en", " \n\n ", 0),
    ],
)
def test_sentences_of_many_scripts(language, text, expected):
    found = sentences_of(text, language, min_chars=1)
    assert len(found) == expected
    assert all(sentence == " ".join(sentence.split()) for sentence in found)


def test_short_sentences_are_left_out():
    assert sentences_of("Yes. It was a long night.", "en", min_chars=15) == ["It was a long night."]


def test_sentencex_is_asked_for(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sentencex", None)
    with pytest.raises(UserError, match=r"pip install 'clippo-kernels\[sentences\]'"):
        sentences_of("One.", "en", min_chars=1)


@pytest.mark.parametrize("change", [{"held_out": 1.0}, {"min_chars": 0}, {"max_repeats": 0}])
def test_values_out_of_range(change):
    with pytest.raises(UserError, match=rf"data\.{next(iter(change))} must be"):
        Given(**change)


def test_about_tells_what_was_read():
    given = documents()
    about = json.loads((Given(given=given).build("train").folder / "about.json").read_text())
    assert about["documents"] == 300
    assert about["sentences"] == sum(len(d.sentences) for d in given)
