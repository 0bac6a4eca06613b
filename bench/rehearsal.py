"""A feigned GPU: what the benchmarks use of torch.cuda, on a machine that has none.

`python -m clippo.bench.gpu --rehearse` runs every section this way. Streams and events are those of the host.
A graph runs what it records once, and a replay of it advances the clock by the time of that run. Kernels run
in Triton's interpreter, and torch.compile traces and differentiates without generating code. The times mean
nothing; what is rehearsed is that every case runs, that budgets are kept and that results are written.

CLIPPO_BENCH_REHEARSAL may ask for trouble, as "KIND=WORD" separated by semicolons, in the benchmarks whose
names hold WORD: "memory" raises an out-of-memory error, "device" an error after which a GPU is of no use,
"death" kills the process, and "hang" never ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from clippo_kernels.dispatch import BACKEND_VARIABLE

__all__ = ["VARIABLE", "install", "quicken_interpreter"]

VARIABLE = "CLIPPO_BENCH_REHEARSAL"

replayed_s = 0.0


def now() -> float:
    """Seconds of the feigned device."""
    return time.perf_counter() + replayed_s


class Event:
    """Takes the place of torch.cuda.Event."""

    def __init__(self, *, enable_timing: bool = False) -> None:
        self.seconds = 0.0

    def record(self) -> None:
        self.seconds = now()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return 1e3 * (end.seconds - self.seconds)


class Stream:
    """Takes the place of torch.cuda.Stream."""

    def wait_stream(self, stream: Stream) -> None:
        pass


class CUDAGraph:
    """Takes the place of torch.cuda.CUDAGraph."""

    seconds = 0.0

    def replay(self) -> None:
        global replayed_s
        replayed_s += self.seconds


@contextlib.contextmanager
def graph(recorded: CUDAGraph, *, stream: Stream) -> Iterator[None]:
    """Take the place of torch.cuda.graph."""
    make_trouble()
    start = time.perf_counter()
    yield
    recorded.seconds = time.perf_counter() - start


def make_trouble() -> None:
    """Fail in the way that was asked for in the benchmark that runs."""
    benchmark = os.environ.get("PYTEST_CURRENT_TEST", "")
    for trouble in filter(None, os.environ.get(VARIABLE, "").split(";")):
        kind, _, word = trouble.partition("=")
        if not word or word not in benchmark:
            continue
        if kind == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 60 GiB.")
        if kind == "device":
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        if kind == "death":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "hang":
            time.sleep(3600)


@dataclass(frozen=True)
class Properties:
    """Takes the place of the properties of a GPU."""

    name: str = "rehearsal"
    multi_processor_count: int = 1
    total_memory: int = 2**34
    uuid: str = "rehearsal"


def install() -> None:
    """Put the feigned device in the place of torch.cuda in this process, and interpret kernels."""
    os.environ |= {"TRITON_INTERPRET": "1", BACKEND_VARIABLE: "triton"}
    functions: dict[str, Any] = {
        "Event": Event,
        "Stream": Stream,
        "CUDAGraph": CUDAGraph,
        "graph": graph,
        "is_available": lambda: True,
        "current_stream": Stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
        "memory_allocated": lambda: 0,
        "reset_peak_memory_stats": lambda: None,
        "max_memory_allocated": lambda: 2**20,
        "get_device_properties": lambda device: Properties(),
        "get_device_name": lambda device=None: Properties.name,
    }
    originals = {name: getattr(torch.cuda, name) for name in functions}
    replace(functions)
    torch.Tensor.pin_memory = lambda self: self  # type: ignore[method-assign, assignment, misc]
    compile_by_inductor = torch.compile

    def compile(model: Callable[..., Any], *, mode: str | None = None, **options: Any) -> Any:
        # PyTorch itself asks for other back ends, for FlexAttention.
        compiled = compile_by_inductor(model, **({"backend": "aot_eager"} | options))

        def call(*args: Any, **kwargs: Any) -> Any:
            # The compiler looks closer at the GPU than is feigned here. It may compile within a compilation.
            before = {name: getattr(torch.cuda, name) for name in functions}
            replace(originals)
            try:
                return compiled(*args, **kwargs)
            finally:
                replace(before)

        return call

    torch.compile = compile  # type: ignore[assignment]
    quicken_interpreter()


def replace(functions: dict[str, Any]) -> None:
    """Put functions and classes into torch.cuda."""
    for name, function in functions.items():
        setattr(torch.cuda, name, function)


def quicken_interpreter() -> None:
    """Have Triton's interpreter patch triton.language once for each module of kernels.

    It does so anew for every function that a kernel calls, which is over half of its time.
    """
    from triton.runtime.interpreter import InterpretedFunction

    patched = set()
    call_and_patch = InterpretedFunction.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        module = id(self.fn.__globals__)
        if module not in patched:
            patched.add(module)
            return call_and_patch(self, *args, **kwargs)
        return self.rewrite()(*args, **kwargs)

    InterpretedFunction.__call__ = call
