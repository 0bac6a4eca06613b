import subprocess
import sys

import pytest
import torch

from clippo.results import ROOT

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="it would measure for minutes")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@no_gpu
@pytest.mark.parametrize("op", ["attention", "patch_embed", "contrastive"])
@pytest.mark.parametrize("command", [["bench.gpu", "--only"], ["bench.tune"]], ids=" ".join)
def test_without_a_gpu_they_say_so(command, op):
    done = run(*command, op)
    assert done.returncode == 0
    assert "PyTorch finds no GPU here" in done.stdout
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("command", [["bench.gpu", "--only", "cats"], ["bench.tune", "cats"]])
def test_unknown_op(command):
    done = run(*command)
    assert done.returncode == 2
    for op in ("attention", "patch_embed", "contrastive"):
        assert op in done.stderr


@pytest.mark.long
@no_gpu
@pytest.mark.parametrize(
    ("suite", "one"),
    [
        ("bench/suites/bench_attention.py", "clippo and packed and 50 and both and B"),
        ("bench/suites/bench_patch_embed.py", "clippo and both and grey and 224"),
        ("bench/suites/bench_contrastive.py", "clippo and contrastive and both and 1024x512"),
    ],
)
def test_a_benchmark_runs_on_a_cpu(tmp_path, suite, one):
    done = run("pytest", "-q", suite, "-k", one, f"--benchmark-json={tmp_path / 'benchmarks.json'}")
    assert done.returncode == 0, done.stdout
    assert '"share_of_roofline"' in (tmp_path / "benchmarks.json").read_text()
