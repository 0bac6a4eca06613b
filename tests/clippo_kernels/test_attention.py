import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from clippo_kernels import flash_attention, flash_attention_qkvpacked, flash_attention_varlen


def explicit(q, k, v, scale=None):
    """Softmax attention written out, on (B, N, H, D)."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    p_BHNM = torch.einsum("bnhd,bmhd->bhnm", q * scale, k).softmax(-1)
    return torch.einsum("bhnm,bmhd->bnhd", p_BHNM, v)


def offsets(*lengths):
    return torch.tensor([0, *lengths]).cumsum(0).int()


def leaves(*tensors, dtype):
    return [t.detach().to(dtype).requires_grad_() for t in tensors]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("Nq", "Nk"), [(5, 3), (113, 203)])
@pytest.mark.parametrize("D", [1, 8, 80, 128])
def test_matches_explicit_softmax(assert_as_accurate, dtype, Nq, Nk, D):
    base = [torch.randn(2, N, 2, D).to(dtype) for N in (Nq, Nk, Nk)]
    do = torch.randn(2, Nq, 2, D).to(dtype)
    results = []
    for attention, kind in ((flash_attention, dtype), (explicit, dtype), (explicit, torch.float64)):
        qkv = leaves(*base, dtype=kind)
        out = attention(*qkv)
        results.append([out, *torch.autograd.grad(out, qkv, do.to(kind))])
    for ours, plain, oracle in zip(*results, strict=True):
        assert ours.dtype == dtype
        assert_as_accurate(ours, plain, oracle)


def test_one_key_is_its_value():
    q, k, v, do = torch.randn(4, 2, 1, 2, 80)
    q, k, v = leaves(q, k, v, dtype=torch.float32)
    out = flash_attention(q, k, v)
    dq, dk, dv = torch.autograd.grad(out, (q, k, v), do)
    assert torch.equal(out, v)
    torch.testing.assert_close(dv, do)
    torch.testing.assert_close(dq, torch.zeros_like(q))
    torch.testing.assert_close(dk, torch.zeros_like(k))


def test_gradients_in_float64():
    q, k, v = leaves(*(torch.randn(1, N, 2, 3) for N in (2, 3, 3)), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *qkv: flash_attention(*qkv, scale=0.7), (q, k, v))
    (packed,) = leaves(torch.randn(1, 3, 3, 2, 3), dtype=torch.float64)
    assert torch.autograd.gradcheck(flash_attention_qkvpacked, (packed,))
    (ragged,) = leaves(torch.randn(4, 3, 2, 2), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: flash_attention_varlen(x, offsets(3, 0, 1), 4), (ragged,))


@pytest.mark.parametrize("scale", [None, 0.0, 2.0])
def test_packed_and_scale(scale):
    (qkv,) = leaves(torch.randn(2, 7, 3, 2, 16), dtype=torch.float64)
    out = flash_attention_qkvpacked(qkv, scale=scale)
    expected = explicit(*qkv.unbind(2), scale)
    torch.testing.assert_close(out, expected)
    do = torch.randn_like(out)
    ours, theirs = (torch.autograd.grad(o, qkv, do)[0] for o in (out, expected))
    torch.testing.assert_close(ours, theirs)
    assert ours.is_contiguous()


def test_strides_do_not_matter():
    # Views of one packed projection, an expanded value, heads before tokens, and a last stride of 2.
    packed = torch.randn(2, 9, 3, 2, 8)
    q, k, v = packed.unbind(2)
    views = [
        (q, k, v),
        (q, k, v[:, :, :1].expand(-1, -1, 2, -1)),
        (q.transpose(1, 2).contiguous().transpose(1, 2), k, v),
        (q[:, ::2], k, v),
        (q[..., ::2], k[..., ::2], v[..., ::2]),
    ]
    for view in views:
        torch.testing.assert_close(flash_attention(*view), flash_attention(*(t.contiguous() for t in view)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [(5,), (3, 1, 8), (0, 4, 0, 0, 7, 0), (0, 0)])
@pytest.mark.parametrize("slack", [0, 3])
def test_varlen_is_each_sequence_alone(assert_as_accurate, dtype, lengths, slack):
    base, do = torch.randn(sum(lengths), 3, 2, 8).to(dtype), torch.randn(sum(lengths), 2, 8).to(dtype)

    def alone(qkv, *_):
        sequences = [explicit(*s[None].unbind(2))[0] for s in qkv.split(lengths) if len(s)]
        return torch.cat(sequences) if sequences else qkv[:, 0]

    results = []
    for attention, kind in ((flash_attention_varlen, dtype), (alone, dtype), (alone, torch.float64)):
        (qkv,) = leaves(base, dtype=kind)
        out = attention(qkv, offsets(*lengths), max(lengths) + slack)
        results.append([out, *torch.autograd.grad(out, qkv, do.to(kind))])
    for ours, plain, oracle in zip(*results, strict=True):
        assert ours.shape == oracle.shape
        if ours.numel():
            assert_as_accurate(ours, plain, oracle)


def test_empty_batch():
    for shape, attention in (
        ((0, 4, 3, 2, 8), flash_attention_qkvpacked),
        ((2, 0, 3, 2, 8), flash_attention_qkvpacked),
        ((0, 3, 2, 8), lambda qkv: flash_attention_varlen(qkv, offsets(), 0)),
        ((0, 3, 2, 8), lambda qkv: flash_attention_varlen(qkv, offsets(0, 0), 0)),
        ((0, 4, 2, 8), lambda q: flash_attention(q, q, q)),
    ):
        x = torch.randn(shape, requires_grad=True)
        out = attention(x)
        out.sum().backward()
        assert out.numel() == 0
        assert x.grad.shape == shape


def test_autocast():
    q = torch.randn(2, 5, 2, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert flash_attention(q, q, q).dtype == torch.bfloat16


def test_compiles_whole():
    qkv = torch.randn(2, 7, 3, 2, 8, requires_grad=True)
    compiled = torch.compile(flash_attention_qkvpacked, fullgraph=True, backend="aot_eager")
    out, expected = compiled(qkv), flash_attention_qkvpacked(qkv)
    torch.testing.assert_close(out, expected)
    ours, theirs = (torch.autograd.grad(o.square().sum(), qkv) for o in (out, expected))
    torch.testing.assert_close(ours, theirs)


def test_one_graph_holds_for_all_lengths():
    ragged = torch.randn(9, 3, 2, 8, requires_grad=True)
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(flash_attention_varlen, fullgraph=True, backend=count)
    for lengths in ((4, 5), (9, 0), (1, 8)):
        out = compiled(ragged, offsets(*lengths), 9)
        torch.testing.assert_close(out, flash_attention_varlen(ragged, offsets(*lengths), 9))
    assert len(graphs) == 1


def test_fake_tensors_have_no_lengths_to_check():
    with FakeTensorMode():
        out = flash_attention_varlen(torch.empty(9, 3, 2, 8), torch.empty(3, dtype=torch.int32), 9)
    assert out.shape == (9, 2, 8)


def test_deterministic():
    packed = torch.randn(2, 113, 3, 2, 8, requires_grad=True)
    ragged = torch.randn(113, 3, 2, 8, requires_grad=True)

    def run():
        out = flash_attention_qkvpacked(packed)
        out_varlen = flash_attention_varlen(ragged, offsets(50, 63), 63)
        loss = out.square().sum() + out_varlen.square().sum()
        return [out, out_varlen, *torch.autograd.grad(loss, (packed, ragged))]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


Q = torch.zeros(2, 5, 4, 8)
QKV = torch.zeros(2, 5, 3, 4, 8)
RAGGED = torch.zeros(9, 3, 4, 8)


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


@pytest.mark.parametrize(
    ("qkv", "cu_seqlens", "error", "message"),
    [
        (QKV, offsets(9), ValueError, r"qkv must have shape \(T, 3, H, D\), got \(2, 5, 3, 4, 8\)"),
        (RAGGED[:, :2], offsets(9), ValueError, r"qkv must have 3 entries on axis 1, got \(9, 2, 4, 8\)"),
        (RAGGED, [0, 9], TypeError, r"cu_seqlens must be a tensor of shape \(S \+ 1,\), got list"),
        (RAGGED, offsets(9)[None], ValueError, r"cu_seqlens must have shape \(S \+ 1,\), got \(1, 2\)"),
        (RAGGED, offsets(9).long(), TypeError, "cu_seqlens must be int32, got torch.int64"),
        (RAGGED, offsets(9).to("meta"), ValueError, "cu_seqlens must be on cpu like qkv, got meta"),
        (RAGGED, offsets(9)[:0], ValueError, r"cu_seqlens must have shape \(S \+ 1,\), got \(0,\)"),
        (RAGGED, offsets(9)[1:], ValueError, "cu_seqlens must start at 0, got 9"),
        (RAGGED, offsets(4, 4), ValueError, "cu_seqlens must end at T = 9, got 8"),
        (RAGGED, offsets(8, -3, 4), ValueError, "cu_seqlens must not decrease, got a step of -3"),
        (RAGGED, offsets(9), ValueError, "cu_seqlens must hold lengths up to max_seqlen = 8, got 9"),
    ],
)
def test_varlen_errors(qkv, cu_seqlens, error, message):
    with pytest.raises(error, match=message):
        flash_attention_varlen(qkv, cu_seqlens, 8)
