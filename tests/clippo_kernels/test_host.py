"""On a GPU no op waits for the device or copies from the host, so that a CUDA graph can hold it.

Tensors without memory stand for those of a GPU. Operators run as they do there, except for the launches.
"""

import json
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clippo_kernels import (
    attention_pool,
    attention_pool_varlen,
    contrastive_loss,
    flash_attention,
    flash_attention_qkvpacked,
    flash_attention_varlen,
    patch_embed,
    patch_embed_select,
    sigmoid_loss,
)
from clippo_kernels.dispatch import BACKEND_VARIABLE

# Operators that the host must wait for: their results are numbers, or have a size that depends on numbers.
WAITING = {"_local_scalar_dense", "equal", "masked_select", "nonzero", "_unique2"}
# Functions that copy numbers of the host; on meta tensors they run no operator.
COPYING = {torch.tensor, torch.as_tensor, torch.Tensor.new_tensor}


class RefuseNumbers(TorchFunctionMode):
    """Refuses functions that make tensors of numbers of the host."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in COPYING:
            raise AssertionError(f"{func.__name__} copies from the host")
        return func(*args, **(kwargs or {}))


class RefuseOperators(TorchDispatchMode):
    """Refuses operators that a CUDA graph cannot hold: that read on the host, or take or give its tensors.

    Attributes:
        operators: names of those that ran.
    """

    def __init__(self):
        super().__init__()
        self.operators = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.rpartition("::")[2]
        self.operators.append(name)
        if name in WAITING:
            raise AssertionError(f"{name} waits for the device")
        if func.namespace == "clippo_kernels":  # what runs on a GPU, instead of the shapes of its results
            kernel = torch.library.get_kernel(func, "CPU")  # the same as for CUDA
            with self:
                result = kernel.call_boxed(torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), *args)
        else:
            result = func(*args, **(kwargs or {}))
        for x in tree_leaves((args, kwargs, result)):
            if isinstance(x, torch.Tensor) and not x.is_meta:
                raise AssertionError(f"{name} takes or gives a tensor of the host")
        return result


@contextmanager
def graph():
    """Refuse what a CUDA graph cannot hold, and yield the names of the operators that run."""
    with RefuseNumbers(), RefuseOperators() as mode:
        yield mode.operators


def empty(*shape, dtype=torch.bfloat16, requires_grad=True):
    return torch.empty(shape, dtype=dtype, device="meta", requires_grad=requires_grad)


def integers(*shape, dtype=torch.int32):
    return empty(*shape, dtype=dtype, requires_grad=False)


LABELS = integers(6, dtype=torch.int64), integers(6, dtype=torch.int64)
OFFSETS = integers(5)
WEIGHT = empty(32, 3, 16, 16, dtype=torch.float32)
BIAS, POS_EMBED = empty(32, dtype=torch.float32), empty(4, 32, dtype=torch.float32)
BYTES, PIXELS = empty(2, 3, 32, 32, dtype=torch.uint8, requires_grad=False), empty(2, 3, 32, 32)
CALLS = {
    "flash_attention": lambda: flash_attention(*empty(3, 2, 50, 2, 64)),
    "flash_attention, long": lambda: flash_attention(*empty(3, 2, 300, 2, 64)),
    "flash_attention_qkvpacked": lambda: flash_attention_qkvpacked(empty(2, 50, 3, 2, 64)),
    "flash_attention_varlen": lambda: flash_attention_varlen(empty(90, 3, 2, 64), OFFSETS, 30),
    "flash_attention_varlen, dense": lambda: flash_attention_varlen(
        empty(90, 3, 2, 64), OFFSETS, 30, (1, 30)
    ),
    "attention_pool": lambda: attention_pool(empty(2, 64), empty(3, 50, 2, 2, 64)),
    "attention_pool_varlen": lambda: attention_pool_varlen(
        empty(2, 64), empty(90, 2, 2, 64), OFFSETS, 30, (1, 30)
    ),
    "patch_embed": lambda: patch_embed(BYTES, WEIGHT, BIAS, POS_EMBED),
    "patch_embed, floating": lambda: patch_embed(PIXELS, WEIGHT),
    "patch_embed_select": lambda: patch_embed_select(BYTES, integers(5, 2), WEIGHT, BIAS, POS_EMBED),
    "patch_embed_select, floating": lambda: patch_embed_select(PIXELS, integers(5, 2), WEIGHT),
    "contrastive_loss": lambda: contrastive_loss(empty(6, 64), empty(6, 64), empty(1)),
    "contrastive_loss, number": lambda: contrastive_loss(empty(6, 64), empty(6, 64), 10.0),
    "contrastive_loss, labels": lambda: contrastive_loss(empty(6, 64), empty(6, 64), 10.0, labels=LABELS),
    "contrastive_loss, wide": lambda: contrastive_loss(empty(6, 768), empty(6, 768), 10.0),
    "sigmoid_loss": lambda: sigmoid_loss(empty(6, 64), empty(6, 64), empty(1), empty(1)),
    "sigmoid_loss, numbers": lambda: sigmoid_loss(empty(6, 64), empty(6, 64), 10.0, -10.0),
    "sigmoid_loss, labels": lambda: sigmoid_loss(empty(6, 64), empty(6, 64), 10.0, -10.0, labels=LABELS),
}


@pytest.mark.parametrize("call", [pytest.param(call, id=name) for name, call in CALLS.items()])
def test_a_cuda_graph_can_hold_it(monkeypatch, call):
    pytest.importorskip("triton")
    from clippo_kernels._triton import launch_hook

    monkeypatch.setenv(BACKEND_VARIABLE, "triton")
    launched = []
    with launch_hook(lambda kernel, *_: launched.append(kernel)), graph() as operators:
        out = call()
        launched_forward = len(launched)
        torch.autograd.backward(out, torch.empty_like(out))
    assert launched_forward > 0
    assert len(launched) > launched_forward
    assert any(name.endswith("_forward") for name in operators)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.sum().item(),
        lambda x: x.nonzero(),
        lambda x: torch.tensor(2.0, device=x.device),
        lambda x: x.new_tensor([2.0]),
        lambda x: x + torch.ones(3).to(x.device),
        lambda x: torch.arange(3),
    ],
    ids=["item", "nonzero", "number", "numbers", "copy", "tensor of the host"],
)
def test_what_no_graph_can_hold_is_seen(call):
    with graph(), pytest.raises(AssertionError, match="waits for the device|the host"):
        call(empty(3, requires_grad=False))


@pytest.mark.slow
def test_a_planned_launch_has_the_arguments_that_triton_gives():
    """The second launch of a plan is without Triton's look at its arguments, except for unaligned tensors."""
    code = """
import json
import torch
from triton.runtime import driver
from triton.runtime.jit import JITFunction
from clippo.bench.idle import IdleDriver
from clippo_kernels.attention import launch

class Recorder(IdleDriver):
    def launch(self, programs, _y, _z, stream, function, *others):
        launched.append([programs, stream, function, *map(describe, others[4:])])

def describe(x):
    return [str(x.dtype), x.shape, x.stride()] if isinstance(x, torch.Tensor) else str(x)

def run(self, *args, **options):
    runs.append(self.__name__)
    return run_by_triton(self, *args, **options)

driver.set_active(Recorder())
run_by_triton, JITFunction.run = JITFunction.run, run
offsets = torch.arange(0, 24, 4, dtype=torch.int32)
PROBLEMS = {
    "short": ((2, 50), ()), "long": ((2, 300), ()), "dense and varlen": ((20,), (offsets, 4, (1, 4))),
    "unaligned": ((2, 50), ()),
}
for name, (rows, sequences) in PROBLEMS.items():
    qkv = torch.zeros(*rows, 3, 2, 16, dtype=torch.bfloat16)
    if name == "unaligned":
        qkv = torch.zeros(qkv.numel() + 1, dtype=torch.bfloat16)[1:].view(qkv.shape)
    q, k, v = qkv.unbind(-3)
    for _ in range(2):
        launched, runs = [], []
        out, lse = launch.forward(q, k, v, 0.125, *sequences)
        launch.backward(out, q, k, v, out, lse, 0.125, (q, k, v), *sequences)
        print(json.dumps([name, runs, launched]))
"""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for (name, runs, launched), (_, runs_again, launched_again) in zip(lines[::2], lines[1::2], strict=True):
        assert launched == launched_again
        assert len(runs) == len(launched)
        assert runs_again == (runs if name == "unaligned" else [])
    assert len(lines) == 8
