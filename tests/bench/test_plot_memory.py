import json

import pytest

from clippo.bench.report import RESULTS
from clippo.bench.studies import plot_memory


@pytest.mark.slow
def test_draws_what_was_measured(tmp_path, monkeypatch):
    results = max(path for path in RESULTS.glob("*/*.json") if "contrastive, both" in path.read_text())
    points = plot_memory.points(json.loads(results.read_text())["rows"])
    assert {"clippo", "explicit", "checkpointed"} <= points.keys()
    for pairs in points.values():
        assert [batch for batch, _ in pairs] == sorted(batch for batch, _ in pairs)
        assert all(mib > 0 for _, mib in pairs)
    out = tmp_path / "img" / "memory.png"
    monkeypatch.setattr("sys.argv", ["plot_memory", str(results), "--out", str(out)])
    assert plot_memory.main() == 0
    assert out.read_bytes().startswith(b"\x89PNG")
