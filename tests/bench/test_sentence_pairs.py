"""The study of sentence pairs: its reading of descriptions, its baselines and its table."""

import json
from dataclasses import replace

import numpy as np
import pytest

from clippo.bench.studies import sentence_pairs
from clippo.bench.studies.sentence_pairs import (
    RUNS,
    Document,
    documents,
    letters,
    recalls,
    sentences,
    split,
    table,
    tfidf,
    words,
)

DESCRIPTION = """ Cats are small. They have "fur", e.g. on their
 backs, and purr!
 .
  * a list of toys
 .
 Short.
"""


def test_sentences():
    assert sentences(DESCRIPTION) == (
        'They have "fur", e.g.',
        "on their backs, and purr!",
        "* a list of toys",
    )


def test_descriptions_come_from_the_fetched_file(tmp_path):
    rows = [
        {"source": "felines", "synopsis": {"en": "small animal"}, "description": {"en": DESCRIPTION}},
        {"source": "cats", "synopsis": {"en": "small animal"}, "description": {"en": DESCRIPTION}},
        {"source": "dog", "synopsis": {"en": "loud animal"}, "description": {"en": ""}},
    ]
    file = tmp_path / "packages.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert documents(file) == [Document("cats", "small animal", sentences(DESCRIPTION))]


FOUND = [Document(f"source {i // 2}", f"synopsis {i}", (f"first {i}", f"second {i}")) for i in range(100)]


def test_source_packages_are_held_out_whole():
    pairs, trained, asked = split(FOUND)
    assert len(asked) == 10
    assert len(trained) == 80
    held_out = {int(synopsis.split()[1]) // 2 for synopsis, _ in asked}
    trained = {int(text.split()[1]) // 2 for pair in pairs for text in pair}
    assert not held_out & trained
    assert len(held_out | trained) == 50
    assert ("synopsis 0", "first 0") in pairs or 0 in held_out
    assert len(pairs) == 2 * 2 * 40


def test_a_batch_has_descriptions_beside_pairs_of_sentences():
    pairs, trained, _ = split(FOUND)
    run = replace(RUNS["descriptions"], batch_size=60)
    texts = sentence_pairs.batch(run, 3, pairs, trained)
    assert len(texts) == 60
    assert (
        texts == sentence_pairs.batch(run, 3, pairs, trained) != sentence_pairs.batch(run, 4, pairs, trained)
    )
    parts = {(d.synopsis, sentence_pairs.part(d, first)) for d in trained for first in (0, 1)}
    assert 30 < sum(pair in parts for pair in texts) < 55
    assert set(texts) <= parts | set(pairs)


def test_recalls_count_ties_as_misses():
    assert recalls(np.eye(20)) == {"R@1": 100.0, "R@10": 100.0}
    assert recalls(np.ones((20, 20))) == {"R@1": 0.0, "R@10": 0.0}


def test_tfidf_finds_what_shares_rare_words():
    asked = [("a red cat", "the cat that is red"), ("a blue dog", "the dog that is blue")]
    trained = ["a the that is", "a the that is", "red", "blue", "cat", "dog"]
    assert tfidf(trained, asked, words)["R@1"] == 100.0
    assert tfidf(trained, asked, letters)["R@1"] == 100.0
    assert tfidf(["nothing"], asked, words)["R@1"] == 0.0
    assert letters("ab") == [" ", "a", "b", " ", " a", "ab", "b ", " ab", "ab "]


@pytest.mark.slow
def test_a_run_of_a_few_steps(monkeypatch):
    monkeypatch.setattr(sentence_pairs, "EVERY", 2)
    pairs, trained, asked = split(FOUND)
    found = sentence_pairs.train(replace(RUNS["word-2e-3"], steps=4), pairs * 2, trained, asked)
    assert found["measured"].keys() == {2, 4}
    assert found["measured"][4].keys() == {"R@1", "R@10", "loss"}
    assert found["seconds"] > 0


def test_table():
    rows = [
        {"title": "words", "steps": 500, "of": 1500},
        {
            "title": "words",
            "learning_rate": 2e-3,
            "steps": 1500,
            "of": 1500,
            "seconds": 700.4,
            "loss": 2.9,
            "R@1": 33.5,
            "R@10": 60.6,
        },
        {"title": "chance", "steps": 0, "R@1": 0.1, "R@10": 1.0},
    ]
    assert table(rows).splitlines()[2:] == [
        "| words | 0.002 | 1500 | 700 | 2.90 | 33.5 | 60.6 |",
        "| chance |  |  |  |  | 0.1 | 1.0 |",
    ]
