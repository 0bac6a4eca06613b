import numpy as np
import pytest

from clippo.evaluation.summary import chart, headlines, markdown, mean_of_runs


def row(evaluator, metric, value, **more):
    return {"evaluator": evaluator, "metric": metric, "value": value, **more}


def test_the_mean_of_runs_has_the_interval_of_student():
    scipy_stats = pytest.importorskip("scipy.stats")
    values = [[61.0, 5.0], [64.0, 5.0], [69.5, 5.0]]
    results = [[row("a", "x", x, guessing=1.0), row("a", "y", y)] for x, y in values]
    results[1].append(row("b", "z", 0.0))
    found = mean_of_runs(results)
    assert [(r["evaluator"], r["metric"]) for r in found] == [("a", "x"), ("a", "y")]
    own = np.array(values)[:, 0]
    expected = scipy_stats.t.interval(0.95, 2, loc=own.mean(), scale=scipy_stats.sem(own))
    assert (found[0]["low"], found[0]["high"]) == pytest.approx(expected, rel=1e-3)
    assert found[0]["deviation"] == pytest.approx(own.std(ddof=1))
    assert (found[1]["low"], found[1]["high"]) == (5, 5)
    assert markdown(found).splitlines()[2] == "| a | x | 64.8 | ± 4.3 of 3 runs | 1.0 |"


def test_headlines_are_what_an_evaluator_names_or_its_first_metric():
    rows = [
        row("a", "x", 1.0),
        row("a", "y", 2.0),
        row("a", "chance/y", 0.5),
        row("b", "z", 3.0),
        row("b", "w", 4.0),
    ]
    found = headlines(rows, {"a": {"y": "chance/y", "absent": ""}, "b": {}})
    assert found == [row("a", "y", 2.0, guessing=0.5), row("b", "z", 3.0)]


def test_a_chart_grows_with_its_rows():
    rows = [row("a", f"m{i}", 10.0 * i, low=1.0, high=99.0, guessing=5.0) for i in range(5)]
    few, many = chart(rows[:1], "title"), chart(rows, "title")
    assert many.height > few.height
    assert (np.asarray(many) == (207, 34, 46)).all(2).any()  # the red of guessing
    assert chart([row("a", "median_ratio/bytes", 2.0)], "none is a percentage").height > 0
