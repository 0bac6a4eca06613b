import json

import pytest

from clippo.bench.record import OUT_OF_TIME, Record, count_not_run
from clippo.results import write_results

PLAN = [{"test": "test_op", "name": name, "case": f"test_op[{name}]"} for name in ("clippo", "peer", "flex")]
ROW = {"test": "test_op", "group": "a", "name": "clippo", "median_us": 1.0}


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "results.json"
    write_results(path, {"device": "a GPU"}, [])
    record = Record(path)
    record.plan(PLAN)
    return record


def test_the_file_says_the_truth_after_every_step(record):
    def reasons():
        return [row["not_run"] for row in json.loads(record.path.read_text())["not_run"]]

    assert reasons() == [OUT_OF_TIME] * 3
    record.begin("test_op[clippo]")
    assert reasons() == ["the process ended while it ran", OUT_OF_TIME, OUT_OF_TIME]
    record.keep("test_op[clippo]", ROW)
    assert reasons() == [OUT_OF_TIME] * 2
    record.begin("test_op[peer]")
    record.not_run_because("test_op[peer]", "out of memory")
    assert reasons() == ["out of memory", OUT_OF_TIME]
    written = json.loads(record.path.read_text())
    assert written["rows"] == [ROW | {"case": "test_op[clippo]"}]
    assert written["provenance"] == {"device": "a GPU"}
    assert [*record.path.parent.iterdir()] == [record.path]


def test_a_file_is_gone_on_with(record):
    record.keep("test_op[clippo]", ROW)
    record.not_run_because("test_op[peer]", "out of memory")
    record.begin("test_op[flex]")
    again = Record(record.path)
    assert again.cases == record.cases
    assert all(again.is_done(row["case"]) for row in PLAN)
    assert again.num_done == 3
    again.stopped(OUT_OF_TIME)
    assert not again.is_done("test_op[flex]")
    assert not again.is_done("test_op[of another section]")


def test_tests_have_a_list_of_their_own(record):
    record.plan([{"op": "attention", "case": "test_a"}, {"op": "attention", "case": "test_b"}])
    record.keep("test_a", {"outcome": "passed"})
    assert Record(record.path).tests == [
        {"op": "attention", "case": "test_b", "not_run": OUT_OF_TIME},
        {"op": "attention", "case": "test_a", "outcome": "passed"},
    ]
    assert record.rows == []
    assert len(record.not_run) == 3


def test_cases_that_did_not_run_are_counted_by_their_reason():
    rows = [row | {"not_run": "no such package"} for row in PLAN]
    assert count_not_run([*rows, rows[1]]) == [
        {"test": "test_op", "name": name, "not_run": "no such package", "cases": cases}
        for name, cases in (("clippo", 1), ("peer", 2), ("flex", 1))
    ]
