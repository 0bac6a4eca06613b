"""Contrastive losses of large batches: time and memory, against losses that hold the matrix and others.

    pytest bench/suites/bench_contrastive.py        on this machine; a CPU times the eager path
    python -m clippo.bench.gpu --only contrastive   on a GPU, with tests before and a table after

On a GPU: bfloat16, up to 262,144 pairs, time on the device. On a CPU: float32, up to 16,384 pairs. A peer is
left out where its matrices would not fit into memory. The FLOP are those of the least work, 2 B² D for the
forward and 8 B² D for forward and backward, whatever a contestant computes again; `share_of_roofline` is the
share of the rate of large products in the same run, and `peak_mib` the peak memory without the inputs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clippo.bench.device import DEVICE, ON_GPU, sized
from clippo.bench.harness import Work, measure, timed_on_device
from clippo.bench.peers.contrastive import UNRECORDED, losses, matrix_bytes
from clippo_kernels import sigmoid_loss

DTYPE = torch.bfloat16 if ON_GPU else torch.float32
BATCHES = sized(
    gpu=(32768, 4096, 16384, 65536, 1024, 262144), cpu=(1024, 2048, 4096, 8192, 16384), rehearsal=(24,)
)
SHAPES = [(B, 768) for B in BATCHES] + [
    (B, D) for D in (512, 1024) for B in sorted(BATCHES) if ON_GPU or B < 8192
]
PASSES = ("both", "forward")
LOSSES = losses()
COMPILED = {"explicit-compiled"}  # see conftest.py


def is_main(test: str, parameters: Mapping[str, Any]) -> bool:
    """Whether bench.gpu measures a benchmark among the first: the features of B/16, and the sigmoid loss."""
    return test == "test_sigmoid" or parameters["D"] == 768


def memory_bytes() -> int:
    if ON_GPU:
        return torch.cuda.get_device_properties(DEVICE).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def contrastive_work(B: int, D: int, which: str) -> Work:
    tensors, products = (4, 4) if which == "both" else (2, 1)
    return Work(tensors * B * D * DTYPE.itemsize, products * 2 * B * B * D)


def embeddings(B: int, D: int) -> list[torch.Tensor]:
    return [F.normalize(torch.randn(B, D, device=DEVICE), dim=1).to(DTYPE) for _ in range(2)]


@timed_on_device
@pytest.mark.parametrize(("B", "D"), SHAPES, ids=[f"{B}x{D}" for B, D in SHAPES])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", LOSSES)
def test_contrastive(benchmark: Any, B: int, D: int, which: str, name: str) -> None:
    benchmark.group = f"contrastive, {which}, {B:,} pairs, {D} channels"
    benchmark.extra_info.update(name=name, batch=B, channels=D, which=which)
    if matrix_bytes(name, B) > 0.8 * memory_bytes():
        pytest.skip("its matrices do not fit")

    def make() -> Callable[[], object]:
        image, text = embeddings(B, D)
        scale = torch.tensor(20.0, device=DEVICE)
        inputs = [x.requires_grad_(which == "both") for x in (image, text, scale)]
        if which == "forward":
            return lambda: LOSSES[name](*inputs)
        return lambda: torch.autograd.grad(LOSSES[name](*inputs), inputs)

    work = contrastive_work(B, D, which)
    measure(benchmark, make, work, DTYPE, is_recorded=name not in UNRECORDED)


@timed_on_device
@pytest.mark.parametrize("name", ["clippo", "explicit"])
def test_sigmoid(benchmark: Any, name: str) -> None:
    B, D = sized(gpu=32768, cpu=4096, rehearsal=24), 768
    benchmark.group = f"sigmoid, both, {B:,} pairs, {D} channels"
    benchmark.extra_info.update(name=name, batch=B, channels=D, which="both")

    def explicit(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        z = 2 * torch.eye(B, device=DEVICE) - 1
        return -F.logsigmoid(z * ((image @ text.T).float() * scale + bias)).sum() / B

    def make() -> Callable[[], object]:
        image, text = embeddings(B, D)
        scalars = [torch.tensor(value, device=DEVICE) for value in (10.0, -10.0)]
        inputs = [x.requires_grad_() for x in (image, text, *scalars)]
        loss = sigmoid_loss if name == "clippo" else explicit
        return lambda: torch.autograd.grad(loss(*inputs), inputs)

    measure(benchmark, make, contrastive_work(B, D, "both"), DTYPE)
