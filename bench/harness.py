"""Timing of an op on a CPU or a GPU, against the floor that bytes and arithmetic set.

A benchmark is marked `timed_on_device` and calls `measure`. On a GPU the op is recorded into a CUDA graph as
often as fills a few milliseconds, and the replays are timed with events: the time is the device's, and a
median over replays of runs back to back. What a graph cannot hold, such as a training step, is timed with
events run by run, with the time of the host where that is longer. On a CPU every run is timed by itself.
"""

from __future__ import annotations

import gc
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import pytest
import torch

from clippo.bench.device import DEVICE, ON_GPU, StateQuery, sized

__all__ = ["Work", "measure", "peak_cpu_memory", "timed_on_device"]

# As many rounds as this, or as take so long; 3 at least.
ROUNDS, ROUNDS_SECONDS = sized(gpu=(20, 3.0), cpu=(7, 20.0), rehearsal=(3, 0.0))
GRAPH_SECONDS = 3e-3

measured_s = 0.0


def device_clock() -> float:
    """The clock that pytest-benchmark reads: the seconds that measured runs have taken."""
    return measured_s


timed_on_device = pytest.mark.benchmark(timer=device_clock, disable_gc=True)


@dataclass(frozen=True)
class Work:
    """The least that an op has to do: every input read once, every output written once."""

    bytes: float
    flops: float


@dataclass(frozen=True)
class Ceilings:
    """Rates that this device reached in this run, of a large copy and of a large matrix product."""

    bytes_per_s: float
    flops_per_s: float

    def floor_s(self, work: Work) -> float:
        return max(work.bytes / self.bytes_per_s, work.flops / self.flops_per_s)


def measure(
    benchmark: Any,
    make: Callable[[], Callable[[], Any]],
    work: Work,
    dtype: torch.dtype,
    *,
    is_recorded: bool = True,
) -> None:
    """Benchmark the function that `make` returns, and add what the time means to its `extra_info`.

    `make` prepares the inputs. On a GPU it is called on the stream that the function is recorded on, because
    a backward runs on the stream of its forward. A run that does not fit into memory is a skipped benchmark.

    Args:
        benchmark: the fixture.
        make: returns the function.
        work: the least that it has to do.
        dtype: of its matrix products.
        is_recorded: whether a CUDA graph can hold the function, where there is a GPU.
    """
    try:
        time_and_describe(benchmark, make, work, dtype, is_recorded)
        return
    except torch.OutOfMemoryError as error:
        reason = str(error).partition("\n")[0]
    except Exception as error:
        traceback.clear_frames(error.__traceback__)  # which pytest keeps, and with them their tensors
        raise
    # Only here, where the traceback is gone, do the tensors of the failed run go.
    gc.collect()
    torch.cuda.empty_cache()
    pytest.skip(f"out of memory: {reason}")


def time_and_describe(
    benchmark: Any,
    make: Callable[[], Callable[[], Any]],
    work: Work,
    dtype: torch.dtype,
    is_recorded: bool,
) -> None:
    """Time the function that `make` returns, and describe the result in the benchmark's `extra_info`."""
    if ON_GPU and is_recorded:
        run: Run = Recording(make)
    else:
        run = DeviceClock(make()) if ON_GPU else WallClock(make())

    def advance() -> None:
        global measured_s
        measured_s += run()

    run()
    state = StateQuery() if ON_GPU else None  # begins to look now, and sees the runs that follow
    rounds = max(3, min(ROUNDS, int(ROUNDS_SECONDS / max(run(), 1e-9))))
    benchmark.pedantic(advance, rounds=rounds)
    seconds = benchmark.stats["median"]
    ceilings = ceilings_of(dtype)
    benchmark.extra_info.update(
        median_us=seconds * 1e6,
        tflops_per_s=work.flops / seconds / 1e12,
        gb_per_s=work.bytes / seconds / 1e9,
        share_of_roofline=ceilings.floor_s(work) / seconds,
        runs_per_round=run.calls,
        peak_mib=peak_memory(make) / 2**20,
        **(state.read() if state else {}),
    )


class Run(Protocol):
    """Runs a function `calls` times when it is called, and returns the seconds of one."""

    calls: int

    def __call__(self) -> float: ...


class WallClock:
    """Runs a function, and returns the seconds that took."""

    calls = 1

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call

    def __call__(self) -> float:
        start = time.perf_counter()
        self.call()
        return time.perf_counter() - start


class DeviceClock:
    """Runs a function, and returns the seconds from its begin to its end on the device."""

    calls = 1

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call

    def __call__(self) -> float:
        return timed(self.call)


class Recording:
    """Replays `calls` recorded runs of what `make` returns, and returns the seconds of one on the device."""

    def __init__(self, make: Callable[[], Callable[[], Any]]) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.call = make()  # kept, because the graph works in the memory of its inputs
            for _ in range(3):  # compiles what has to be compiled
                self.call()
            self.calls = max(1, min(50, round(GRAPH_SECONDS / timed(self.call))))
        torch.cuda.synchronize()

        self.graph = torch.cuda.CUDAGraph()
        gc.collect()
        gc.disable()  # a kernel collected while recording unloads its module, which breaks the recording
        try:
            with torch.cuda.graph(self.graph, stream=stream):
                for _ in range(self.calls):
                    self.call()
        finally:
            gc.enable()

    def __call__(self) -> float:
        return timed(self.graph.replay) / self.calls


def timed(call: Callable[[], Any]) -> float:
    """Seconds of a call on the device."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    value: float = start.elapsed_time(end) / 1e3
    return value


def peak_memory(make: Callable[[], Callable[[], Any]]) -> int:
    """Peak memory of a run in bytes, without the inputs that `make` has prepared."""
    call = make()
    if not ON_GPU:
        return peak_cpu_memory(call)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def peak_cpu_memory(call: Callable[[], Any]) -> int:
    """By the events of PyTorch's allocator."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
            call()
        profiler.export_chrome_trace(str(trace))
        events = [e for e in json.loads(trace.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


@cache
def ceilings_of(dtype: torch.dtype) -> Ceilings:
    """Measured once a run: bytes read and written by a copy, and the products of two random matrices."""
    side, megabytes = sized(gpu=(8192, 2048), cpu=(1024, 256), rehearsal=(64, 1))
    source = torch.empty(megabytes * 2**20, dtype=torch.uint8, device=DEVICE).random_()
    target = torch.empty_like(source)
    a, b = torch.randn(2, side, side, device=DEVICE).to(dtype)
    clock = timed if ON_GPU else lambda call: WallClock(call)()

    def median_s(call: Callable[[], Any]) -> float:
        for _ in range(3):
            call()
        return sorted(clock(call) for _ in range(ROUNDS))[ROUNDS // 2]

    return Ceilings(
        2 * source.nbytes / median_s(lambda: target.copy_(source)), 2 * side**3 / median_s(lambda: a @ b)
    )
