"""The files that measurements are kept in."""

import json
import re
import subprocess
import sys

import pytest

from clippo import results
from clippo.results import Results, provenance, read_results, write_results

FOUND = {"device": "NVIDIA H100 80GB HBM3", "commit": "abc1234"}
ROWS = [{"name": "clippo", "median_us": 1.5}, {"name": "peer", "values": [1, None]}]


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "a" / "b" / "results.json"
    write_results(path, FOUND, ROWS)
    assert read_results(path) == Results(FOUND, ROWS)
    assert json.loads(path.read_text()) == {"provenance": FOUND, "rows": ROWS}
    assert [json.loads(line.rstrip(",")) for line in path.read_text().splitlines()[3:5]] == ROWS
    write_results(path, FOUND, [], not_run=ROWS)
    assert read_results(path) == Results(FOUND, [], {"not_run": ROWS})


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_results(path, FOUND, ROWS)

    def full_disk(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_results(path, FOUND, [])
    assert read_results(path).rows == ROWS
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not JSON",
        "[]",
        '{"rows": []}',
        '{"provenance": {}}',
        '{"provenance": [], "rows": []}',
        '{"provenance": {}, "rows": {}}',
        '{"provenance": {}, "rows": "none"}',
        '{"provenance": {}, "rows": [1]}',
    ],
)
def test_other_files_are_refused_by_name(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} does not hold results"):
        read_results(path)


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_results(tmp_path / "results.json")


def test_provenance_names_device_versions_commit_and_date():
    found = provenance(step=3)
    assert found.keys() >= {"device", "torch", "triton", "numpy", "commit", "date"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["date"])
    assert list(found)[-1] == "step"
    assert found["step"] == 3


def test_commit_says_whether_tracked_files_were_changed(tmp_path, monkeypatch):
    def git(*arguments: str) -> str:
        author = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        return subprocess.check_output(["git", *author, *arguments], cwd=tmp_path, text=True).strip()

    monkeypatch.setattr(results, "ROOT", tmp_path)
    git("init", "--quiet")
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "--quiet", "--message=first")
    git("tag", "v1")
    short = git("rev-parse", "--short", "HEAD")
    assert results.commit() == short
    (tmp_path / "untracked").write_text("a")
    assert results.commit() == short
    (tmp_path / "file").write_text("b")
    assert results.commit() == f"{short}-dirty"

    # An installed package lies in a folder of somebody else's checkout, whose commit is not ours.
    inside = tmp_path / "site-packages"
    inside.mkdir()
    monkeypatch.setattr(results, "ROOT", inside)
    assert results.commit() == "unknown"


def test_importing_it_needs_no_torch_and_no_renderer():
    code = "import sys, clippo.results; print(*{'torch', 'skia', 'clippo.renderer'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=results.ROOT, capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr


def test_driver_and_clocks(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert results.driver_and_clocks("0") == {}
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho '580.1, 345, 1980, 2619, 70.2, 700.0, [N/A]'\n")
    smi.chmod(0o755)
    found = results.driver_and_clocks("0")
    assert (found["driver"], found["max_sm_clock_mhz"], found["temperature_c"]) == ("580.1", "1980", "[N/A]")
    smi.write_text("#!/bin/sh\nexit 9\n")
    assert results.driver_and_clocks("0") == {}
