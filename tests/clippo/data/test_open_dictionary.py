"""The source of emoji and flags with all their names, on a dictionary that is drawn for it."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from clippo.data.convert import png
from clippo.data.fetch.dictionary import Entry, write
from clippo.data.open_dictionary import OpenDictionaryConfig
from clippo.errors import UserError
from clippo.files import write_manifest
from clippo.recipes import find_recipe
from clippo.results import read_results
from clippo.training.trainer import train

LANGUAGES = ("en", "de", "nb", "da")


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """A dictionary of 60 pictures with a name and two keywords in four languages, in the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "clippo" / "dictionary"
    folder.mkdir(parents=True)
    for name in ("emoji", "territories", "openmoji", "fluent", "stamps", "drawings"):
        entries = [
            Entry(
                str(number), "png", png(np.full((20, 30, 3), 8 * number, np.uint8)),
                {
                    code: [f"{code} {number}", f"{code} kind {number % 5}", f"thing {number}"]
                    for code in LANGUAGES
                },
            )
            for number in range(30)
        ]  # fmt: skip
        write(folder / f"{name}.tar", entries)
    write_manifest(folder, speakers={"en": 10_000, "de": 900, "nb": 100})
    return folder


def texts_of(split, **fields):
    source = OpenDictionaryConfig(**fields).build(split)
    return {source[i].key: source.described(i).texts for i in range(len(source))}


def test_what_is_held_out_is_trained_nowhere(drawn):
    train, held_out, every = (texts_of(split) for split in ("train", "held_out", "all"))
    assert train.keys() == every.keys()
    assert all(len(texts) == 12 for texts in every.values())
    trained = {text.text.casefold() for texts in train.values() for text in texts}
    kept_out = {text.text.casefold() for texts in held_out.values() for text in texts}
    assert not trained & kept_out
    names = {f"{code} {number}" for code in LANGUAGES for number in range(30)}
    assert kept_out <= names
    assert 4 <= len(kept_out) <= 24
    for key, texts in held_out.items():
        # Training does not see the keywords of a held-out name either.
        assert not {text.language for text in texts} & {text.language for text in train[key]}


def test_weights_are_shared_by_languages_and_then_by_names_and_keywords(drawn):
    for texts in texts_of("train", english_share=0.4).values():
        own = {code: [text.weight for text in texts if text.language == code] for code in LANGUAGES}
        assert sum(own["en"]) == pytest.approx(0.4 if own["en"] else 0)
        # The square roots of the numbers of speakers; of Danish none is known, which counts as 10,000.
        powers = {"de": 30, "nb": 10, "da": 100}
        powers = {code: power for code, power in powers.items() if own[code]}
        for code, power in powers.items():
            assert sum(own[code]) == pytest.approx(0.6 * power / sum(powers.values()))
        for weights in own.values():
            if len(weights) > 1:
                assert weights[0] == pytest.approx(sum(weights[1:]))


def test_a_process_gets_the_source_and_not_what_it_has_made(drawn):
    source = OpenDictionaryConfig().build("train")
    before = len(pickle.dumps(source))
    expected = source[3]
    assert len(pickle.dumps(source)) == before
    assert pickle.loads(pickle.dumps(source))[3].texts == expected.texts  # noqa: S301, made here


def test_fingerprints_differ_with_the_part_and_the_weights(drawn):
    configs = [OpenDictionaryConfig(), OpenDictionaryConfig(english_share=0.5)]
    found = {config.build(split).fingerprint for config in configs for split in ("train", "held_out", "all")}
    assert len(found) == 6


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no file emoji\.tar in .*: `clippo data fetch dictionary` makes it"):
        OpenDictionaryConfig(path=str(tmp_path)).build("train")
    (tmp_path / "emoji.tar").touch()
    with pytest.raises(UserError, match=r"no file manifest\.json in "):
        OpenDictionaryConfig(path=str(tmp_path)).build("train")
    with pytest.raises(UserError, match="english_share must be between 0 and 1, got 2"):
        OpenDictionaryConfig(english_share=2)


@pytest.mark.slow
def test_the_recipe_trains_and_measures_what_is_unseen(drawn, tmp_path):
    config = find_recipe("clippo_dictionary")()
    train(replace(config, steps=2, warmup_steps=1, batch_size=8, workers=0), tmp_path / "run")
    rows = read_results(tmp_path / "run" / "results.json").rows
    assert {row["evaluator"] for row in rows} >= {"openmoji", "fluent", "stamps", "drawings"}
