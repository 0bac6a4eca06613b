import json
from dataclasses import replace
from functools import partial

import pytest

from clippo.bench.studies import claims, claims_report
from clippo.bench.studies.claims import CLAIMS, MIXTURES, RUNS
from clippo.evaluation.suites import find_suite
from clippo.results import read_results, write_results


def row(run, evaluator, metric, value, **more):
    about = {"run": run, "seed": 0, "steps": 450, "seconds": 60, "evaluator": evaluator, "metric": metric}
    return about | {"value": value, "low": value - 1, "high": value + 1, "guessing": 10.0} | more


def rows_of_all():
    rows = []
    for run in MIXTURES:
        rows += [row(run, *claims_report.IMAGES, 20.0, seed=seed) for seed in RUNS[run].seeds]
        rows += [row(run, *claims_report.SENTENCES, 30.0, seed=seed) for seed in RUNS[run].seeds]
        rows += [row(run, "vqa", f"{reader}/all", 40.0) for reader in claims_report.READERS]
        rows += [row(run, "modality_gap", metric, 0.5) for metric in claims_report.GAPS]
        rows += [
            row(run, "robustness", f"{change}/difference/R@10", -9.0) for change in claims_report.CHANGES
        ]
        rows += [row(run, "similarity", f"{method}/spearman", 50.0) for method in ("cosine", "n-grams")]
    for run in ("languages-pixels", "languages-bytes"):
        rows += [row(run, "held_out", f"{name}/text_to_image/R@10", 20.0) for name in ("mean", "en", "ka")]
        rows += [row(run, "unseen_languages", "th/text_to_image/R@10", 10.0)]
        rows += [row(run, part, "chance/R@10", 1.0) for part in ("held_out", "unseen_languages")]
    for run in MIXTURES:
        for task, _ in claims_report.PROBES:
            for method in ("probe", "zero_shot", "10_shot", "n-grams", "n-grams_10_shot"):
                rows += [row(run, task, f"{method}/accuracy", 60.0, seed=seed) for seed in RUNS[run].seeds]
    return rows


def test_claims_name_runs_and_evaluators(tmp_path):
    known = find_suite("claims", tmp_path)
    assert {name for claim in CLAIMS.values() for name in claim.evaluators} == known.keys()
    assert {name for claim in CLAIMS.values() for name in claim.runs} == RUNS.keys()


def test_tables_have_a_column_a_header():
    names = {"en": "English", "ka": "Georgian", "th": "Thai"}
    for table in (*claims_report.TABLES, partial(claims_report.languages, names=names)):
        lines = table(rows_of_all()).splitlines()
        assert len({line.count("|") for line in lines}) == 1
        assert len(lines) > 3


def test_a_value_has_the_spread_of_its_seeds_or_else_its_interval():
    line = next(line for line in claims_report.mixtures(rows_of_all()).splitlines() if "25 %" in line)
    assert line == "| 25 % sentences | 450 | 20.0 (19.0-21.0) | 30.0 (29.0-31.0) | 60.0 | 50.0 (49.0-51.0) |"
    seeds = [row("a", "b", "c", value) for value in (1.0, 2.0, 6.0)]
    assert claims_report.cell(seeds) == "3.0 [1.0-6.0]"
    assert claims_report.cell([{"value": 0.125, "low": 0.1, "high": 0.2}]) == "0.12 (0.10-0.20)"
    assert claims_report.cell([]) == ""


@pytest.mark.slow
def test_the_picture_has_every_mixture():
    assert claims_report.trade_off(rows_of_all()).size == (900, 500)


@pytest.mark.long
def test_a_run_is_trained_and_measured_once(tmp_path, monkeypatch):
    flags = f"{RUNS['untrained'].flags} --batch-size 4"
    monkeypatch.setitem(RUNS, "untrained", replace(RUNS["untrained"], flags=flags))
    folder = tmp_path / "untrained-0"
    claims.train("untrained", 0, folder)
    claims.measure("modality_gap", [folder])
    file = folder / "claims" / "modality_gap.json"
    first = file.read_bytes()
    claims.measure("modality_gap", [folder])
    assert file.read_bytes() == first
    rows = claims.rows_of("untrained", 0, folder)
    assert {(row["run"], row["seed"], row["steps"]) for row in rows} == {("untrained", 0, 1)}
    assert {row["evaluator"] for row in rows} == {"modality_gap", "images", "sentences"}
    assert read_results(file).rows[0].items() <= rows[0].items()


def test_recalls_of_a_recipe_are_kept(tmp_path):
    metrics = ("en/text_to_image/R@10", "en/text_to_image/R@1", "en/image_to_text/R@10", "en/chance/R@10")
    rows = [{"evaluator": "held_out", "metric": metric, "value": 5.0} for metric in metrics]
    write_results(tmp_path / "results.json", {}, rows)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 7, "elapsed_s": 2.6}) + "\n")
    about = {"run": "languages-bytes", "seed": 1, "steps": 7, "seconds": 3}
    found = claims.rows_of("languages-bytes", 1, tmp_path)
    assert found == [about | rows[0], about | rows[3]]
