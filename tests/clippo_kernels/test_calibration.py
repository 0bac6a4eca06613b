"""The calibration of the model. The kernel is compiled in a process that does not interpret."""

import os
import subprocess
import sys

import pytest

CODE = """
from clippo_kernels import calibration, pipes
found = list(calibration.comparisons())
print(calibration.table(found))
assert abs(calibration.fitted_factor(found) / pipes.LATENCY_FACTOR - 1) < 0.03
assert all(abs(c.error) < 0.08 for c in found if c.head_dim == 64)
"""


@pytest.mark.long
def test_the_factor_in_use_is_the_one_that_was_fitted():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| 64 | 1,024 | 382 |" in done.stdout
