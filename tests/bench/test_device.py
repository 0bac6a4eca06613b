from types import SimpleNamespace

import pytest
import torch

from clippo.bench.device import StateQuery, sized

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="its nvidia-smi answers")


@pytest.fixture
def nvidia_smi(monkeypatch, tmp_path):
    """Puts a program in the place of nvidia-smi."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1-2"))

    def install(script):
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)

    return install


@pytest.mark.parametrize(
    ("script", "state"),
    [
        ("echo 1755, 512.25, 61", (1755, 512.25, 61)),
        ("echo 1755, [N/A], 61", (1755, None, 61)),
        ("echo No devices were found; exit 6", (None, None, None)),
        ('test "$3" = --id=GPU-1-2 && echo 1, 2, 3', (1, 2, 3)),
    ],
)
def test_state_of_a_gpu(nvidia_smi, script, state):
    nvidia_smi(script)
    keys = ("sm_clock_mhz", "power_w", "temperature_c")
    assert StateQuery().read() == dict(zip(keys, state, strict=True))


@no_gpu
def test_no_tool_no_state(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert StateQuery().read() == {"sm_clock_mhz": None, "power_w": None, "temperature_c": None}


@no_gpu
def test_sizes():
    assert sized(gpu=1, cpu=2, rehearsal=3) == 2
