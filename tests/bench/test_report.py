import json

from clippo.bench import report


def row(group, name, median_us, **numbers):
    row = {"test": "test_op", "group": group, "name": name, "median_us": median_us, "spread": 0.02}
    return row | {"share_of_roofline": 0.5} | numbers


def test_table_names_the_best_peer():
    rows = [
        row("a", "clippo", 100.0, share_of_roofline=0.876),
        row("a", "sdpa-flash", 130.0),
        row("a", "sdpa-cudnn", 125.0),
        row("a", "clippo-other-route", 50.0),
        row("b", "clippo", 7.0),
        row("c", "sdpa-flash", 1.0),
        row("d", "clippo", 3.0, test="test_other"),
    ]
    assert report.table(rows).splitlines()[2:] == [
        "| a | 100.0 ± 2% | 125.0 ± 2% | sdpa-cudnn | 1.25x | 88% |  |",
        "| b | 7.0 ± 2% |  | none ran |  | 50% | sdpa-flash, sdpa-cudnn |",
        "| d | 3.0 ± 2% |  | none ran |  | 50% |  |",
    ]


def test_table_names_peers_that_ran_nowhere():
    not_run = [{"test": "test_op", "name": "flash-attn", "not_run": "could not import 'flash_attn'"}] * 2
    assert report.table([row("a", "clippo", 1.0)], not_run).endswith(" | none ran |  | 50% | flash-attn |")


def test_rates_have_a_column_for_each_kind_of_text():
    rows = [
        row("Thai", "ours", 10.0, strings_per_s=12345),
        row("Hindi", "ours", 10.0, strings_per_s=6),
        row("Thai", "peer", 10.0, strings_per_s=7),
    ]
    assert report.rates_table(rows).splitlines() == [
        "| | Thai | Hindi |",
        "|---|--:|--:|",
        "| ours | 12,345 | 6 |",
        "| peer | 7 |  |",
    ]


def test_rows_keep_what_was_measured():
    benchmark = {
        "name": "test_op[clippo-256]",
        "group": "a",
        "extra_info": {"name": "clippo", "median_us": 123.456789, "batch": 256},
        "stats": {"rounds": 20, "iqr": 1e-6, "median": 1.23e-4},
    }
    other = {"name": "test_other", "group": "b", "extra_info": {}, "stats": {}}  # not of the kernels
    assert report.rows_of([benchmark, other]) == [
        {
            "test": "test_op",
            "group": "a",
            "name": "clippo",
            "median_us": 123.5,
            "batch": 256,
            "rounds": 20,
            "spread": 0.0081,
        }
    ]


def test_results_are_written_with_their_provenance(tmp_path):
    found = {"device": "NVIDIA H100 80GB HBM3", "date": "2026-01-02T03:04:05Z", "commit": "abc1234"}
    path = report.write(tmp_path, found, [row("a", "clippo", 1.0)])
    assert path == tmp_path / "nvidia-h100-80gb-hbm3" / "2026-01-02-abc1234.json"
    assert json.loads(path.read_text()) == {"provenance": found, "rows": [row("a", "clippo", 1.0)]}
    assert list(path.parent.iterdir()) == [path]


def test_command(monkeypatch, capsys, tmp_path):
    benchmark = {
        "name": "test_op[clippo]",
        "group": "a",
        "extra_info": {"name": "clippo", "median_us": 2.0, "share_of_roofline": 0.5},
        "stats": {"rounds": 7, "iqr": 1e-7, "median": 2e-6},
    }
    benchmarks = tmp_path / "benchmarks.json"
    benchmarks.write_text(json.dumps({"benchmarks": [benchmark]}))
    monkeypatch.setattr("sys.argv", ["report", str(benchmarks), "--out", str(tmp_path)])
    assert report.main() == 0
    (path,) = tmp_path.glob("*/*.json")
    assert f"written to {path}" in capsys.readouterr().out
    written = json.loads(path.read_text())
    assert written["rows"] == report.rows_of([benchmark])
    assert written["provenance"].keys() >= {"device", "torch", "triton", "commit", "date"}


def test_a_summary_has_a_line_for_each_benchmark():
    rows = [
        row("b", "alone", 2500.0),
        row("a", "clippo", 100.0),
        row("a", "sdpa", 130.0),
        row("b", "another", 1.0),
    ]
    assert report.summary(rows).splitlines()[2:] == [
        "| a: clippo | 0.1 ± 2% | 1.00x |",
        "| a: sdpa | 0.13 ± 2% | 1.30x |",
        "| b: alone | 2.5 ± 2% |  |",
        "| b: another | 0.001 ± 2% |  |",
    ]
