import numpy as np
import pytest

from clippo.errors import UserError
from clippo.evaluation.bitext import Bitext, BitextConfig, Translation, drawn, first_is_own, script_of


def built(texts, **settings):
    return BitextConfig(path=str(texts), **settings).build(None, None, 64)


def test_articles_and_synopses_are_paired_with_their_english(texts):
    evaluator = built(texts)
    assert set(evaluator.pairs) == {"fra", "rus", "ukr"}  # "short" has one article
    assert all(len(own) == 30 for own in evaluator.pairs.values())
    assert evaluator.scripts == {"Latn": ["fra"], "Cyrl": ["rus", "ukr"]}
    packages = built(texts, data="packages", max_pairs=50).pairs
    assert {code: len(own) for code, own in packages.items()} == {"de": 50}
    assert all(other == english.replace("tool", "Werkzeug") for english, other in packages["de"])


def test_some_languages_of_a_script_are_measured(texts):
    one = built(texts, languages_per_script=1).pairs
    assert "fra" in one
    assert len(one) == 2
    assert set(built(texts, languages_per_script=0).pairs) == {"fra", "rus", "ukr"}
    assert one == built(texts, languages_per_script=1).pairs


def test_a_model_that_knows_nothing_scores_chance(texts, ignorant):
    metrics = built(texts)(ignorant)
    for name in ("mean", "Cyrl/mean", "Cyrl/rus", "Latn/fra"):
        assert metrics[f"{name}/chance/R@1"] == pytest.approx(100 / 30)
        for direction in ("from_english", "to_english"):
            assert (
                metrics[f"{name}/{direction}/R@1"].low <= 100 / 30 <= metrics[f"{name}/{direction}/R@1"].high
            )


def test_a_model_that_knows_all_scores_100_and_a_constant_one_0(texts, knowing):
    evaluator = built(texts)
    given = dict(zip(evaluator.english, np.eye(30), strict=True))
    given |= {other: given[english] for own in evaluator.pairs.values() for english, other in own}
    right = evaluator(knowing(given))
    assert all(value == 100 for name, value in right.items() if "chance" not in name)
    wrong = evaluator(knowing(dict.fromkeys(given, np.full(30, 30**-0.5))))
    assert all(value == 0 for name, value in wrong.items() if "chance" not in name)


def test_means_are_over_all_texts(knowing):
    """Of four texts one is found in one language, and of two both in the other."""
    pairs = {
        "aa": [Translation(f"e{i}", f"a{i}") for i in range(4)],
        "bb": [Translation(f"e{i}", f"b{i}") for i in range(2)],
    }
    axes = np.eye(5)
    given = {f"e{i}": axes[i] for i in range(4)} | {f"b{i}": axes[i] for i in range(2)}
    given |= {"a0": axes[0], "a1": axes[4], "a2": axes[4], "a3": axes[4]}
    metrics = Bitext(pairs)(knowing(given))
    assert metrics["Latn/aa/to_english/R@1"] == metrics["Latn/aa/from_english/R@1"] == 25
    assert metrics["Latn/bb/to_english/R@1"] == 100
    assert metrics["mean/to_english/R@1"] == metrics["Latn/mean/to_english/R@1"] == 50
    assert metrics["mean/chance/R@1"] == pytest.approx((4 * 25 + 2 * 50) / 6)
    assert metrics["mean/to_english/R@1"].low < 50 < metrics["mean/to_english/R@1"].high


def test_what_ties_or_is_not_a_number_is_not_found():
    similarity = np.array([[0.5, 0.4, 0.1], [0.2, 0.2, 0.1], [0.0, 0.9, 0.8]])
    assert first_is_own(similarity).tolist() == [True, False, False]
    rng = np.random.default_rng(0)
    similarity = rng.normal(size=(50, 50)) + 2 * np.eye(50)
    assert first_is_own(similarity).tolist() == (similarity.argmax(1) == np.arange(50)).tolist()
    similarity[3, 7] = similarity[5, 5] = np.nan
    assert not first_is_own(similarity)[[3, 5]].any()
    assert first_is_own(np.ones((1, 1))).tolist() == [True]


def test_no_text_is_twice_in_a_language():
    pairs = [Translation("a", "x"), Translation("a", "y"), Translation("b", "x"), Translation("c", "c")]
    pairs += [Translation("d", "z")]
    kept = drawn("xx", pairs, 10)
    assert len({english for english, _ in kept}) == len({other for _, other in kept}) == len(kept)
    assert Translation("d", "z") in kept
    assert Translation("c", "c") not in kept
    assert len(drawn("xx", pairs, 1)) == 1


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Все люди ABC", "Cyrl"), ("すべての人間", "Hira"), ("人人生而自由", "Hani"), ("ᓱᓕ", "Cans"),
        ("1, 2", "Zyyy"),
    ],
)  # fmt: skip
def test_the_script_is_that_of_most_letters(text, code):
    assert script_of([text]) == code


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "bible"}, "data must be rights or packages, got 'bible'"),
        ({"languages_per_script": -1}, "languages_per_script must be at least 0, got -1"),
        ({"max_pairs": 5}, "max_pairs must be at least 20, got 5"),
    ],
)
def test_bad_settings_get_one_message(settings, message):
    with pytest.raises(UserError, match=message):
        BitextConfig(**settings)


def test_texts_without_translations_get_one_message(tmp_path):
    (tmp_path / "rights.jsonl").write_text('{"code": "eng", "article": 1, "text": "All."}\n')
    with pytest.raises(UserError, match="no language in .* has 20 texts that are translated"):
        built(tmp_path)
    (tmp_path / "rights.jsonl").write_text('{"code": "deu", "article": 1, "text": "Alle."}\n')  # no English
    with pytest.raises(UserError, match="no language in .* has 20 texts that are translated"):
        built(tmp_path)
