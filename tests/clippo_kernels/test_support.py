"""The table of docs/kernels.md: what PyTorch asks of every op, on the eager and on the Triton path."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export.passes import move_to_device_pass

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
from clippo_kernels._triton import launch_hook
from clippo_kernels.dispatch import BACKEND_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "kernels.md"

RNG = torch.Generator().manual_seed(0)
IMAGES = torch.rand(1, 3, 8, 8, generator=RNG)
KEPT = torch.tensor([[0, 0], [0, 1]], dtype=torch.int32)
OFFSETS = torch.tensor([0, 2, 5], dtype=torch.int32)
TEXTS = torch.randn(4, 8, generator=RNG)

# Each op as a function of one floating tensor and options, with the shape of that tensor.
OPS = {
    "patch_embed": (lambda x, **options: patch_embed(like(IMAGES, x), x, **options), (6, 3, 4, 4)),
    "patch_embed_select": (
        lambda x, **options: patch_embed_select(like(IMAGES, x), KEPT.to(x.device), x, **options),
        (6, 3, 4, 4),
    ),
    "flash_attention": (lambda x, **options: flash_attention(*x.unbind(2), **options), (1, 5, 3, 2, 8)),
    "flash_attention_qkvpacked": (flash_attention_qkvpacked, (1, 5, 3, 2, 8)),
    "flash_attention_varlen": (
        lambda x, **options: flash_attention_varlen(x, OFFSETS.to(x.device), 3, **options),
        (5, 3, 2, 8),
    ),
    "attention_pool": (lambda x, **options: attention_pool(x[:, 0, 0], x, **options), (1, 5, 2, 2, 8)),
    "attention_pool_varlen": (
        lambda x, **options: attention_pool_varlen(x[:2, 0], x, OFFSETS.to(x.device), 3, **options),
        (5, 2, 2, 8),
    ),
    "contrastive_loss": (lambda x, **options: contrastive_loss(x, like(TEXTS, x), 2.0, **options), (4, 8)),
    "sigmoid_loss": (lambda x, **options: sigmoid_loss(x, like(TEXTS, x), 2.0, -1.0, **options), (4, 8)),
}
over_ops = pytest.mark.parametrize("name", OPS)


def like(x, other):
    return x.to(other.device, other.dtype)


def problem(name):
    op, shape = OPS[name]
    torch.manual_seed(0)
    x = torch.randn(shape)
    weight = torch.randn(op(x).shape)
    return op, lambda x: (op(x) * weight).square().sum(), x


def gradient(total, x):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(total(leaf), leaf)[0]


@over_ops
def test_transforms(backend, poisoned_memory, name):
    op, total, x = problem(name)
    expected = gradient(total, x)
    several, direction = torch.stack([x, 2 * x]), torch.randn_like(x)
    with poisoned_memory():
        found = torch.func.grad(total)(x)
        batched = torch.func.vmap(op)(several)
        _, slope = torch.func.jvp(total, (x,), (direction,))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(batched, torch.stack([op(x), op(2 * x)]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(slope, (expected * direction).sum(), atol=1e-3, rtol=1e-3)


@over_ops
def test_hessian(backend, poisoned_memory, name):
    _, total, x = problem(name)
    direction = torch.randn_like(x)
    axes = (list(range(x.ndim, 2 * x.ndim)), list(range(x.ndim)))
    with poisoned_memory():
        hessian = torch.func.hessian(total)(x)
    found = torch.tensordot(hessian, direction, axes)
    step = 1e-2
    plus, minus = (gradient(total, x + sign * step * direction) for sign in (1, -1))
    expected = (plus - minus) / (2 * step)
    torch.testing.assert_close(found, expected, atol=0.02 * float(expected.abs().max()) + 1e-3, rtol=0)


@over_ops
def test_second_derivatives_are_right_or_refused(backend, name):
    _, total, x = problem(name)
    leaf = x.clone().requires_grad_()
    if backend == "eager" and name.startswith("patch_embed"):
        (first,) = torch.autograd.grad(total(leaf), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), leaf)
        assert second.abs().sum() > 0
        return

    def second():
        (first,) = torch.autograd.grad(total(leaf), leaf, create_graph=True)
        torch.autograd.grad(first.sum(), leaf)

    with pytest.raises(
        RuntimeError, match=r"can be differentiated once|derivative for .* is not implemented"
    ):
        second()


@over_ops
def test_forward_mode_is_right_or_refused(backend, name):
    op, _, x = problem(name)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, x)
        if backend == "eager" and name.startswith("patch_embed"):  # linear in its weight
            torch.testing.assert_close(forward_ad.unpack_dual(op(dual)).tangent, op(x))
            return
        with pytest.raises(NotImplementedError):
            op(dual)


@over_ops
def test_autocast(backend, name):
    op, _, x = problem(name)
    with torch.autocast("cpu", torch.bfloat16):
        found = op(x)
    assert found.dtype == (torch.float32 if name.endswith("loss") else torch.bfloat16)
    torch.testing.assert_close(found.float(), op(x), atol=0.1, rtol=0.1)


@over_ops
def test_float64_has_no_kernel(backend, name):
    op, _, x = problem(name)
    if backend == "eager":
        assert op(x.double()).dtype == torch.float64
        return
    with pytest.raises(RuntimeError, match="has no triton implementation"):
        op(x.double())


@over_ops
def test_meta_tensors(backend, name):
    op, _, x = problem(name)
    found = op(x.to("meta"))
    assert (found.shape, found.dtype, found.device.type) == (op(x).shape, torch.float32, "meta")


@over_ops
def test_compiles_whole(backend, name):
    op, _, x = problem(name)
    torch.compiler.reset()
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager", dynamic=True)
    torch.testing.assert_close(compiled(x), op(x))


@over_ops
@pytest.mark.parametrize("compiled", [False, True], ids=["eager_mode", "compiled"])
@pytest.mark.parametrize("forced", ["eager", "triton"])
def test_the_argument_forces_forward_and_backward(monkeypatch, name, compiled, forced):
    op, _, x = problem(name)
    monkeypatch.setenv(BACKEND_VARIABLE, {"eager": "triton", "triton": "eager"}[forced])
    call = partial(op, backend=forced)
    if compiled:
        torch.compiler.reset()
        call = torch.compile(call, fullgraph=True, backend="aot_eager")
    launched = []
    with launch_hook(lambda kernel, *_: launched.append(kernel)):
        out = call(x.requires_grad_())
        in_forward = len(launched)
        monkeypatch.setenv(BACKEND_VARIABLE, "cudnn")  # nothing reads it any more
        out.sum().backward()
    assert (in_forward > 0) == (len(launched) > in_forward) == (forced == "triton")


@over_ops
def test_the_argument_on_fake_tensors_and_in_transforms(name):
    op, _, x = problem(name)
    fake = FakeTensorMode(allow_non_fake_inputs=True).from_tensor(x)
    assert op(fake, backend="triton").shape == op(x).shape
    several = torch.stack([x, 2 * x])
    found = torch.func.vmap(partial(op, backend="triton"))(several)
    torch.testing.assert_close(found, torch.stack([op(x), op(2 * x)]), atol=1e-5, rtol=1e-4)
    for call in (op, torch.func.vmap(op)):
        with pytest.raises(ValueError, match="^backend must be one of eager, triton, got 'cudnn'"):
            call(several if call is not op else x, backend="cudnn")
    with pytest.raises(RuntimeError, match="^backend=triton, but .* has no triton implementation"):
        op(x.double(), backend="triton")


class Module(torch.nn.Module):
    def __init__(self, op, **options):
        super().__init__()
        self.op, self.options = op, options

    def forward(self, x):
        return self.op(x, **self.options)


def kept_operators(program):
    """Names of this package's operators in a program, also where the graph has parts of its own."""
    parts = [part for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    nodes = [node for part in parts for node in part.graph.nodes]
    names = [str(node.target) for node in nodes if node.op == "call_function"]
    return {name.split(".")[1] for name in names if name.startswith("clippo_kernels.")}


@pytest.fixture
def _only_eager(monkeypatch):
    """As on a CPU without the interpreter: kernels cannot run."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv(BACKEND_VARIABLE, raising=False)


@over_ops
@pytest.mark.usefixtures("_only_eager")
def test_exports_the_eager_path(name):
    op, _, x = problem(name)
    program = torch.export.export(Module(op), (x,))
    assert bool(kept_operators(program)) == name.endswith("loss")
    torch.testing.assert_close(program.module()(x), op(x))


@over_ops
@pytest.mark.usefixtures("_only_eager")
def test_exports_operators_on_request(monkeypatch, name):
    op, _, x = problem(name)
    program = torch.export.export(Module(op, backend="triton"), (x,))
    assert kept_operators(program)
    assert torch.equal(program.module()(x), op(x))
    # Where kernels can run, the same program runs them.
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    torch.testing.assert_close(program.module()(x), op(x), atol=1e-5, rtol=1e-4)
    launched = []
    with launch_hook(lambda kernel, *_: launched.append(kernel)):
        program.module()(x)
    assert launched
    moved = move_to_device_pass(program, "meta").module()
    assert moved(x.to("meta")).shape == op(x).shape


@pytest.fixture
def docs_example(tmp_path, monkeypatch):
    """Runs an example of docs/kernels.md in an empty folder, and returns its names."""
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), flags=re.DOTALL | re.MULTILINE)

    def run(mark):
        (example,) = [example for example in examples if mark in example]
        names = {}
        exec(compile(example, str(DOCS), "exec"), names)  # noqa: S102 - our own documentation
        return names

    return run


VIT_OPERATORS = {"patch_embed_forward", "attention_packed_forward", "attention_pool_forward"}

LOAD = """
import sys
sys.modules["triton"] = None  # makes any import of it fail
import torch, clippo_kernels
images, expected = torch.load("case.pt")
for program in ("vit.pt2", "strict.pt2"):
    assert torch.equal(torch.export.load(program).module()(images), expected), program
"""


@pytest.mark.slow
@pytest.mark.usefixtures("_only_eager")
def test_a_vit_is_exported_and_loaded_in_another_process(docs_example, capsys):
    names = docs_example("class Vit(nn.Module)")
    assert capsys.readouterr().out == "torch.Size([1, 5])\n"
    vit, program = names["vit"], names["program"]
    assert kept_operators(program) == VIT_OPERATORS
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    vit.backend = "eager"
    expected = vit(images).detach()
    vit.backend = "triton"
    with pytest.raises(RuntimeError, match="^backend=triton needs Triton, and tensors on a GPU"):
        vit(images)
    # With gradients on, and traced as by torch.compile, each operator is in a part of the graph of its own.
    strict = torch.export.export(vit, (images,), strict=True)
    assert kept_operators(strict) == VIT_OPERATORS
    torch.export.save(strict, "strict.pt2")
    torch.save((images, expected), "case.pt")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", LOAD], env=environment, check=True, timeout=600)


@pytest.mark.usefixtures("_only_eager")
def test_a_tower_is_exported_under_the_variable(docs_example, capsys):
    names = docs_example("tower = create_model(")
    assert capsys.readouterr().out == "3\n"
    tower, program = names["tower"], names["program"]
    assert kept_operators(program) == VIT_OPERATORS
    images = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(program.module()(images), tower(images))
