"""The device that benchmarks run on: where tensors live, how large problems are, and the state of a GPU.

With CLIPPO_BENCH_REHEARSAL set, the device is a feigned GPU (see rehearsal.py): everything goes the way of a
GPU, on tensors of the CPU, with kernels in Triton's interpreter and the smallest problems.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import ClassVar, TypeVar

import torch

from clippo.bench import rehearsal

__all__ = ["DEVICE", "ON_GPU", "StateQuery", "sized"]

T = TypeVar("T")

IS_REHEARSAL = rehearsal.VARIABLE in os.environ
if IS_REHEARSAL:
    rehearsal.install()
ON_GPU = torch.cuda.is_available()  # and not whether tensors are there
DEVICE = torch.device("cuda" if ON_GPU and not IS_REHEARSAL else "cpu")


def sized(gpu: T, cpu: T, rehearsal: T) -> T:
    """The one of three values that is meant for this device."""
    if IS_REHEARSAL:
        return rehearsal
    return gpu if ON_GPU else cpu


class StateQuery:
    """Asks nvidia-smi for the state of the GPU, while the GPU goes on with what it does.

    `read` waits for the answer, which describes the moment in between.
    """

    fields: ClassVar = {
        "clocks.sm": "sm_clock_mhz",
        "power.draw": "power_w",
        "temperature.gpu": "temperature_c",
    }

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        if shutil.which("nvidia-smi"):
            uuid = torch.cuda.get_device_properties(0).uuid
            query = f"--query-gpu={','.join(self.fields)}"
            self.process = subprocess.Popen(
                ["nvidia-smi", query, "--format=csv,noheader,nounits", f"--id=GPU-{uuid}"],
                text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip

    def read(self) -> dict[str, float | None]:
        """Clock of the SMs in MHz, power in W and temperature in degrees Celsius; None if not known."""
        answer = ""
        if self.process is not None:
            try:
                answer, _ = self.process.communicate(timeout=5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        values = [number(x) for x in answer.split(",")]
        values += [None] * len(self.fields)
        return dict(zip(self.fields.values(), values, strict=False))


def number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # such as "[N/A]"
        return None
