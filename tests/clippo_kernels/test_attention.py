import os
import subprocess
import sys
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

import clippo_kernels.attention as attention_module
from clippo_kernels import (
    attention_pool,
    attention_pool_varlen,
    flash_attention,
    flash_attention_qkvpacked,
    flash_attention_varlen,
    tuning,
)
from clippo_kernels.attention import reference
from clippo_kernels.dispatch import BACKEND_VARIABLE

pytestmark = [
    pytest.mark.usefixtures("_on_gpu"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton"),  # NaN and inf in the interpreter's numpy
]

ON_GPU = torch.cuda.is_available()
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def offsets(*lengths):
    return torch.tensor([0, *lengths]).cumsum(0).int()


def leaves(*tensors, dtype):
    return [t.detach().to(dtype).requires_grad_() for t in tensors]


def out_and_gradients(attention, inputs, dtype, seed=1):
    inputs = leaves(*inputs, dtype=dtype)
    out = attention(*inputs)
    dout = torch.randn(out.shape, generator=torch.Generator(out.device).manual_seed(seed), device=out.device)
    return [out, *torch.autograd.grad(out, inputs, dout.to(dtype))]


@pytest.fixture
def check_accuracy(assert_as_accurate, poisoned_memory):
    """Output and gradients of an op against float64, scaled by the error of plain PyTorch at the same dtype.

    That is the error of the reference, or the largest of several formulas.
    """

    def check(ours, reference, inputs, *more_plain):
        dtype = inputs[0].dtype
        with poisoned_memory():
            results = out_and_gradients(ours, inputs, dtype)
        oracles = out_and_gradients(reference, inputs, torch.float64)
        plains = zip(*(out_and_gradients(f, inputs, dtype) for f in (reference, *more_plain)), strict=True)
        for result, plain, oracle in zip(results, plains, oracles, strict=True):
            assert result.dtype == dtype
            if oracle.numel():
                worst = max(plain, key=lambda x: (x.double() - oracle).abs().max())
                assert_as_accurate(result, worst, oracle)

    return check


# ---------------------------------------------------------------------------------------------------------
# Accuracy

# (Nq, Nk, D): less than a tile, each tile, each kernel, lengths that fill no tile; every kind of head.
SIZES = [
    (1, 3, 64),
    (5, 3, 1),
    (5, 3, 128),
    (16, 16, 8),
    (50, 50, 64),
    (50, 50, 80),
    (64, 64, 32),
    (113, 203, 64),
    (3, 256, 64),
    *(
        pytest.param(*size, marks=pytest.mark.long)
        for size in (
            (113, 203, 72),
            (203, 113, 128),
            (128, 128, 96),
            (196, 196, 64),
            (197, 197, 80),
            (300, 290, 32),
            (70, 257, 128),
            (128, 320, 64),
        )
    ),
]
if ON_GPU:
    LENGTHS = [(49, 49), (577, 577), (576, 576), (1024, 1024), (1023, 1025), (1, 1000), (1000, 1)]
    SIZES += [(Nq, Nk, D) for Nq, Nk in LENGTHS for D in (32, 64, 72, 80, 96, 112, 128)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("Nq", "Nk", "D"), SIZES)
def test_matches_reference(check_accuracy, backend, dtype, Nq, Nk, D):
    B, H = (2, 3) if ON_GPU else (1, 2)
    inputs = [torch.randn(B, N, H, D).to(dtype) for N in (Nq, Nk, Nk)]
    check_accuracy(flash_attention, reference.flash_attention, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", tuning.ARCHITECTURES)
@pytest.mark.parametrize(
    ("Nq", "Nk", "D"),
    [
        (40, 40, 64),
        (30, 200, 64),
        pytest.param(90, 100, 80, marks=pytest.mark.long),
        pytest.param(40, 300, 128, marks=pytest.mark.long),
    ],
)
def test_every_launch_table(check_accuracy, monkeypatch, architecture, Nq, Nk, D):
    if ON_GPU and architecture != tuning.architecture(torch.device("cuda")):
        pytest.skip("not the table of this GPU")
    monkeypatch.setenv(BACKEND_VARIABLE, "triton")
    with tuning.assume(architecture):
        for dtype in (torch.float32, torch.float16):
            inputs = [torch.randn(1, N, 1, D).to(dtype) for N in (Nq, Nk, Nk)]
            check_accuracy(flash_attention, reference.flash_attention, inputs)


@pytest.mark.parametrize(("B", "H"), [(1, 1), pytest.param(60, 50, marks=pytest.mark.long)])
@pytest.mark.slow
def test_few_and_many_heads(check_accuracy, backend, B, H):
    N = 197 if ON_GPU else 2
    check_accuracy(
        flash_attention, reference.flash_attention, [torch.randn(B, N, H, 16).half() for _ in range(3)]
    )


def fused(q, k, v):
    """PyTorch's own fused attention. It too keeps a log-sum-exp, whose last bit is 1e-3 at 1e4."""
    return scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("Nk", [197, 300])
def test_scores_from_minus_to_plus_10000(check_accuracy, backend, dtype, Nk):
    q, k = (450 * F.normalize(torch.randn(1, N, 1, 64), dim=-1) for N in (20, Nk))
    k[:, : Nk // 2] = k[:, Nk // 2 : Nk // 2 * 2]  # two keys share the weight of a query
    assert 8e3 < (torch.einsum("bnhd,bmhd->bhnm", q, k) / 8).abs().max() < 2e4
    check_accuracy(
        flash_attention, reference.flash_attention, [x.to(dtype) for x in (q, k, torch.randn(k.shape))], fused
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("Nk", [197, 300])
def test_padded_keys_have_no_weight(check_accuracy, backend, dtype, Nk):
    # All scores near -1e4: a padded key, whose score is 0, would have a weight of exp(1e4).
    q = 35 + torch.rand(1, 20, 1, 64)
    k = -35 - torch.rand(1, Nk, 1, 64)
    check_accuracy(
        flash_attention, reference.flash_attention, [x.to(dtype) for x in (q, k, torch.randn(k.shape))], fused
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_key_is_its_value(backend, dtype):
    q, kv = torch.randn(2, 5, 3, 80).to(dtype), torch.randn(2, 1, 2, 3, 80).to(dtype)
    for attention, queries in ((flash_attention, q), (lambda q, k, v: pool(q, k, v), q[:, 0])):
        k, v = kv.unbind(2)

        def pool(q, k, v):
            return attention_pool(q, torch.stack((k, v), 2))

        out, dq, dk, dv = out_and_gradients(attention, [queries, k, v], dtype)
        assert torch.equal(out, v.expand_as(q) if out.ndim == 4 else v[:, 0])
        # 0 but for the order of a float32 sum of 80 products, times keys or queries of up to 5
        rounding = 5 * 80 * torch.finfo(torch.float32).eps * v.abs().max() * 5
        assert dq.abs().max() < rounding
        assert dk.abs().max() < rounding
        assert dv.any()


@pytest.mark.slow
def test_gradients_in_float64():
    q, k, v = leaves(*(torch.randn(1, N, 2, 3) for N in (2, 3, 3)), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *qkv: flash_attention(*qkv, scale=0.7), (q, k, v))
    (packed,) = leaves(torch.randn(1, 3, 3, 2, 3), dtype=torch.float64)
    assert torch.autograd.gradcheck(flash_attention_qkvpacked, (packed,))
    (ragged,) = leaves(torch.randn(4, 3, 2, 2), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: flash_attention_varlen(x, offsets(3, 0, 1), 4), (ragged,))
    query, kv, kv_ragged = leaves(
        torch.randn(2, 2), torch.randn(3, 4, 2, 2, 2), torch.randn(4, 2, 2, 2), dtype=torch.float64
    )
    assert torch.autograd.gradcheck(attention_pool, (query, kv))
    pool_ragged = partial(attention_pool_varlen, cu_seqlens=offsets(3, 0, 1), max_seqlen=4)
    assert torch.autograd.gradcheck(pool_ragged, (query, kv_ragged))


@pytest.mark.slow
@pytest.mark.parametrize("scale", [None, 0.0, 2.0, -0.5])
def test_packed_and_scale(check_accuracy, backend, scale):
    qkv = torch.randn(2, 7, 3, 2, 16)
    check_accuracy(
        partial(flash_attention_qkvpacked, scale=scale),
        partial(reference.flash_attention_qkvpacked, scale=scale),
        [qkv],
    )
    q, k, v = qkv.unbind(2)
    check_accuracy(
        partial(flash_attention, scale=scale), partial(reference.flash_attention, scale=scale), [q, k, v]
    )
    check_accuracy(
        partial(attention_pool, scale=scale),
        partial(reference.attention_pool, scale=scale),
        [q[:, 0], qkv[:, :, 1:]],
    )


@pytest.mark.slow
def test_packed_gradient_is_packed(backend):
    (qkv,) = leaves(torch.randn(2, 7, 3, 2, 16).transpose(0, 1), dtype=torch.float32)
    (dqkv,) = torch.autograd.grad(flash_attention_qkvpacked(qkv).sum(), qkv)
    assert dqkv.is_contiguous()


VIEWS = {
    "packed": lambda q, k, v: (q, k, v),
    "one value for all heads": lambda q, k, v: (q, k, v[:, :, :1].expand(-1, -1, 2, -1)),
    "one query for all sequences": lambda q, k, v: (q[:1].expand(2, -1, -1, -1), k, v),
    "heads before rows": lambda q, k, v: (q.transpose(1, 2).contiguous().transpose(1, 2), k, v),
    "rows before sequences": lambda q, k, v: (q, k.transpose(0, 1).contiguous().transpose(0, 1), v),
    "every other row": lambda q, k, v: (q[:, ::2], k, v),
    "every other channel": lambda q, k, v: (q[..., ::2], k[..., ::2], v[..., ::2]),
    "not aligned": lambda q, k, v: (q[..., 1:], k[..., 1:], v[..., :-1]),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_strides_do_not_matter(backend, view, dtype):
    qkv = torch.randn(2, 9, 3, 2, 16).to(dtype)
    inputs = view(*qkv.unbind(2))
    contiguous = [x.contiguous() for x in inputs]
    strided = [x.detach().requires_grad_() for x in inputs]  # views of qkv, or expanded, as they are
    dout = torch.randn(inputs[0].transpose(1, 2).shape).to(dtype).transpose(1, 2)
    results = []
    for x in (strided, [x.requires_grad_() for x in contiguous]):
        out = flash_attention(*x)
        results.append([out, *torch.autograd.grad(out, x, dout)])
    for ours, expected in zip(*results, strict=True):
        # Other strides may take other loads and sums in another order.
        torch.testing.assert_close(ours, expected, atol=4 * torch.finfo(dtype).eps, rtol=1e-2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", [(5,), (3, 1, 16), (0, 4, 0, 0, 40, 0), (0, 0), (66, 1, 20), (256, 3)])
@pytest.mark.parametrize("slack", [0, 3])
def test_varlen_is_each_sequence_alone(check_accuracy, backend, dtype, lengths, slack):
    cu_seqlens, max_seqlen = offsets(*lengths), max(lengths) + slack
    qkv = torch.randn(sum(lengths), 3, 2, 64).to(dtype)
    check_accuracy(
        lambda x: flash_attention_varlen(x, cu_seqlens, max_seqlen),
        lambda x: reference.flash_attention_varlen(x, cu_seqlens),
        [qkv],
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("dense", "lengths"),
    [((1, 7), ()), ((2, 0), (3,)), ((2, 20), (1, 5, 0)), ((1, 70), (2, 66, 3)), ((1, 300), (12, 3))],
)
def test_leading_dense_sequences(check_accuracy, backend, dtype, dense, lengths):
    count, length = dense
    cu_seqlens = offsets(*[length] * count, *lengths)
    qkv = torch.randn(count * length + sum(lengths), 3, 2, 64).to(dtype)
    check_accuracy(
        lambda x: flash_attention_varlen(x, cu_seqlens, max(lengths, default=0), dense),
        lambda x: reference.flash_attention_varlen(x, cu_seqlens),
        [qkv],
    )


def test_dense_and_packed_sequences_take_the_kernels_for_their_lengths():
    """One long photograph does not send short captions to the kernels for long sequences."""
    pytest.importorskip("triton")
    from clippo_kernels._triton import launch_hook
    from clippo_kernels.attention import launch

    qkv = torch.empty(312, 3, 2, 64, dtype=torch.bfloat16, device="meta")
    cu_seqlens = torch.empty(3, dtype=torch.int32, device="meta")
    launched = []

    def keep(kernel, programs, args, options):
        launched.append((kernel.__name__, options["VARLEN"]))

    q, k, v = qkv.unbind(1)
    with launch_hook(keep):
        out, lse = launch.forward(q, k, v, 0.125, cu_seqlens, 12, (1, 300))
        launch.backward(out, q, k, v, out, lse, 0.125, (q, k, v), cu_seqlens, 12, (1, 300))
    assert launched == [
        ("long_forward", False), ("short_forward", True),
        ("long_backward_dq", False), ("long_backward_dkdv", False), ("short_backward", True),
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("N", "D"), [(2, 64), (3, 1), (50, 72), (196, 64), (70, 128)])
@pytest.mark.parametrize("shared", [True, False], ids=["shared query", "own queries"])
def test_pool(check_accuracy, backend, dtype, N, D, shared):
    q, kv = torch.randn(2, 3, D).to(dtype), torch.randn(2, N, 2, 3, D).to(dtype)
    check_accuracy(attention_pool, reference.attention_pool, [q[0] if shared else q, kv])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", [(5,), (3, 0, 66), (0, 0)])
def test_pool_varlen(check_accuracy, backend, dtype, lengths):
    q, kv = torch.randn(2, 64).to(dtype), torch.randn(sum(lengths), 2, 2, 64).to(dtype)
    cu_seqlens = offsets(*lengths)
    ours = partial(attention_pool_varlen, cu_seqlens=cu_seqlens, max_seqlen=max(lengths))
    check_accuracy(ours, partial(reference.attention_pool_varlen, cu_seqlens=cu_seqlens), [q, kv])


# ---------------------------------------------------------------------------------------------------------
# Edges


def test_empty_batch(backend):
    query = torch.randn(2, 8)
    for shape, attention in (
        ((0, 4, 3, 2, 8), flash_attention_qkvpacked),
        ((2, 0, 3, 2, 8), flash_attention_qkvpacked),
        ((0, 3, 2, 8), lambda qkv: flash_attention_varlen(qkv, offsets(), 0)),
        ((0, 3, 2, 8), lambda qkv: flash_attention_varlen(qkv, offsets(0, 0), 0)),
        ((0, 4, 2, 8), lambda q: flash_attention(q, q, q)),
        ((0, 4, 2, 2, 8), lambda kv: attention_pool(query, kv)),
        ((0, 2, 2, 8), lambda kv: attention_pool_varlen(query, kv, offsets(), 0)),
    ):
        x = torch.randn(shape, requires_grad=True)
        out = attention(x)
        out.sum().backward()
        assert out.numel() == 0
        assert x.grad.shape == shape


def test_no_keys(backend):
    q, k = torch.randn(2, 3, 2, 8, requires_grad=True), torch.randn(2, 0, 2, 8)
    out = flash_attention(q, k, k)
    out.sum().backward()
    assert not out.any()
    assert not q.grad.any()


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["q", "k", "v", "whole block of k"])
@pytest.mark.parametrize("Nk", [20, 300])
def test_nan_and_inf_as_in_pytorch(monkeypatch, value, where, Nk):
    monkeypatch.setenv(BACKEND_VARIABLE, "triton")
    q, k, v = torch.rand(1, 10, 1, 32), torch.rand(1, Nk, 1, 32), torch.rand(1, Nk, 1, 32)
    {"q": q[:, 3], "k": k[:, 5], "v": v[:, 5], "whole block of k": k[:, :130]}[where][..., 0] = value
    for dtype in (torch.float32, torch.float16):
        ours, plain = (
            out_and_gradients(attention, [x.to(dtype) for x in (q, k, v)], dtype)
            for attention in (flash_attention, reference.flash_attention)
        )
        for x, y in zip(ours, plain, strict=True):
            assert torch.equal(x.isnan(), y.isnan())
            assert torch.equal(x.isinf(), y.isinf())


def test_offsets_beyond_32_bits(backend):
    # Rows lie 2^28 elements apart, so that the last ones are out of reach of 32 bits. Only they are touched.
    N, D, row = 10, 16, 2**28
    memory = torch.empty(N * row, dtype=torch.float16)
    apart = memory.as_strided((1, N, 1, D), (N * row, row, D, 1))
    near = torch.randn(1, N, 1, D).half()
    apart.copy_(near)
    x, y = apart.requires_grad_(), near.requires_grad_()
    out, expected = flash_attention(x, x, x), flash_attention(y, y, y)
    assert torch.equal(out, expected)
    for a, b in zip(*(torch.autograd.grad(o.sum(), i) for o, i in ((out, x), (expected, y))), strict=True):
        assert torch.equal(a, b)


# ---------------------------------------------------------------------------------------------------------
# What the results depend on, and what they take


@pytest.mark.slow
def test_deterministic_and_independent_of_the_batch(backend):
    packed, ragged = torch.randn(2, 113, 3, 2, 8).half(), torch.randn(113, 3, 2, 8).half()

    def run(packed, ragged, *lengths):
        varlen = partial(flash_attention_varlen, cu_seqlens=offsets(*lengths), max_seqlen=63)
        return [
            *out_and_gradients(flash_attention_qkvpacked, [packed], packed.dtype),
            *out_and_gradients(varlen, [ragged], ragged.dtype),
        ]

    first = run(packed, ragged, 50, 63)
    assert all(torch.equal(a, b) for a, b in zip(first, run(packed, ragged, 50, 63), strict=True))
    if backend == "triton":
        alone = run(packed[:1], ragged[:50], 50)
        assert torch.equal(first[0][:1], alone[0])
        assert torch.equal(first[2][:50], alone[2])


@pytest.mark.parametrize("N", [40, 300])
@pytest.mark.slow
def test_memory_is_that_of_the_results(allocations, N):
    from clippo_kernels.attention import launch

    qkv, dout = torch.randn(1, N, 3, 2, 64).half(), torch.randn(1, N, 2, 64).half()
    q, k, v = qkv.unbind(2)
    with allocations(qkv) as forward:
        out, lse = launch.forward(q, k, v, 0.125)
    assert forward.sizes == [out.nbytes, lse.nbytes]
    assert (out.nbytes, lse.nbytes) == (N * 2 * 64 * 2, N * 2 * 4)
    dqkv = torch.empty_like(qkv)
    with allocations(qkv, out, lse, dout, dqkv) as backward:
        launch.backward(dout, q, k, v, out, lse, 0.125, dqkv.unbind(2))
    # The two kernels for long sequences share one number per query and head, sum(out * dout).
    assert backward.sizes == ([] if N <= 256 else [lse.nbytes])


def test_log_sum_exp_is_in_log2():
    q, k, v = torch.randn(3, 1, 5, 2, 16)
    _, lse = torch.ops.clippo_kernels.attention_forward(q, k, v, 0.25)
    expected = (0.25 * torch.einsum("bnhd,bmhd->bhnm", q, k)).logsumexp(-1) / torch.tensor(2.0).log()
    torch.testing.assert_close(lse, expected)


def test_offsets_of_any_stride(backend):
    qkv, cu_seqlens = torch.randn(5, 3, 1, 8), offsets(2, 3)
    strided = torch.stack((cu_seqlens, cu_seqlens.flip(0)), 1)[:, 0]
    expected = flash_attention_varlen(qkv, cu_seqlens, 3)
    assert torch.equal(flash_attention_varlen(qkv, strided, 3), expected)


def test_offsets_are_read_once(backend, monkeypatch):
    calls = []
    monkeypatch.setattr(attention_module, "check_offsets", lambda *args: calls.append(args))
    qkv, cu_seqlens = torch.randn(5, 3, 1, 8), offsets(2, 3)
    for _ in range(3):
        flash_attention_varlen(qkv, cu_seqlens, 3)
    attention_pool_varlen(torch.randn(1, 8), qkv[:, 1:], cu_seqlens, 3)
    assert len(calls) == 1
    flash_attention_varlen(qkv, cu_seqlens, 4)
    cu_seqlens[1] = 1
    flash_attention_varlen(qkv, cu_seqlens, 4)
    assert len(calls) == 3


def test_offsets_are_read_once_in_inference_mode(backend, monkeypatch):
    calls = []
    monkeypatch.setattr(attention_module, "check_offsets", lambda *args: calls.append(args))
    with torch.inference_mode():
        qkv, cu_seqlens = torch.randn(5, 3, 1, 8), offsets(2, 3)
        for _ in range(3):
            flash_attention_varlen(qkv, cu_seqlens, 3)
        attention_pool_varlen(torch.randn(1, 8), qkv[:, 1:], cu_seqlens, 3)
        assert len(calls) == 1
        flash_attention_varlen(qkv, offsets(2, 3), 3)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "change",
    [lambda x, new: x.data.copy_(new), lambda x, new: x.numpy().__setitem__(slice(None), new.numpy())],
    ids=["through .data", "through numpy"],
)
def test_offsets_that_change_unseen(backend, change):
    """PyTorch does not count these changes, and the kernels would write out of bounds."""
    if ON_GPU:
        pytest.skip("on a GPU only changes that PyTorch counts are seen")
    qkv, cu_seqlens = torch.randn(7, 3, 2, 8), offsets(3, 4)
    flash_attention_varlen(qkv, cu_seqlens, 4)
    change(cu_seqlens, torch.tensor([0, 4000, 7], dtype=torch.int32))
    with pytest.raises(ValueError, match="cu_seqlens must not decrease"):
        flash_attention_varlen(qkv, cu_seqlens, 4)


def test_offsets_after_dense_sequences_compile_no_variant():
    """They start at any multiple of 4 bytes, which a kernel would otherwise be compiled for."""
    code = """
import torch
from triton.runtime import driver
from clippo_kernels import _triton, aot, tuning
from clippo_kernels.attention import launch

def specialize(kernel, programs, args, options):
    *_, binder = kernel.device_caches[driver.active.get_current_device()]
    if options["VARLEN"]:
        start = args[kernel.arg_names.index("cu_seqlens")].data_ptr() % 16
        print(start, kernel.__name__, binder(*args, **options)[1])

driver.set_active(aot.TargetDriver("sm_90"))
qkv, offsets = torch.zeros(20, 3, 2, 64).half(), torch.arange(0, 24, 4).int()
q, k, v = qkv.unbind(1)
with tuning.assume("sm_90"), _triton.launch_hook(specialize):
    for max_seqlen in (4, 70):
        for dense in ((0, 0), (1, 4)):
            arguments = offsets, max_seqlen, dense
            out, lse = launch.forward(q, k, v, 1.0, *arguments)
            launch.backward(out, q, k, v, out, lse, 1.0, (q, k, v), *arguments)
"""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    variants = {}
    for line in done.stdout.splitlines():
        starts_at, kernel, specialization = line.split(" ", 2)
        variants.setdefault(kernel, {})[starts_at] = specialization
    assert len(variants) == 5
    for by_start in variants.values():
        assert by_start["0"] == by_start["4"]


STALE = {
    "negative": (-9, 4, 7, 20),
    "beyond the end": (0, 3, 900, 20),
    "before the one before": (0, 12, 5, 20),
    "of 32 bits": (2**31 - 1, -(2**31), 2**31 - 1, -(2**31)),
}


@pytest.mark.parametrize("stale", STALE.values(), ids=STALE)
@pytest.mark.parametrize("max_seqlen", [8, 70])  # the kernels for short and for long sequences
def test_kernels_stay_inside_their_tensors_with_stale_offsets(stale, max_seqlen):
    """Offsets that changed since they were checked give other numbers, but nothing outside is touched."""
    pytest.importorskip("triton")
    from clippo_kernels.attention import launch

    T, H, D, guard = 20, 2, 16, 64
    S = len(stale) - 1
    cu_seqlens = torch.tensor(stale, dtype=torch.int32)

    def guarded(*shape, fill=-7.0):
        """Rows between rows of NaN: results show what was read of those, and they what was written there."""
        whole = torch.full((shape[0] + 2 * guard, *shape[1:]), torch.nan, dtype=torch.float16)
        whole[guard:-guard] = fill
        return whole, whole[guard:-guard]

    def inside(*wholes):
        return all(x[:guard].isnan().all() and x[-guard:].isnan().all() for x in wholes)

    qkv_whole, qkv = guarded(T, 3, H, D, fill=torch.randn(T, 3, H, D).half())
    out_whole, out = guarded(T, H, D)
    dqkv_whole, dqkv = guarded(T, 3, H, D)
    lse = torch.zeros(H, T)
    q, k, v = qkv.unbind(1)
    sequences = {"lse": lse, "scale": 0.25, "cu_seqlens": cu_seqlens, "max_seqlen": max_seqlen}
    launch.write_output(q, k, v, out, **sequences)
    launch.write_gradients(out, q, k, v, out, *dqkv.unbind(1), **sequences)
    assert inside(out_whole, dqkv_whole, qkv_whole)
    assert out.isfinite().all()
    assert dqkv.isfinite().all()
    pooled, pool_lse = launch.pool_forward(q[:S], k, v, 0.25, cu_seqlens)
    gradients = torch.empty(S, H, D).half(), *dqkv.unbind(1)[1:]
    launch.pool_backward(pooled, q[:S], k, v, pooled, pool_lse, 0.25, gradients, cu_seqlens)
    assert inside(dqkv_whole)
    assert pooled.isfinite().all()
    assert gradients[0].isfinite().all()


# ---------------------------------------------------------------------------------------------------------
# Autograd, compilers, precision contexts

PUBLIC_OPS = {
    "flash_attention": lambda x: flash_attention(*x[:, :, :3].unbind(2)),
    "flash_attention_qkvpacked": lambda x: flash_attention_qkvpacked(x[:, :, :3]),
    "flash_attention_varlen": lambda x: flash_attention_varlen(
        x[:, :, :3].flatten(0, 1),
        torch.arange(0, x.shape[0] * 7 + 1, 7, dtype=torch.int32, device=x.device),
        7,
    ),
    "attention_pool": lambda x: attention_pool(x[0, 0, 3], x[:, :, 1:3]),
    "attention_pool_varlen": lambda x: attention_pool_varlen(
        x[:, 0, 3],
        x[:, :, 1:3].flatten(0, 1),
        torch.arange(0, x.shape[0] * 7 + 1, 7, dtype=torch.int32, device=x.device),
        7,
    ),
}
# (B, 7, 4, 2, 8): query, key and value of a self-attention, and the query of a pool
over_public_ops = pytest.mark.parametrize("op", PUBLIC_OPS.values(), ids=PUBLIC_OPS)


@pytest.mark.slow
def test_operators_are_well_registered():
    ops, dtype = torch.ops.clippo_kernels, torch.float16
    q, k, v = (torch.randn(2, N, 2, 16, dtype=dtype) for N in (5, 7, 7))
    qkv, ragged, cu_seqlens = torch.randn(2, 5, 3, 2, 16).to(dtype), torch.randn(5, 3, 2, 16), offsets(2, 3)
    query, kv = torch.randn(2, 2, 16).to(dtype), torch.randn(2, 5, 2, 2, 16).to(dtype)
    for forward, backward, inputs in (
        (ops.attention_forward, ops.attention_backward, (q, k, v, 0.25)),
        (ops.attention_packed_forward, ops.attention_packed_backward, (qkv, None, 0, 0, 0, 0.25)),
        (ops.attention_packed_forward, ops.attention_packed_backward, (ragged, cu_seqlens, 3, 0, 0, 0.25)),
        (ops.attention_packed_forward, ops.attention_packed_backward, (ragged, cu_seqlens, 3, 1, 2, 0.25)),
        (ops.attention_pool_forward, ops.attention_pool_backward, (query, kv, None, 0.25)),
        (
            ops.attention_pool_forward,
            ops.attention_pool_backward,
            (query.float(), ragged[:, 1:], cu_seqlens, 0.25),
        ),
    ):
        tensors = [x for x in inputs if torch.is_tensor(x) and x.is_floating_point()]
        rest = inputs[len(tensors) :]
        out, lse = forward(*inputs)
        torch.library.opcheck(forward, inputs)
        torch.library.opcheck(backward, (torch.randn_like(out), *tensors, out, lse, *rest))


@over_public_ops
@pytest.mark.slow
def test_compiles_whole_for_any_batch(backend, op):
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    torch.compiler.reset()
    compiled = torch.compile(op, fullgraph=True, backend=count)
    for B in (5, 3, 6):
        x = torch.randn(B, 7, 4, 2, 8, requires_grad=True)
        torch._dynamo.mark_dynamic(x, 0)
        out, expected = compiled(x), op(x)
        torch.testing.assert_close(out, expected)
        ours, theirs = (torch.autograd.grad(o.square().sum(), x) for o in (out, expected))
        torch.testing.assert_close(ours, theirs)
    assert len(graphs) == 1


@pytest.mark.slow
@over_public_ops
def test_exports_any_batch(backend, op):
    class Module(torch.nn.Module):
        def forward(self, x):
            return op(x)

    dynamic = {0: torch.export.Dim("B", min=2)}
    program = torch.export.export(Module(), (torch.randn(4, 7, 4, 2, 8),), dynamic_shapes=(dynamic,))
    x = torch.randn(3, 7, 4, 2, 8)
    torch.testing.assert_close(program.module()(x), op(x))


@pytest.mark.slow
def test_one_graph_holds_for_all_lengths(backend):
    ragged = torch.randn(9, 3, 2, 8, requires_grad=True)
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(flash_attention_varlen, fullgraph=True, backend=count)
    for lengths in ((4, 5), (9, 0), (1, 8)):
        out = compiled(ragged, offsets(*lengths), 9)
        torch.testing.assert_close(out, flash_attention_varlen(ragged, offsets(*lengths), 9))
    assert len(graphs) == 1


def test_fake_tensors_have_no_lengths_to_check(backend):
    with FakeTensorMode():
        out = flash_attention_varlen(torch.empty(9, 3, 2, 8), torch.empty(3, dtype=torch.int32), 9)
    assert out.shape == (9, 2, 8)


@over_public_ops
def test_autocast(backend, op):
    x = torch.randn(2, 7, 4, 2, 8, requires_grad=True)
    with torch.autocast(x.device.type, torch.bfloat16):
        out = op(x)
    assert out.dtype == torch.bfloat16
    assert torch.autograd.grad(out.sum(), x)[0].dtype == torch.float32
    with torch.autocast(x.device.type, torch.bfloat16):
        plain = op(x.bfloat16())
    assert torch.equal(out, plain)


@pytest.mark.slow
@over_public_ops
def test_activation_checkpointing(backend, op):
    x = torch.randn(2, 7, 4, 2, 8, requires_grad=True)
    plain, saved = op(x), checkpoint(op, x, use_reentrant=False)
    assert torch.equal(plain, saved)
    ours, theirs = (torch.autograd.grad(o.square().sum(), x)[0] for o in (saved, plain))
    assert torch.equal(ours, theirs)


@over_public_ops
def test_second_derivative_is_refused(monkeypatch, op):
    monkeypatch.setenv(BACKEND_VARIABLE, "triton")
    x = torch.randn(2, 7, 4, 2, 8, requires_grad=True)
    with pytest.raises(RuntimeError, match="can be differentiated once, not with create_graph=True"):
        torch.autograd.grad(op(x).sum(), x, create_graph=True)


# ---------------------------------------------------------------------------------------------------------
# Bad input

Q = torch.zeros(2, 5, 4, 8)
QKV = torch.zeros(2, 5, 3, 4, 8)
RAGGED = torch.zeros(9, 3, 4, 8)
CPU_OFFSETS = torch.tensor([0, 9], dtype=torch.int32)


@pytest.mark.parametrize(
    ("q", "k", "v", "error", "message"),
    [
        ("q", Q, Q, TypeError, r"q must be a tensor of shape \(B, Nq, H, D\), got str"),
        (Q[0], Q, Q, ValueError, r"q must have shape \(B, Nq, H, D\), got \(5, 4, 8\)"),
        (Q.int(), Q, Q, TypeError, "q must be floating, got torch.int32"),
        (Q.new_zeros(2, 5, 4, 129), Q, Q, ValueError, "q must have a head dim of 1 to 128, got 129"),
        (Q, Q[0], Q, ValueError, r"k must have shape \(B, Nk, H, D\), got \(5, 4, 8\)"),
        (Q, Q.double(), Q, TypeError, "k must have dtype torch.float32 like q, got torch.float64"),
        (Q, Q.to("meta"), Q, ValueError, "k must be on cpu like q, got meta"),
        (Q, Q[..., :6], Q, ValueError, r"k must have shape \(2, 5, 4, 8\) .* got \(2, 5, 4, 6\)"),
        (Q, Q[:1], Q, ValueError, r"k must have shape \(2, 5, 4, 8\) .* got \(1, 5, 4, 8\)"),
        (Q, Q[:, :, :2], Q, ValueError, r"k must have shape \(2, 5, 4, 8\) .* got \(2, 5, 2, 8\)"),
        (Q, Q[:, :3], Q, ValueError, r"v must have shape \(2, 3, 4, 8\) .* got \(2, 5, 4, 8\)"),
        (Q, Q, Q.bfloat16(), TypeError, "v must have dtype torch.float32 like q, got torch.bfloat16"),
    ],
)
def test_errors(q, k, v, error, message):
    with pytest.raises(error, match=message):
        flash_attention(q, k, v)


@pytest.mark.parametrize(
    ("qkv", "error", "message"),
    [
        (QKV[0], ValueError, r"qkv must have shape \(B, N, 3, H, D\), got \(5, 3, 4, 8\)"),
        (QKV[:, :, :2], ValueError, r"qkv must have 3 entries on axis 2, got \(2, 5, 2, 4, 8\)"),
        (QKV.int(), TypeError, "qkv must be floating, got torch.int32"),
        (QKV.new_zeros(2, 5, 3, 4, 160), ValueError, "qkv must have a head dim of 1 to 128, got 160"),
    ],
)
def test_packed_errors(qkv, error, message):
    with pytest.raises(error, match=message):
        flash_attention_qkvpacked(qkv)


def cpu_offsets(*lengths):
    return offsets(*lengths).cpu()


@pytest.mark.parametrize(
    ("qkv", "cu_seqlens", "error", "message"),
    [
        (QKV, [9], ValueError, r"qkv must have shape \(T, 3, H, D\), got \(2, 5, 3, 4, 8\)"),
        (RAGGED[:, :2], [9], ValueError, r"qkv must have 3 entries on axis 1, got \(9, 2, 4, 8\)"),
        (RAGGED, "no", TypeError, r"cu_seqlens must be a tensor of shape \(S \+ 1,\), got str"),
        (RAGGED, CPU_OFFSETS[None], ValueError, r"cu_seqlens must have shape \(S \+ 1,\), got \(1, 2\)"),
        (RAGGED, CPU_OFFSETS.long(), TypeError, "cu_seqlens must be int32, got torch.int64"),
        (RAGGED, CPU_OFFSETS.to("meta"), ValueError, "cu_seqlens must be on cpu like qkv, got meta"),
        (RAGGED, CPU_OFFSETS[:0], ValueError, r"cu_seqlens must have shape \(S \+ 1,\), got \(0,\)"),
        (RAGGED, CPU_OFFSETS[1:], ValueError, "cu_seqlens must start at 0, got 9"),
        (RAGGED, [4, 4], ValueError, "cu_seqlens must end at T = 9, got 8"),
        (RAGGED, [8, -3, 4], ValueError, "cu_seqlens must not decrease, got a step of -3"),
        (RAGGED, [9], ValueError, "cu_seqlens must hold lengths up to max_seqlen = 8, got 9"),
    ],
)
def test_varlen_errors(qkv, cu_seqlens, error, message):
    cu_seqlens = cpu_offsets(*cu_seqlens) if isinstance(cu_seqlens, list) else cu_seqlens
    with pytest.raises(error, match=message):
        flash_attention_varlen(qkv, cu_seqlens, 8)
    if qkv is RAGGED:
        with pytest.raises(error, match=message.replace("qkv", "kv")):
            attention_pool_varlen(QKV[0, 0, 0], RAGGED[:, 1:], cu_seqlens, 8)


@pytest.mark.parametrize(
    ("dense", "message"),
    [
        ((1, 3), "cu_seqlens must begin with 1 lengths of 3, as dense says, got one of 2"),
        ((1, 2), "cu_seqlens must hold lengths up to max_seqlen = 3, got 4"),
        ((4, 1), r"dense must be the number and the length of the first of 3 sequences of together 9 tokens"),
        ((2, 5), r"dense must be .*, got \(2, 5\)"),
        ((-1, 2), r"dense must be .*, got \(-1, 2\)"),
    ],
)
def test_dense_errors(dense, message):
    cu_seqlens = cpu_offsets(2, 4, 3)
    with pytest.raises(ValueError, match=message):
        flash_attention_varlen(RAGGED, cu_seqlens, 3, dense)
    with pytest.raises(ValueError, match=message):
        attention_pool_varlen(QKV[0, 0, 0], RAGGED[:, 1:], cu_seqlens, 3, dense)


@pytest.mark.parametrize(
    ("q", "kv", "error", "message"),
    [
        (Q[0, 0], QKV, ValueError, r"kv must have 2 entries on axis 2, got \(2, 5, 3, 4, 8\)"),
        (Q[0, 0], RAGGED[:, 1:], ValueError, r"kv must have shape \(B, N, 2, H, D\), got \(9, 2, 4, 8\)"),
        ("q", QKV[:, :, 1:], TypeError, r"q must be a tensor of shape \(B, H, D\), got str"),
        (Q, QKV[:, :, 1:], ValueError, r"q must have shape \(B, H, D\), got \(2, 5, 4, 8\)"),
        (Q[0], QKV[:, :, 1:], ValueError, r"q must have shape \(4, 8\) or \(2, 4, 8\) .* got \(5, 4, 8\)"),
        (
            Q[0, 0].half(),
            QKV[:, :, 1:],
            TypeError,
            "q must have dtype torch.float32 like kv, got torch.float16",
        ),
    ],
)
def test_pool_errors(q, kv, error, message):
    with pytest.raises(error, match=message):
        attention_pool(q, kv)


@pytest.mark.parametrize(
    ("scale", "error", "message"),
    [
        ("1", TypeError, "scale must be a number, got str"),
        (float("nan"), ValueError, "scale must be finite, got nan"),
        (float("inf"), ValueError, "scale must be finite, got inf"),
    ],
)
def test_scale_errors(scale, error, message):
    for call in (
        lambda: flash_attention(Q, Q, Q, scale=scale),
        lambda: flash_attention_qkvpacked(QKV, scale=scale),
        lambda: flash_attention_varlen(RAGGED, CPU_OFFSETS, 9, scale=scale),
        lambda: attention_pool(Q[0, 0], QKV[:, :, 1:], scale=scale),
        lambda: attention_pool_varlen(Q[0, 0], RAGGED[:, 1:], CPU_OFFSETS, 9, scale=scale),
    ):
        with pytest.raises(error, match=message):
            call()


def test_kernels_have_no_float64(monkeypatch):
    monkeypatch.setenv(BACKEND_VARIABLE, "triton")
    with pytest.raises(RuntimeError, match="flash_attention has no triton implementation"):
        flash_attention(*[Q.double()] * 3)


@over_public_ops
def test_transforms_of_torch_func(backend, op):
    x = torch.randn(3, 7, 4, 2, 8)

    def total(x):
        return op(x).square().sum()

    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(torch.func.grad(total)(x), torch.autograd.grad(total(leaf), leaf)[0])


@over_public_ops
def test_meta_tensors(op):
    x = torch.empty(3, 7, 4, 2, 8, device="meta", requires_grad=True)
    out = op(x)
    out.sum().backward()
    assert out.is_meta
    assert x.grad.shape == x.shape


def test_autocast_casts_before_dtypes_are_compared(backend):
    """As a float32 parameter beside the output of a Linear."""
    q, kv = torch.randn(2, 3, 8), torch.randn(2, 7, 2, 3, 8)
    with torch.autocast(q.device.type, torch.bfloat16):
        mixed = (
            attention_pool(q, kv.bfloat16()),
            flash_attention(q[:, None], kv[:, :, 0].bfloat16(), kv[:, :, 1]),
        )
        alike = attention_pool(q, kv), flash_attention(q[:, None], kv[:, :, 0], kv[:, :, 1])
    assert all(map(torch.equal, mixed, alike))
    with pytest.raises(TypeError, match=r"q must have dtype torch\.bfloat16 like kv, got torch\.float32"):
        attention_pool(q, kv.bfloat16())
