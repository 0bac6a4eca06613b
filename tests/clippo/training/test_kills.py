"""A run survives whatever its disk does, and SIGKILL, at each call that changes its folder.

`dying.py` runs it, with the library of `killer.c` between Python and the C library.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not shutil.which("cc") or platform.libc_ver()[0] != "glibc", reason="there is no compiler or no glibc"
    ),
]

FAILURES = {
    "fails once": "No space left on device",
    "full from then on": "No space left on device",
    "read-only from then on": "Read-only file system",
}
FIRST_STEPS = {"start": {0}, "save": {2, 4}, "resume": {2}}  # of a run that goes on


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("kills")
    library = folder / "killer.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, HERE / "killer.c", "-ldl"], check=True)
    environment = os.environ | {
        "LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, HERE / "dying.py", folder, folder / "out.json"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads((folder / "out.json").read_text())["outcomes"]


def of(outcomes: list[dict], way: str, window: str) -> list[dict]:
    found = [outcome for outcome in outcomes if (outcome["way"], outcome["window"]) == (way, window)]
    assert any(outcome["call"].startswith("rename") for outcome in found)
    return found


@pytest.mark.parametrize("window", FIRST_STEPS)
@pytest.mark.parametrize("way", ["killed", *FAILURES])
def test_a_run_goes_on_from_its_newest_checkpoint_bit_for_bit(outcomes, way, window):
    for outcome in of(outcomes, way, window):
        ended, resumed = outcome["ended"], outcome["resumed"]
        assert (ended is None) == (way == "killed"), outcome
        assert resumed["error"] is None, outcome
        assert not resumed["warnings"], outcome  # no checkpoint is damaged
        assert not outcome["differing"], outcome  # nor is anything left behind
        is_finished = ended is not None and ended["error"] is None  # the failure did no harm
        assert resumed["first_step"] in ({6} if is_finished else FIRST_STEPS[window]), outcome


def test_a_checkpoint_counts_from_its_rename_on(outcomes):
    """And no earlier one is removed before."""
    steps = [
        (outcome["call"], outcome["resumed"]["first_step"]) for outcome in of(outcomes, "killed", "save")
    ]
    renamed = steps.index(("rename /checkpoints/unfinished-step-000004", 2))
    assert {step for _, step in steps[: renamed + 1]} == {2}
    assert {step for _, step in steps[renamed + 1 :]} == {4}


@pytest.mark.parametrize("way", FAILURES)
@pytest.mark.parametrize("window", FIRST_STEPS)
def test_a_failing_disk_ends_a_run_with_one_error(outcomes, way, window):
    errors = [(outcome, outcome["ended"]["error"]) for outcome in of(outcomes, way, window)]
    for outcome, error in errors:
        if error is None:  # the folder that could not be made was there
            assert outcome["call"].startswith("mkdir"), outcome
            continue
        assert error.startswith("cannot write "), outcome
        assert "\n" not in error, outcome
        assert str(Path("kills0", "run")) in error, outcome
    named = [error for _, error in errors if error and FAILURES[way] in error]
    assert len(named) >= 0.9 * len(errors)  # PyTorch says "unexpected pos" of some writes that failed
