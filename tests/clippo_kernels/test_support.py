"""The table of docs/kernels.md: what PyTorch asks of every op, on the eager and on the Triton path."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad

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

RNG = torch.Generator().manual_seed(0)
IMAGES = torch.rand(1, 3, 8, 8, generator=RNG)
KEPT = torch.tensor([[0, 0], [0, 1]], dtype=torch.int32)
OFFSETS = torch.tensor([0, 2, 5], dtype=torch.int32)
TEXTS = torch.randn(4, 8, generator=RNG)

# Each op as a function of one floating tensor, with the shape of that.
OPS = {
    "patch_embed": (lambda x: patch_embed(like(IMAGES, x), x), (6, 3, 4, 4)),
    "patch_embed_select": (lambda x: patch_embed_select(like(IMAGES, x), KEPT.to(x.device), x), (6, 3, 4, 4)),
    "flash_attention": (lambda x: flash_attention(*x.unbind(2)), (1, 5, 3, 2, 8)),
    "flash_attention_qkvpacked": (flash_attention_qkvpacked, (1, 5, 3, 2, 8)),
    "flash_attention_varlen": (lambda x: flash_attention_varlen(x, OFFSETS.to(x.device), 3), (5, 3, 2, 8)),
    "attention_pool": (lambda x: attention_pool(x[:, 0, 0], x), (1, 5, 2, 2, 8)),
    "attention_pool_varlen": (
        lambda x: attention_pool_varlen(x[:2, 0], x, OFFSETS.to(x.device), 3),
        (5, 2, 2, 8),
    ),
    "contrastive_loss": (lambda x: contrastive_loss(x, like(TEXTS, x), 2.0), (4, 8)),
    "sigmoid_loss": (lambda x: sigmoid_loss(x, like(TEXTS, x), 2.0, -1.0), (4, 8)),
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
def test_transforms(backend, name):
    op, total, x = problem(name)
    expected = gradient(total, x)
    torch.testing.assert_close(torch.func.grad(total)(x), expected, atol=1e-3, rtol=1e-3)
    several = torch.stack([x, 2 * x])
    torch.testing.assert_close(
        torch.func.vmap(op)(several), torch.stack([op(x), op(2 * x)]), atol=1e-5, rtol=1e-4
    )
    direction = torch.randn_like(x)
    _, slope = torch.func.jvp(total, (x,), (direction,))
    torch.testing.assert_close(slope, (expected * direction).sum(), atol=1e-3, rtol=1e-3)


@over_ops
def test_hessian(backend, name):
    _, total, x = problem(name)
    direction = torch.randn_like(x)
    axes = (list(range(x.ndim, 2 * x.ndim)), list(range(x.ndim)))
    found = torch.tensordot(torch.func.hessian(total)(x), direction, axes)
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


class Module(torch.nn.Module):
    def __init__(self, op):
        super().__init__()
        self.op = op

    def forward(self, x):
        return self.op(x)


@over_ops
def test_exports(monkeypatch, name):
    monkeypatch.setenv(BACKEND_VARIABLE, "eager")
    op, _, x = problem(name)
    torch.testing.assert_close(torch.export.export(Module(op), (x,)).module()(x), op(x))
