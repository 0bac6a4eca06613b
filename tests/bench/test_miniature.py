from clippo.bench.studies.miniature import table


def test_a_line_a_metric_and_a_column_a_model():
    rows = [
        {
            "model": "a",
            "evaluator": "vqa",
            "metric": "drawn",
            "value": 50.0,
            "low": 45.04,
            "high": 55.0,
            "guessing": 20.0,
        },
        {"model": "a", "evaluator": "vqa", "metric": "late", "value": 9.876},
        {"model": "b", "evaluator": "vqa", "metric": "drawn", "value": 25.0, "low": 20.0, "high": 30.0},
    ]
    assert table(rows).splitlines() == [
        "| | | a | b | guessing |",
        "|---|---|--:|--:|--:|",
        "| `vqa` | drawn | 50.0 (45.0-55.0) | 25.0 (20.0-30.0) | 20.0 |",
        "|  | late | 9.88 |  |  |",
    ]
