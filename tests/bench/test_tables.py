"""The tables of README.md and docs are the results in bench/results."""

import re
import shutil

import pytest

from clippo.bench import tables
from clippo.bench.tables import (
    TABLES,
    data_rates,
    dictionary_languages,
    dictionary_unseen,
    emoji_recalls,
    emoji_recalls_of_seeds,
    pairs_of_sentences,
    rewrite,
)
from clippo.results import ROOT, write_results

LANGUAGES = ("en", "de", "es", "fr", "zh")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A copy of the pages and of the results."""
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("img"))
    shutil.copytree(ROOT / "bench" / "results", tmp_path / "bench" / "results")
    shutil.copytree(ROOT / "model" / "pretrained", tmp_path / "model" / "pretrained")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    return tmp_path


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["tables", *arguments])
    return tables.main()


def emoji_rows(candidates: dict[str, int]) -> list[dict]:
    """Recalls that tell by their digits which language, k, seed, evaluator and direction they are of."""
    rows = []
    for digit, (evaluator, count) in enumerate(candidates.items()):
        values = {"chance/R@1": [100 / count] * 3}
        for number, language in enumerate(LANGUAGES):
            for k in (1, 5, 10):
                recalls = [10 * number + k + seed + digit / 10 for seed in (2, 0, 1)]
                values[f"{language}/text_to_image/R@{k}"] = recalls
                values[f"{language}/image_to_text/R@{k}"] = [recall + 0.5 for recall in recalls]
        about = {"recipe": "emoji", "seeds": [0, 1, 2], "evaluator": evaluator}
        rows += [about | {"metric": metric, "values": numbers} for metric, numbers in values.items()]
        rows.append(about | {"recipe": "another", "metric": "en/text_to_image/R@1", "values": [99.0]})
    return rows


EMOJI_ROWS = emoji_rows({"trained": 3158, "held_out": 318, "held_out_among_all": 3476})


def test_the_pages_show_the_results(monkeypatch, capsys):
    assert run(monkeypatch, "--check") == 0, capsys.readouterr().out


def test_an_edited_number_fails_the_check_and_is_put_right(checkout, monkeypatch, capsys):
    page = checkout / "docs" / "rendering.md"
    right = page.read_text()
    edited, count = re.subn(r"(`UnifontRenderer` \| )[\d,]+", r"\g<1>122,271", right, count=1)
    assert count == 1
    page.write_text(edited)
    assert run(monkeypatch, "--check") == 1
    assert "docs/rendering.md: strings_per_second\n" in capsys.readouterr().out
    assert "122,271" in page.read_text()
    assert run(monkeypatch) == 0
    assert page.read_text() == right
    assert run(monkeypatch, "--check") == 0


def test_new_results_need_a_new_name_alone(checkout, monkeypatch, capsys):
    write_results(
        checkout / "bench" / "results" / "new.json",
        {"device": "a new machine", "date": "2027-01-02T03:04:05Z"},
        [
            {"group": f"training step, {canvas} px{half}", "name": name, "pairs_per_s": rate}
            for canvas in (64, 96, 128, 160)
            for half in ("", ", half of each photograph")
            for name, rate in (("all", 100), ("inked", 250))
        ],
    )
    monkeypatch.setitem(TABLES, "training_steps", tables.Table("new.json", tables.training_steps))
    assert run(monkeypatch, "--check") == 1
    assert capsys.readouterr().out.startswith("docs/model.md: training_steps\n")
    assert run(monkeypatch) == 0
    text = (checkout / "docs" / "model.md").read_text()
    assert "| inked | 250 (2.50x) | 250 (2.50x) | 250 (2.50x) | 250 (2.50x) |" in text
    assert "(a new machine, 2027-01-02: [figures and versions](../bench/results/new.json))" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: cats -->\n<!-- end -->\n", "expected one of the tables .*, got 'cats'"),
        ("<!-- table: training_steps -->\n", "got 1 of the first and 0 of the second"),
        ("<!-- end -->\n", "got 0 of the first and 1 of the second"),
        (
            "<!-- table: training_steps --> <!-- end -->\n",
            "got 1 of the first and 1 of the second, 0 of them",
        ),
        (
            "<!-- table: training_steps -->\n<!-- table: training_steps -->\n<!-- end -->\n<!-- end -->\n",
            "got 2 of the first and 2 of the second, 1 of them in pairs",
        ),
    ],
)
def test_marks_that_do_not_fit_are_named_with_their_page(text, message):
    with pytest.raises(ValueError, match=f"README.md: .*{message}"):
        rewrite(text, ROOT / "README.md")


def test_recalls_of_the_emoji_recipe():
    assert emoji_recalls(EMOJI_ROWS).splitlines() == [
        "| language | trained, among 3,158: R@1 | R@10 | held out, among 318: R@1 | R@10"
        " | held out, among all 3,476: R@1 | R@10 |",
        "|---|--:|--:|--:|--:|--:|--:|",
        "| English | 2.0 | 11.0 | 2.1 | 11.1 | 2.2 | 11.2 |",
        "| German | 12.0 | 21.0 | 12.1 | 21.1 | 12.2 | 21.2 |",
        "| Spanish | 22.0 | 31.0 | 22.1 | 31.1 | 22.2 | 31.2 |",
        "| French | 32.0 | 41.0 | 32.1 | 41.1 | 32.2 | 41.2 |",
        "| Chinese | 42.0 | 51.0 | 42.1 | 51.1 | 42.2 | 51.2 |",
        "| *chance* | *0.03* | *0.32* | *0.31* | *3.14* | *0.03* | *0.29* |",
    ]


def test_recalls_of_the_seeds_of_the_emoji_recipe():
    lines = emoji_recalls_of_seeds(EMOJI_ROWS, "held_out").splitlines()
    assert lines[0] == (
        "**Held-out compositions among the 318 held-out ones** (chance: R@1 0.31, R@5 1.57, R@10 3.14 %)"
    )
    assert lines[2:5] == [
        "| language | text->image R@1 | R@5 | R@10 | image->text R@1 | R@5 | R@10 |",
        "|---|--:|--:|--:|--:|--:|--:|",
        "| English | 2.1 (1.1-3.1) | 6.1 (5.1-7.1) | 11.1 (10.1-12.1)"
        " | 2.6 (1.6-3.6) | 6.6 (5.6-7.6) | 11.6 (10.6-12.6) |",
    ]
    assert len(lines) == 4 + len(LANGUAGES)


def test_tables_of_the_emoji_recipe_can_be_placed(checkout):
    results = checkout / "bench" / "results" / tables.EMOJI
    write_results(results, {"device": "AMD EPYC", "date": "2027-01-02T03:04:05Z"}, EMOJI_ROWS)
    names = ["emoji_recalls", "emoji_trained", "emoji_held_out", "emoji_held_out_among_all"]
    text = "".join(f"<!-- table: {name} -->\n<!-- end -->\n" for name in names)
    written, outdated = rewrite(text, checkout / "docs" / "training.md")
    assert outdated == names
    assert f"[figures and versions](../bench/results/{tables.EMOJI})" in written
    assert "**Trained concepts among the 3,158 trained ones**" in written
    assert "**Held-out compositions among all 3,476 concepts**" in written
    assert rewrite(written, checkout / "docs" / "training.md") == (written, [])


def test_rates_of_data_are_compared_within_their_group():
    rows = [
        {"group": "read", "name": "clippo", "per_s": 80_000},
        {"group": "read", "name": "webdataset", "per_s": 10_000},
        {"group": "decode", "name": "clippo", "per_s": 500, "difference": 1.09},
        {"group": "decode", "name": "pillow", "per_s": 250},
        {"group": "order", "name": "clippo, of 10", "per_s": 10},
    ]
    assert data_rates(rows).splitlines()[2:] == [
        "| read pairs from tars in random order, one core: clippo | 80,000 | 8.0 |  |",
        "| read pairs from tars in random order, one core: webdataset | 10,000 | 1.0 |  |",
        "| decode a JPEG of 640 x 480 px and resize it to 224, one core: clippo | 500 | 2.0 | 1.09 |",
        "| decode a JPEG of 640 x 480 px and resize it to 224, one core: pillow | 250 | 1.0 |  |",
        "| order of examples, one core: clippo, of 10 | 10 |  |  |",
    ]


def test_pairs_of_sentences_are_compared_with_pictures():
    ratio = {"ratio": 1.25, "ratio_low": 1.2, "ratio_high": 1.3}
    counted = {
        "patches": 28.31, "flops_ratio": 1.176, "b16_inked_patches": 157.0, "b16_inked_flops_ratio": 0.661
    }  # fmt: skip
    rows = [
        {"test": "test_pairs_of_sentences", "name": "half", **ratio, **counted},
        {"test": "test_pairs_of_sentences", "name": "half, within kinds", **ratio, **counted},
        {"test": "test_batch_of_sentences", "name": "half", **ratio, "ratio": 1.24},
        {"test": "test_dtype", "name": "all, torch.float32", "pairs_per_s": 100},
    ]
    assert pairs_of_sentences(rows).splitlines()[2:] == [
        "| half | 28.3 | 1.25 (1.20-1.30) | 1.18 | 1.24 (1.20-1.30) | 157 | 0.66 |",
        "| half, within kinds | 28.3 | 1.25 (1.20-1.30) | 1.18 |  | 157 | 0.66 |",
    ]


def test_the_dictionary_has_its_languages_and_their_chance():
    metrics = {
        "chance/R@10": [3.0], "mean/text_to_image/R@1": [1.0], "mean/text_to_image/R@10": [10.0],
        "en/chance/R@10": [2.0], "en/text_to_image/R@1": [20.0], "en/text_to_image/R@10": [40.0],
        "th/chance/R@10": [4.0], "th/text_to_image/R@1": [5.0], "th/text_to_image/R@10": [6.0],
    }  # fmt: skip
    evaluators = ("trained", "held_out", "unseen_languages", "unseen_style_openmoji", "unseen_style_fluent")
    rows = [
        {"recipe": "dictionary", "evaluator": evaluator, "metric": metric, "values": values}
        for evaluator in evaluators
        for metric, values in metrics.items()
        if evaluator != "unseen_languages" or metric.startswith("th")
    ]
    known = dictionary_languages(rows).splitlines()
    assert known[2] == "| mean of 2 and 2 languages | 1.0 | 10.0 | 3.0 | 1.0 | 10.0 | 3.0 |"
    assert known[3] == "| English | 20.0 | 40.0 | 2.0 | 20.0 | 40.0 | 2.0 |"
    assert dictionary_unseen(rows).splitlines()[2:4] == [
        "| Thai | 5.0 | 6.0 | 4.0 |",
        "| OpenMoji, English | 20.0 | 40.0 | 2.0 |",
    ]
