"""Processes that torchrun starts, on this machine, through gloo."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
SCRIPT = """
import sys
import torch
from clippo.errors import UserError
from clippo.training.parallel import DistributedContext

context = DistributedContext.from_environment()
with context.joined():
    context.check_alike(configuration="a", data="b")
    try:
        context.check_alike(configuration="a", data=str(context.rank), checkpoint=str(context.rank // 2))
        found = "nothing"
    except UserError as error:
        found = str(error)
    largest = context.maximum(torch.tensor(float(context.rank))).item()
with open(f"{sys.argv[1]}/{context.rank}", "w") as file:
    file.write(f"{found}|{largest}")
"""


def test_processes_that_differ_are_refused_on_all_of_them(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [*TORCHRUN, tmp_path / "script.py", tmp_path]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 0, run.stderr
    for rank in "01":
        found, largest = (tmp_path / rank).read_text().split("|")
        assert found == "all processes of a run must have the same data; rank 0 and rank 1 differ"
        assert largest == "1.0"
