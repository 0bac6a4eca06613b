import json

import pytest

from clippo.bench.studies import compare_training
from clippo.bench.studies.compare_training import ALL, Run

TINY = (
    "--steps 3 --batch-size 16 --model.image-size 48 --model.width 16 --model.depth 1 --model.mlp-dim 16 "
    "--model.num-heads 1 --data.languages en de --workers 0"
).split()


@pytest.mark.long
def test_runs_what_it_compares_and_tabulates_it(tmp_path, monkeypatch, capsys):
    runs = [
        Run("all", [*TINY, *ALL]),
        Run("inked", TINY),
        Run("inked, as long", TINY, like="all"),
    ]
    monkeypatch.setattr(compare_training, "EXPERIMENTS", {"tokens": runs})
    monkeypatch.setattr(compare_training, "RESULTS", tmp_path / "results")
    arguments = ["compare", "tokens", "--seeds", "0", "--out", str(tmp_path / "runs")]
    monkeypatch.setattr("sys.argv", arguments)
    assert compare_training.main() == 0
    [file] = (tmp_path / "results").glob("*/*-training-tokens.json")
    rows = json.loads(file.read_text())["rows"]
    assert [row["name"] for row in rows] == ["all", "inked", "inked, as long"]
    assert [row["steps"] for row in rows[:2]] == [3, 3]
    assert rows[2]["steps"] == max(1, round(3 * rows[1]["pairs_per_s"] / rows[0]["pairs_per_s"]))
    assert rows[0]["command"].endswith("--model.text.tokens all")
    for row in rows:
        assert row["parameters"] == rows[0]["parameters"] > 1000
        assert 0 <= row["recall_en"][0] <= 100
    printed = capsys.readouterr()
    assert "| inked | 0.0" in printed.out
    assert "clippo train" in printed.err

    monkeypatch.setattr(compare_training, "EXPERIMENTS", {"tokens": runs[:2]})
    assert compare_training.main() == 0
    assert "clippo train" not in capsys.readouterr().err  # they are there already
