import json
from collections import Counter

import numpy as np
import pytest

from clippo.errors import UserError
from clippo.evaluation.text_tasks import FETCHED, TASKS, load_task
from clippo.evaluation.text_tasks.base import Part, part_of

PAIRS = ("is_a", "words_in_context", "relatedness")


@pytest.fixture(scope="module")
def tasks(texts):
    return {name: load_task(name, str(texts)) for name in FETCHED}


def rows(part):
    seconds = part.seconds or [""] * len(part)
    return list(zip(part.texts, seconds, part.labels.tolist(), strict=True))


@pytest.mark.parametrize("name", FETCHED)
def test_parts_have_examples_of_every_label_and_share_none(tasks, name):
    task = tasks[name]
    parts = [task.train, task.validation, *task.tests.values()]
    seen = [{(text, second) for text, second, _ in rows(part)} for part in parts]
    assert all(len(own) == len(part) > 0 for own, part in zip(seen, parts, strict=True))
    assert not set.intersection(seen[0], seen[1] | seen[2]) | seen[1] & seen[2]
    assert bool(task.train.seconds) == (name in PAIRS)
    if task.classes:
        assert set(task.train.labels.tolist()) == set(range(len(task.classes)))


def test_film_reviews_are_rated(tasks):
    """Ratings between -0.5 and 0.5 have no sentiment."""
    known = {text: score for part in (tasks["rating"].train,) for text, _, score in rows(part)}
    labels = {text: label for text, _, label in rows(tasks["sentiment"].train)}
    assert labels == {text: int(score > 0) for text, score in known.items() if abs(score) >= 0.5}
    assert len(labels) < len(known)
    assert tasks["domain"].classes == ("films", "tweets")


def test_articles_of_a_language_are_split_by_number(tasks):
    task = tasks["language"]
    assert task.classes == ("eng", "fra", "rus", "ukr")  # "short" lacks articles
    assert [len(part) // 4 for part in (task.train, task.validation, task.tests[""])] == [18, 2, 10]


def test_packages_of_a_source_are_in_one_part(tasks, texts):
    task = tasks["section"]
    assert len(task.classes) == 20
    assert not {"section20", "section21"} & set(task.classes)
    sources = {}
    for line in (texts / "packages.jsonl").read_text().splitlines():
        row = json.loads(line)
        sources[row["synopsis"]["en"]] = row["source"]
    own = [{sources[text] for text in part.texts} for part in (task.train, task.validation, task.tests[""])]
    assert not own[0] & own[1]
    assert not own[2] & (own[0] | own[1])


def test_definitions_have_the_classes_of_nouns(tasks):
    assert tasks["noun_class"].classes == ("animal", "food")
    assert "something like ddddd" not in tasks["noun_class"].train.texts


def test_half_of_the_is_a_pairs_are_true(tasks, texts):
    meanings = [json.loads(line) for line in (texts / "wordnet.jsonl").read_text().splitlines()]
    by_definition = {}
    for row in meanings:
        by_definition.setdefault(row["definition"], []).append(row)
    first = {row["id"]: row["words"][0] for row in meanings}
    for part in (tasks["is_a"].train, tasks["is_a"].tests[""]):
        for definition, word, label in rows(part):
            own = by_definition[definition]
            assert label == any(first[wider] == word for row in own for wider in row["kind_of"])
            assert len({part_of(word), *(part_of(row["words"][0]) for row in own)}) == 1
        assert part.labels.mean() == pytest.approx(0.5, abs=0.1)
    wider = {row["words"][0]: [first[target] for target in row["kind_of"]] for row in meanings[:400]}
    false = [(definition, word) for definition, word, label in rows(tasks["is_a"].train) if not label]
    reverse = sum(any(name in definition for name in wider[word]) for definition, word in false)
    assert 0 < reverse < len(false)


def test_words_in_context_are_balanced_word_by_word(tasks):
    for part in (tasks["words_in_context"].train, tasks["words_in_context"].tests[""]):
        counts = Counter((text.partition(":")[0], label) for text, _, label in rows(part))
        assert all(counts[word, 0] == counts[word, 1] for word, _ in counts)
        for text, second, label in rows(part):
            word, first = text.split(": ")
            assert word[:-1] in first  # with another ending, maybe
            assert word[:-1] in second
            assert label == ("other" not in first + second)


def test_related_words_are_synonyms_or_siblings(tasks):
    known = Counter(tasks["relatedness"].train.labels.tolist())
    assert set(known) == {0.0, 1.0, 2.0}
    synonyms = [(a, b) for a, b, score in rows(tasks["relatedness"].train) if score == 2]
    assert all(b == f"{a}y" for a, b in synonyms)


def test_a_part_is_drawn_from_and_a_pair_is_one_input():
    part = Part(tuple("abcdefgh"), tuple("ABCDEFGH"), np.arange(8))
    few = part.drawn(3, "x")
    assert len(few) == 3
    assert rows(few) == [row for row in rows(part) if row[0] in few.texts]
    assert rows(few) == rows(part.drawn(3, "x")) != rows(part.drawn(3, "y"))
    assert rows(part.drawn(100, "x")) == rows(part)
    assert part.inputs[:2] == ["a [SEP] A", "b [SEP] B"]


def test_the_fingerprint_is_that_of_texts_labels_and_prompts(tasks):
    task = tasks["sentiment"]
    assert task.fingerprint != task.capped(10, 10).fingerprint
    assert task.fingerprint == task.capped(10**6, 10**6).fingerprint
    assert len({task.fingerprint for task in tasks.values()}) == len(tasks)


def test_bad_data_get_one_message(tmp_path):
    with pytest.raises(UserError, match=f"task must be one of {', '.join(TASKS)}; got 'x'"):
        load_task("x")
    with pytest.raises(UserError, match=r"there is no file .*ratings.jsonl: `clippo data fetch texts`"):
        load_task("sentiment", str(tmp_path))
    file = tmp_path / "ratings.jsonl"
    file.write_text('{"text": "a", "rating": 1, "domain": "films"}\n')
    with pytest.raises(UserError, match="the task sentiment has no example in its .* part"):
        load_task("sentiment", str(tmp_path))
    file.write_text('{"text": "a", "rating": 1, "domain": "films"}\n{"text": "b"}\n')
    with pytest.raises(UserError, match="ratings.jsonl, line 2 has no field 'rating'"):
        load_task("rating", str(tmp_path))
    for line in ("{", "3"):
        file.write_text(f"{line}\n")
        with pytest.raises(UserError, match="ratings.jsonl, line 1 is not a row of JSON"):
            load_task("rating", str(tmp_path))
