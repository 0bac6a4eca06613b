"""Time that the host takes for a call of attention, beside PyTorch's own, whatever the GPU does meanwhile.

    pytest bench/suites/bench_host.py       on this machine; no GPU is used

A GPU waits for its host where kernels are short, so the host's time is a floor of a layer's. Ours is
`flash_attention_qkvpacked` of (8, 197, 3, 12, 64) in bfloat16 with the kernels for an H100, and all of it is
timed but the launcher, Python and C around CUDA's launch, in whose place a function does nothing. Tensors are
on the CPU, so that its allocator takes the place of PyTorch's for GPUs.

The peer is `scaled_dot_product_attention` with its views of a packed tensor, on the CPU for one token of one
head: PyTorch's dispatcher, autograd and allocator work as they do for a GPU, and there is next to nothing to
compute. On meta tensors the peer would be a chain of functions in Python, which no GPU needs.

Rounds of both alternate, so that both meet the same machine. Times are those of the processor, in rounds that
are shorter than what a scheduler leaves a process at a time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from clippo.bench.device import ON_GPU
from clippo.bench.idle import IdleDriver
from clippo.bench.peers.attention import heads_first
from clippo_kernels import flash_attention_qkvpacked, tuning

SHAPE = (8, 197, 3, 12, 64)
ROUNDS, CALLS = 2000, 10

pytestmark = [
    pytest.mark.skipif(ON_GPU, reason="kernels would run"),
    pytest.mark.usefixtures("idle_driver", "one_thread"),
]


@pytest.fixture
def idle_driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compile kernels, and launch none."""
    from triton.runtime import driver

    import clippo_kernels.attention.kernels  # noqa: F401 - decorates them, before the variable is set

    # Allows kernels for tensors on a CPU.
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    driver.set_active(IdleDriver())
    yield
    tuning.clear_caches()


def clippo(qkv: Tensor) -> Tensor:
    return flash_attention_qkvpacked(qkv, backend="triton")


def sdpa(qkv: Tensor) -> Tensor:
    q, k, v = heads_first(qkv)
    return scaled_dot_product_attention(q, k, v).transpose(1, 2)


def prepare(attention: Callable[[Tensor], Tensor], shape: tuple[int, ...], which: str) -> Callable[[], None]:
    """Calls of an attention, with its backward if `which` is "both"."""
    qkv = torch.zeros(shape, dtype=torch.bfloat16, requires_grad=which == "both")
    dout = torch.zeros_like(attention(qkv))

    def calls() -> None:
        for _ in range(CALLS):
            out = attention(qkv)
            if which == "both":
                torch.autograd.grad(out, qkv, dout)

    return calls


@pytest.mark.benchmark(timer=time.process_time, disable_gc=True)
@pytest.mark.parametrize("which", ["forward", "both"])
def test_host(benchmark: Any, which: str) -> None:
    benchmark.group = f"host time of attention, {which}"
    ours, peer = prepare(clippo, SHAPE, which), prepare(sdpa, (1, 1, 3, 1, 64), which)
    seconds = []

    def time_peer() -> None:
        start = time.process_time()
        peer()
        seconds.append(time.process_time() - start)

    benchmark.pedantic(ours, setup=time_peer, rounds=ROUNDS, warmup_rounds=20)
    for name, all_seconds in (("", benchmark.stats.stats.data), ("sdpa_", seconds[-ROUNDS:])):
        low, median, high = (1e6 / CALLS * x for x in statistics.quantiles(all_seconds, n=4))
        times = {"median": median, "low": low, "high": high, "least": 1e6 / CALLS * min(all_seconds)}
        benchmark.extra_info |= {f"{name}{which_time}_us": value for which_time, value in times.items()}
    benchmark.extra_info |= {"name": "clippo", "runs_per_round": CALLS}
