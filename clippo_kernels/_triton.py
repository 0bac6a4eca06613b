"""Device functions and the launch function that the Triton kernels of all ops share.

Importing this module imports Triton, so it is imported only where a kernel is about to run.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import triton
import triton.language as tl

__all__ = ["Plan", "cast", "cdiv", "dot", "launch", "launch_hook", "num_sms", "with_unit_last_stride"]

# Triton reads the variable when a kernel is decorated, so a process either interprets or compiles all
# kernels.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def dot(a, b, acc):
    """Compute `acc + a @ b`, accumulated in float32; float32 operands are multiplied exactly, not as tf32."""
    if INTERPRETED:
        # The interpreter would multiply the bit patterns of bfloat16 numbers. In addition, NumPy sums in an
        # order that depends on the tile shape, so that two kernels would compute different logits for a pair.
        # Sums in float64 that are rounded once are equal, as they are on tensor cores.
        return acc + tl.dot(a.to(tl.float64), b.to(tl.float64), out_dtype=tl.float64).to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def cast(x, dtype: tl.constexpr):
    """Convert `x` to `dtype`, rounding to nearest even."""
    if INTERPRETED and dtype == tl.bfloat16 and x.dtype != tl.bfloat16:  # the interpreter would truncate
        x = x.to(tl.float32)
        bits = x.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        x = tl.where(x == x, rounded.to(tl.float32, bitcast=True), x)
    return x.to(dtype)


Hook = Callable[[Any, int, tuple[Any, ...], dict[str, Any]], None]

hook: ContextVar[Hook | None] = ContextVar("hook", default=None)


@contextmanager
def launch_hook(called: Hook) -> Iterator[None]:
    """Call `called(kernel, programs, args, options)` instead of launching a kernel, in this thread alone."""
    token = hook.set(called)
    try:
        # The backward of GPU tensors usually runs in another thread, which would not see the hook.
        with torch.autograd.set_multithreading_enabled(False):
            yield
    finally:
        hook.reset(token)


def launch(kernel: Any, programs: int, *args: Any, **options: Any) -> Any:
    """Launch `programs` programs of a kernel; `options` are its constexprs and launch options.

    Returns what Triton compiled for these arguments, or None in the interpreter and inside of `launch_hook`.
    """
    # From Triton 3.10 on, multiplies and adds are no longer fused by default; all kernels here want them
    # fused.
    options["enable_fp_fusion"] = True
    if (called := hook.get()) is not None:
        return called(kernel, programs, args, options)
    return kernel[(programs,)](*args, **options)


class Plan:
    """A launch but for its tensors, which are the first arguments of the kernel.

    To find what it has compiled, Triton looks at the type, the alignment and the value of every argument, for
    longer than the rest of a launch takes. A plan keeps what was found.

    Args:
        kernel: a function whose constexprs come last.
        programs: number of programs.
        numbers: the arguments after the tensors.
        options: the constexprs and launch options.
        is_fixed: whether the tensors of all launches have the same dtypes and device, and all start at
            multiples of 16 bytes, so that one compiled kernel serves them.
    """

    def __init__(
        self, kernel: Any, programs: int, numbers: tuple[Any, ...], options: dict[str, Any], is_fixed: bool
    ) -> None:
        self.kernel, self.programs, self.numbers, self.options = kernel, programs, numbers, options
        self.is_fixed = is_fixed
        self.compiled: Any = None
        self.constants = tuple([options[name] for name in kernel.arg_names if name in options])

    def launch(self, *tensors: torch.Tensor | None) -> None:
        if self.compiled is not None and hook.get() is None:
            self.compiled(*tensors, *self.numbers, *self.constants)
            return
        compiled = launch(self.kernel, self.programs, *tensors, *self.numbers, **self.options)
        if self.is_fixed and compiled is not None:
            self.compiled = compiled[(self.programs, 1, 1)]


def num_sms(device: torch.device) -> int:
    """SMs of a device; work on tensors without memory is planned as for an H100."""
    if device.type == "meta":
        return 132
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def with_unit_last_stride(x: torch.Tensor) -> torch.Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()
