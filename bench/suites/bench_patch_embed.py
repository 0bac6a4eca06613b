"""Patch embedding of uint8 photographs and of grey rendered text, against what a ViT does in PyTorch.

    pytest bench/suites/bench_patch_embed.py        on this machine; a CPU times the eager path
    python -m clippo.bench.gpu --only patch_embed   on a GPU, with tests before and a table after

Every contestant turns the same uint8 images, channels last, into normalised, position-embedded tokens. The
peers are the chain of elementwise operations and a convolution, the same with unfold and a matrix product,
and each of them under torch.compile. On a GPU: bfloat16, time on the device; and once more from pinned host
memory, where the peers get images that a loader has normalised already, in float16. On a CPU: float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clippo.bench.device import DEVICE, ON_GPU, sized
from clippo.bench.harness import Work, measure, timed_on_device
from clippo_kernels import patch_embed

DTYPE = torch.bfloat16 if ON_GPU else torch.float32
WIDTH = sized(gpu=768, cpu=768, rehearsal=32)
BATCHES = sized(gpu=(256, 64, 1024), cpu=(4, 16), rehearsal=(2, 1))
# Pixels of images and patches. A convolution leaves the last 6 px of 384 out, too.
ALL_GEOMETRIES = {"224/16": (224, 16), "384/14": (378, 14)}
GEOMETRIES = sized(gpu=ALL_GEOMETRIES, cpu=ALL_GEOMETRIES, rehearsal={"224/16": (32, 16)})
CHANNELS = {"photographs": 3, "grey text": 1}
PASSES = ("both", "forward")


def is_main(test: str, parameters: Mapping[str, Any]) -> bool:
    """Whether bench.gpu measures a benchmark among the first: those of a usual batch."""
    return bool(parameters.get("B", BATCHES[0]) == BATCHES[0])


Embed = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def clippo(images: Tensor, weight: Tensor, bias: Tensor, pos_embed: Tensor) -> Tensor:
    return patch_embed(images, weight, bias, pos_embed)


def normalized(images: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 3, S, S) in [-1, 1]; floating images are that already."""
    x = images.movedim(-1, 1).to(dtype)
    if images.dtype == torch.uint8:
        x = (x / 255 - 0.5) / 0.5
    return x.expand(-1, 3, -1, -1)


def conv(images: Tensor, weight: Tensor, bias: Tensor, pos_embed: Tensor) -> Tensor:
    x = normalized(images, weight.dtype)
    return F.conv2d(x, weight, bias, stride=weight.shape[-1]).flatten(2).mT + pos_embed


def unfold(images: Tensor, weight: Tensor, bias: Tensor, pos_embed: Tensor) -> Tensor:
    x, P = normalized(images, weight.dtype), weight.shape[-1]
    return F.linear(F.unfold(x, P, stride=P).mT, weight.flatten(1), bias) + pos_embed


@cache
def compiled(embed: Embed) -> Embed:
    torch._dynamo.config.recompile_limit = 256  # one for every shape, so that none is compiled as dynamic
    mode = "max-autotune-no-cudagraphs" if ON_GPU else "default"
    return torch.compile(embed, dynamic=False, mode=mode)


EMBEDS: dict[str, Embed] = {
    "clippo": clippo,
    "conv": conv,
    "unfold": unfold,
    "conv-compiled": lambda *args: compiled(conv)(*args),
    "unfold-compiled": lambda *args: compiled(unfold)(*args),
}
COMPILED = {"conv-compiled", "unfold-compiled"}  # see conftest.py


def parameters(S: int, P: int) -> list[Tensor]:
    weight = torch.randn(WIDTH, 3, P, P, device=DEVICE) * (3 * P * P) ** -0.5
    others = torch.randn(WIDTH, device=DEVICE), torch.randn(1, (S // P) ** 2, WIDTH, device=DEVICE)
    return [x.to(DTYPE).requires_grad_() for x in (weight, *others)]


def random_bytes(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def embed_work(B: int, S: int, P: int, C: int, which: str) -> Work:
    """Pixels in and tokens out, or gradients of tokens in; the weight, which is read or written."""
    M, K = B * (S // P) ** 2, C * P * P
    bytes_moved = M * K + (M * WIDTH + 3 * P * P * WIDTH) * DTYPE.itemsize
    passes = 2 if which == "both" else 1
    return Work(passes * bytes_moved, passes * 2 * M * K * WIDTH)


@timed_on_device
@pytest.mark.parametrize("B", BATCHES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("kind", CHANNELS)
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", EMBEDS)
def test_on_device(benchmark: Any, B: int, geometry: str, kind: str, which: str, name: str) -> None:
    (S, P), C = GEOMETRIES[geometry], CHANNELS[kind]
    benchmark.group = f"patch_embed, {which}, {kind}, {geometry}, batch {B}"
    benchmark.extra_info.update(name=name)

    def make() -> Callable[[], object]:
        images, args = random_bytes(B, S, S, C).to(DEVICE), parameters(S, P)
        if which == "forward":
            args = [x.detach() for x in args]
            return lambda: EMBEDS[name](images, *args)
        dtokens = torch.randn_like(EMBEDS[name](images, *args))
        return lambda: torch.autograd.grad(EMBEDS[name](images, *args), args, dtokens)

    measure(benchmark, make, embed_work(B, S, P, C, which), DTYPE)


@pytest.mark.skipif(not ON_GPU, reason="there is no transfer to a CPU")
@timed_on_device
@pytest.mark.parametrize("kind", CHANNELS)
@pytest.mark.parametrize("name", EMBEDS)
def test_from_the_host(benchmark: Any, kind: str, name: str) -> None:
    B, (S, P), C = BATCHES[0], GEOMETRIES["224/16"], CHANNELS[kind]
    benchmark.group = f"patch_embed, forward from the host, {kind}, 224/16, batch {B}"
    images = random_bytes(B, S, S, C)
    if name != "clippo":
        images = (images / 127.5 - 1).half()
    benchmark.extra_info.update(name=name, host_bytes=images.nbytes)
    pinned = images.pin_memory()

    def make() -> Callable[[], object]:
        args = [x.detach() for x in parameters(S, P)]
        return lambda: EMBEDS[name](pinned.to(DEVICE, non_blocking=True), *args)

    measure(benchmark, make, embed_work(B, S, P, C, "forward"), DTYPE)
