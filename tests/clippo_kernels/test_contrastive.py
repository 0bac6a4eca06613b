import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

import clippo_kernels
from clippo_kernels import contrastive_loss, sigmoid_loss
from clippo_kernels.contrastive import reference

WORKER = Path(__file__).with_name("contrastive_worker.py")


def explicit_contrastive(image, text, scale, bias=None):
    logits = scale * image @ text.T
    labels = torch.arange(len(image))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def explicit_sigmoid(image, text, scale, bias):
    z = 2 * torch.eye(len(image), dtype=image.dtype) - 1
    return -F.logsigmoid(z * (scale * image @ text.T + bias)).sum() / len(image)


def contrastive(image, text, scale, bias=None):
    return contrastive_loss(image, text, scale)


LOSSES = {
    "contrastive": (contrastive, explicit_contrastive),
    "sigmoid": (sigmoid_loss, explicit_sigmoid),
}
both_losses = pytest.mark.parametrize(("loss", "explicit"), LOSSES.values(), ids=LOSSES)


def embeddings(B, D, dtype=torch.float64):
    return [
        F.normalize(torch.randn(B, D, dtype=torch.float64), dim=-1).to(dtype).requires_grad_() for _ in "it"
    ]


def scalars(dtype, scale=10.0, bias=-2.0):
    return [torch.tensor(value, dtype=dtype, requires_grad=True) for value in (scale, bias)]


def loss_and_gradients(function, inputs):
    loss = function(*inputs)
    return [loss, *torch.autograd.grad(loss, inputs, materialize_grads=True)]


@pytest.fixture
def chunk_rows(monkeypatch):
    def set_rows(rows, columns, dtype):
        itemsize = reference.accumulation_dtype(dtype).itemsize
        monkeypatch.setattr(reference, "CHUNK_BYTES", rows * columns * itemsize)

    return set_rows


@both_losses
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("B", "D", "rows"), [(1, 3, 1), (2, 3, 1), (37, 19, 37), (37, 19, 5), (130, 64, 64)])
def test_matches_explicit(assert_as_accurate, chunk_rows, loss, explicit, dtype, B, D, rows):
    chunk_rows(rows, B, dtype)
    accumulate = reference.accumulation_dtype(dtype)
    inputs = [*embeddings(B, D, dtype), *scalars(accumulate)]
    upcast = [t.detach().to(accumulate).requires_grad_() for t in inputs]
    oracle_inputs = [t.detach().double().requires_grad_() for t in inputs]
    ours = loss_and_gradients(loss, inputs)
    plain = loss_and_gradients(explicit, upcast)
    oracle = loss_and_gradients(explicit, oracle_inputs)
    assert ours[0].dtype == accumulate
    assert ours[0].shape == ()
    for x, t in zip(ours[1:], inputs, strict=True):
        assert x.dtype == t.dtype
    for x, y, z, t in zip(ours[1:3], plain[1:3], oracle[1:3], inputs[:2], strict=True):
        # All sums are of the accumulation dtype; a gradient is rounded to the dtype of its embedding at last.
        assert_as_accurate(x, y.to(t.dtype), z)
    # One number may be right by luck in either, so that its error is no yardstick.
    for x, z in zip((ours[0], *ours[3:]), (oracle[0], *oracle[3:]), strict=True):
        torch.testing.assert_close(x.double(), z, rtol=1e-5, atol=1e-5)


@both_losses
def test_float64(chunk_rows, loss, explicit):
    chunk_rows(2, 5, torch.float64)
    inputs = [*embeddings(5, 3), *scalars(torch.float64)]
    ours, theirs = (loss_and_gradients(function, inputs) for function in (loss, explicit))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(loss, inputs)


@both_losses
def test_gradient_scales_with_what_comes_in(loss, explicit):
    inputs = [*embeddings(7, 3), *scalars(torch.float64)]
    ours = torch.autograd.grad(loss(*inputs) * 3, inputs, materialize_grads=True)
    theirs = torch.autograd.grad(explicit(*inputs) * 3, inputs, materialize_grads=True)
    torch.testing.assert_close(ours, theirs)


@both_losses
def test_scale_of_zero_has_a_gradient(loss, explicit):
    inputs = [*embeddings(7, 3), *scalars(torch.float64, scale=0.0)]
    torch.testing.assert_close(loss_and_gradients(loss, inputs), loss_and_gradients(explicit, inputs))


@both_losses
def test_large_scale_does_not_overflow(loss, explicit):
    image = F.normalize(torch.randn(33, 8), dim=-1).requires_grad_()
    text = (-image).detach().requires_grad_()  # the positives are the worst of their rows
    inputs = [image, text, *scalars(torch.float32, scale=100.0)]
    oracle = loss_and_gradients(explicit, [t.detach().double().requires_grad_() for t in inputs])
    for x, z in zip(loss_and_gradients(loss, inputs), oracle, strict=True):
        torch.testing.assert_close(x.double(), z, rtol=1e-4, atol=1e-4)


def test_known_values():
    one = torch.ones(1, 4)
    assert contrastive_loss(one, one, 5.0) == 0
    same = torch.ones(8, 4)
    torch.testing.assert_close(contrastive_loss(same, same, 5.0), torch.tensor(math.log(8)))
    torch.testing.assert_close(sigmoid_loss(same, same, 0.0, 0.0), torch.tensor(8 * math.log(2)))


@both_losses
@pytest.mark.parametrize("where", [0, 1, 2])
def test_nan_in_nan_out(loss, explicit, where):
    inputs = [*embeddings(5, 3), *scalars(torch.float64)]
    with torch.no_grad():
        inputs[where].view(-1)[0] = torch.nan
    assert loss(*inputs).isnan()


@both_losses
def test_scalars_may_be_numbers_or_hold_one_element(loss, explicit):
    image, text = embeddings(5, 3)
    expected = loss(image, text, torch.tensor(4.0), torch.tensor(-1.0))
    assert torch.equal(loss(image, text, 4.0, -1.0), expected)
    scale = torch.tensor([4.0], requires_grad=True)
    value = loss(image, text, scale, torch.tensor([-1.0]))
    value.backward()
    assert torch.equal(value, expected)
    assert scale.grad.shape == (1,)


@both_losses
def test_strides_do_not_matter(loss, explicit):
    wide, text = embeddings(10, 6)
    for image in (wide[::2, ::2], wide.T[:5, :3], wide[:1, :3].expand(5, -1), wide[:5, :1].expand(-1, 3)):
        inputs = [image, text.T[:5, :3], *scalars(torch.float64)]
        torch.testing.assert_close(loss_and_gradients(loss, inputs), loss_and_gradients(explicit, inputs))


@both_losses
def test_autocast_does_not_apply(loss, explicit):
    inputs = [*embeddings(9, 4, torch.float32), *scalars(torch.float32)]
    expected = loss_and_gradients(loss, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        ours = loss_and_gradients(loss, inputs)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@both_losses
def test_deterministic(chunk_rows, loss, explicit):
    chunk_rows(50, 300, torch.float32)
    inputs = [*embeddings(300, 32, torch.float32), *scalars(torch.float32)]
    runs = (loss_and_gradients(loss, inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@both_losses
def test_differentiates_once(loss, explicit):
    image, text = embeddings(5, 3)
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        torch.autograd.grad(loss(image, text, 4.0, -1.0), image, create_graph=True)


@both_losses
def test_exports_any_batch(loss, explicit):
    class Loss(torch.nn.Module):
        def forward(self, image, text):
            return loss(image, text, 10.0, -2.0)

    batch = {0: torch.export.Dim("B")}
    program = torch.export.export(Loss(), tuple(embeddings(4, 3)), dynamic_shapes=(batch, batch))
    image, text = embeddings(7, 3)
    torch.testing.assert_close(program.module()(image, text), loss(image, text, 10.0, -2.0))


@both_losses
def test_compiles_whole(loss, explicit):
    inputs = [*embeddings(9, 4), *scalars(torch.float64)]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(loss_and_gradients(compiled, inputs), loss_and_gradients(loss, inputs))
    torch.testing.assert_close(compiled(*inputs[:2], 3.0, -1.0), loss(*inputs[:2], 3.0, -1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("offset", [0, 3])
def test_operators_are_registered_well(dtype, offset):
    image, text = (t.detach() for t in embeddings(9, 4, dtype))
    shard = image[offset : offset + 5]
    scale, bias = torch.tensor(10.0), torch.tensor(-2.0)
    ops = torch.ops.clippo_kernels
    row_lse, column_lse, _ = ops.contrastive_forward(shard, text, scale, offset)
    for op, *args in (
        (ops.contrastive_forward.default, shard, text, scale),
        (ops.contrastive_backward.default, shard, text, scale, row_lse, column_lse),
        (ops.sigmoid_forward.default, shard, text, scale, bias),
        (ops.sigmoid_backward.default, shard, text, scale, bias),
    ):
        torch.library.opcheck(op, (*args, offset))


def peak_bytes(function, trace):
    """The most memory that tensors made by `function` held at one time, from the allocator's own events."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    profiler.export_chrome_trace(str(trace))
    events = [e for e in json.loads(trace.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


@both_losses
def test_never_holds_the_matrix(tmp_path, loss, explicit):
    B, D = 4096, 32
    inputs = [*embeddings(B, D, torch.float32), *scalars(torch.float32)]
    matrix_bytes = B * B * 4
    assert peak_bytes(lambda: loss_and_gradients(loss, inputs), tmp_path / "ours.json") < matrix_bytes / 4
    # The same measurement sees the matrix where there is one.
    with torch.no_grad():
        assert peak_bytes(lambda: explicit(*inputs), tmp_path / "explicit.json") >= matrix_bytes


IMAGE = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"image_embeddings": 0},
            TypeError,
            r"image_embeddings must be a tensor of shape \(B, D\), got int",
        ),
        (
            {"image_embeddings": IMAGE[0]},
            ValueError,
            r"image_embeddings must have shape \(B, D\)",
        ),
        ({"image_embeddings": IMAGE.int()}, TypeError, "image_embeddings must be floating, got torch.int32"),
        ({"text_embeddings": IMAGE[0]}, ValueError, r"text_embeddings must have shape \(B, D\), got \(3,\)"),
        (
            {"text_embeddings": IMAGE.double()},
            TypeError,
            "text_embeddings must have dtype torch.float32 like image_embeddings, got torch.float64",
        ),
        (
            {"text_embeddings": IMAGE.to("meta")},
            ValueError,
            "text_embeddings must be on cpu like image_embeddings, got meta",
        ),
        (
            {"text_embeddings": IMAGE[:3]},
            ValueError,
            r"text_embeddings must have shape \(4, 3\) like image_embeddings, got \(3, 3\)",
        ),
        (
            {"image_embeddings": IMAGE[:0], "text_embeddings": IMAGE[:0]},
            ValueError,
            r"image_embeddings must hold at least one pair, got \(0, 3\)",
        ),
        (
            {"logit_scale": torch.ones(2)},
            ValueError,
            r"logit_scale must have .* \(\) or \(1,\), got \(2,\)",
        ),
        ({"logit_scale": torch.tensor(1)}, TypeError, "logit_scale must be floating, got torch.int64"),
        (
            {"logit_scale": torch.tensor(1.0, device="meta")},
            ValueError,
            "logit_scale must be on cpu like image_embeddings, got meta",
        ),
    ],
)
def test_errors(arguments, error, message):
    arguments = {"image_embeddings": IMAGE, "text_embeddings": IMAGE, "logit_scale": 1.0} | arguments
    with pytest.raises(error, match=message):
        contrastive_loss(**arguments)
    with pytest.raises(error, match=message):
        sigmoid_loss(**arguments, logit_bias=0.0)


def test_bias_error():
    with pytest.raises(ValueError, match=r"logit_bias must have shape \(\) or \(1,\), got \(2,\)"):
        sigmoid_loss(IMAGE, IMAGE, 1.0, torch.zeros(2))


@pytest.fixture(scope="module")
def worker():
    spec = importlib.util.spec_from_file_location("contrastive_worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes computed."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"PYTHONPATH": str(Path(clippo_kernels.__file__).parents[1])}
    outs = [folder / f"{rank}.pt" for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER, str(rank), "2", folder / "store", out],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, out in enumerate(outs)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    return [torch.load(out) for out in outs]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16, "compiled"])
def test_two_processes_are_one(worker, ranks, name, kind):
    dtype = torch.float64 if kind == "compiled" else kind
    expected = worker.loss_and_gradients(
        worker.Towers(dtype), worker.LOSSES[name], *worker.data(dtype), group=None
    )
    for results in ranks:
        torch.testing.assert_close(results[name, kind], expected)
    for ours, theirs in zip(*(results[name, kind] for results in ranks), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("rows", "the same shapes on every rank, got (3, 4) and (3, 4), (4, 4) and (4, 4)"),
        ("empty on one rank", "the same shapes on every rank, got (0, 4) and (0, 4), (1, 4) and (1, 4)"),
        ("empty on all ranks", "image_embeddings must hold at least one pair, got (0, 4)"),
        ("unpaired on one rank", "the same shapes on every rank, got (3, 4) and (3, 4), (3, 4) and (4, 4)"),
        ("columns", "the same shapes on every rank, got (3, 4) and (3, 4), (3, 5) and (3, 5)"),
    ],
)
def test_ranks_refuse_alike(ranks, case, message):
    for results in ranks:
        assert message in results[case]
        torch.testing.assert_close(results["after"], torch.tensor(math.log(4)))
