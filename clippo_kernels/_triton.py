"""What the Triton kernels of every op share: device functions, and their launch.

Importing this module imports Triton, so it is imported where a kernel is about to run and nowhere else.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

# Triton reads the variable when a kernel is decorated: a process either interprets or compiles.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def dot(a, b, acc):
    """`acc + a @ b`, summed in float32; products of float32 are exact ones, not tf32."""
    if INTERPRETED:
        # The interpreter would multiply the bit patterns of bfloat16. And NumPy sums a product in an order
        # that depends on the shape of the tile, so that two kernels would find different logits for a pair;
        # summed in float64 and rounded once they are the same, as those of a tensor core are.
        return acc + tl.dot(a.to(tl.float64), b.to(tl.float64), out_dtype=tl.float64).to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def cast(x, dtype: tl.constexpr):
    """`x` as `dtype`, rounded to nearest even."""
    if INTERPRETED and dtype == tl.bfloat16 and x.dtype != tl.bfloat16:  # the interpreter would truncate
        x = x.to(tl.float32)
        bits = x.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        x = tl.where(x == x, rounded.to(tl.float32, bitcast=True), x)
    return x.to(dtype)


# If set, called instead of launching a kernel, by `aot` and `bench.tune`.
on_launch: Callable[[Any, int, tuple[Any, ...], dict[str, Any]], None] | None = None


def launch(kernel: Any, programs: int, *args: Any, **options: Any) -> None:
    """Run `programs` instances of a kernel; `options` are its constexprs and its row of the launch table."""
    # The default of Triton 3.10 will be to keep multiplies and adds apart, which no kernel here wants.
    options["enable_fp_fusion"] = True
    if on_launch is not None:
        on_launch(kernel, programs, args, options)
    else:
        kernel[(programs,)](*args, **options)


def num_sms(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def with_unit_last_stride(x: torch.Tensor) -> torch.Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()
