import math
import os
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clippo.bench.harness import peak_cpu_memory
from clippo_kernels import contrastive_loss, sigmoid_loss, tuning
from clippo_kernels._ops import cast
from clippo_kernels.contrastive import eager, operators, reference
from clippo_kernels.contrastive.positives import Positives, by_label, with_soft_targets
from clippo_kernels.contrastive.problem import Problem
from clippo_kernels.dispatch import BACKEND_VARIABLE

pytestmark = pytest.mark.usefixtures("_on_gpu")


def explicit_contrastive(image, text, scale, bias=None, labels=None):
    return reference.contrastive_loss(image, text, scale, labels=labels)


def explicit_sigmoid(image, text, scale, bias, labels=None):
    return reference.sigmoid_loss(image, text, scale, bias, labels=labels)


def contrastive(image, text, scale, bias=None, labels=None):
    return contrastive_loss(image, text, scale, labels=labels)


def sigmoid(image, text, scale, bias, labels=None):
    return sigmoid_loss(image, text, scale, bias, labels=labels)


LOSSES = {"contrastive": (contrastive, explicit_contrastive), "sigmoid": (sigmoid, explicit_sigmoid)}
both_losses = pytest.mark.parametrize(("loss", "explicit"), LOSSES.values(), ids=LOSSES)
with_and_without_labels = pytest.mark.parametrize("labelled", [False, True], ids=["pairs", "labels"])


def embeddings(B, D, dtype=torch.float64, texts=None):
    return [
        F.normalize(torch.randn(n, D, dtype=torch.float64), dim=-1).to(dtype).requires_grad_()
        for n in (B, B if texts is None else texts)
    ]


def scalars(dtype, scale=10.0, bias=-2.0):
    return [torch.tensor(value, dtype=dtype, requires_grad=True) for value in (scale, bias)]


def some_labels(B, texts=None):
    """Several positives for some, none for others. The first image has one, so that there is a loss."""
    image, text = torch.randint(-B, B // 2 + 1, (2, max(B, texts or 0)))
    image, text = image[:B], text[: texts or B]
    text[0] = image[0]
    return image, text


def loss_and_gradients(function, inputs, **arguments):
    loss = function(*inputs, **arguments)
    return [loss.detach(), *torch.autograd.grad(loss, inputs, materialize_grads=True)]


@pytest.fixture
def block(monkeypatch):
    """Sets how many rows and columns are computed at a time, by the eager path and around the kernels."""

    def set_size(size):
        monkeypatch.setattr(eager, "BLOCK", size)
        if os.environ.get(BACKEND_VARIABLE) == "triton":
            from clippo_kernels.contrastive import launch

            monkeypatch.setattr(launch, "CHUNK", {2: size, 4: size})
            monkeypatch.setattr(launch, "PARTIAL_BYTES", 1)

    return set_size


# (1, 3): a softmax of one. (130, 300): more features than a row of the in-kernel backward takes.
SIZES = [
    *((1, 3, 1024), (2, 3, 1), (37, 19, 16), (130, 64, 1024), (150, 130, 1024)),
    *(pytest.param(*size, marks=pytest.mark.long) for size in ((5, 4096, 1024), (130, 300, 64))),
]


@pytest.mark.usefixtures("backend")
@both_losses
@with_and_without_labels
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.long)]
)
@pytest.mark.parametrize(("B", "D", "size"), SIZES)
def test_matches_explicit(
    assert_as_accurate, poisoned_memory, block, loss, explicit, dtype, B, D, size, labelled
):
    block(size)
    inputs = [*embeddings(B, D, dtype), *scalars(torch.float32)]
    labels = some_labels(B) if labelled else None
    with poisoned_memory():
        ours = loss_and_gradients(loss, inputs, labels=labels)
    plain = loss_and_gradients(explicit, inputs, labels=labels)
    oracle_inputs = [t.detach().double().requires_grad_() for t in inputs]
    oracle = loss_and_gradients(explicit, oracle_inputs, labels=labels)
    assert ours[0].dtype == torch.float32
    assert ours[0].shape == ()
    for x, y, z, t in zip(ours[1:3], plain[1:3], oracle[1:3], inputs[:2], strict=True):
        assert x.dtype == t.dtype
        # Where softmaxes cancel, the gradient is rounding, of numbers as large as the target of a pair.
        floor = 20 * torch.finfo(dtype).eps / B
        if z.abs().max() > floor:
            assert_as_accurate(x, y, z)
        else:
            torch.testing.assert_close(x.double(), z, rtol=0, atol=floor)
    # One number may be right by luck in either, so that its error is no yardstick.
    tolerance = 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
    torch.testing.assert_close(ours[0].double(), oracle[0], rtol=1e-6, atol=1e-6)
    for x, z in zip(ours[3:], oracle[3:], strict=True):
        torch.testing.assert_close(x.double(), z, rtol=4 * tolerance, atol=4 * tolerance)


@pytest.mark.slow
@pytest.mark.usefixtures("backend")
@both_losses
@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_loss_to_a_millionth(loss, explicit, scale):
    inputs = [*embeddings(256, 300, torch.float32), *scalars(torch.float32, scale)]
    oracle = explicit(*(t.detach().double() for t in inputs))
    torch.testing.assert_close(loss(*inputs).double(), oracle, rtol=1e-6, atol=0)


@both_losses
@with_and_without_labels
def test_float64(block, loss, explicit, labelled):
    block(2)
    inputs = [*embeddings(5, 3), *scalars(torch.float64)]
    labels = some_labels(5) if labelled else None
    ours, theirs = (loss_and_gradients(function, inputs, labels=labels) for function in (loss, explicit))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(lambda *x: loss(*x, labels=labels), inputs)


@both_losses
def test_gradient_scales_with_what_comes_in(loss, explicit):
    inputs = [*embeddings(7, 3), *scalars(torch.float64)]
    ours = torch.autograd.grad(loss(*inputs) * 3, inputs, materialize_grads=True)
    theirs = torch.autograd.grad(explicit(*inputs) * 3, inputs, materialize_grads=True)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.usefixtures("backend")
@both_losses
@pytest.mark.parametrize("scale", [0.0, -5.0])
def test_any_scale_has_a_gradient(loss, explicit, scale):
    inputs = [*embeddings(7, 3, torch.float32), *scalars(torch.float32, scale)]
    oracle = loss_and_gradients(explicit, [t.detach().double().requires_grad_() for t in inputs])
    for x, z in zip(loss_and_gradients(loss, inputs), oracle, strict=True):
        torch.testing.assert_close(x.double(), z, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("backend")
@both_losses
@pytest.mark.parametrize("D", [8, 260])
@pytest.mark.parametrize("norm", [1.0, 30.0])
def test_large_logits_do_not_overflow(loss, explicit, D, norm):
    image = F.normalize(torch.randn(33, D), dim=-1).mul(norm).requires_grad_()
    text = (-image / norm).detach().requires_grad_()  # the positives are the worst of their rows
    inputs = [image, text, *scalars(torch.float32, scale=100.0)]
    oracle = loss_and_gradients(explicit, [t.detach().double().requires_grad_() for t in inputs])
    for x, z in zip(loss_and_gradients(loss, inputs), oracle, strict=True):
        torch.testing.assert_close(x.double(), z, rtol=1e-4 * norm, atol=1e-4 * norm)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_confident_batch_keeps_its_small_gradients(assert_as_accurate, dtype):
    """Softmaxes near 1: what is left of them beside the pair is the gradient."""
    image = F.normalize(torch.randn(40, 64), dim=-1).to(dtype).requires_grad_()
    inputs = [image, image.detach().clone().requires_grad_(), torch.tensor(20.0, requires_grad=True)]
    oracle = loss_and_gradients(explicit_contrastive, [t.detach().double().requires_grad_() for t in inputs])
    plain = loss_and_gradients(explicit_contrastive, inputs)
    ours = loss_and_gradients(contrastive, inputs)
    for x, y, z in zip(ours[1:3], plain[1:3], oracle[1:3], strict=True):
        assert_as_accurate(x, y, z)


def of_range(kind):
    """Embeddings whose logits at a scale of 100 are close together or not, within tiles and between them."""
    image, text = (F.normalize(torch.randn(200, 16), dim=-1) for _ in range(2))
    if kind == "narrow":
        image, text = image / 5, text + 0.3
    elif kind == "far from zero":
        image, text = image / 10 + 2, text / 10 + 2
    elif kind == "some rows wide":
        image[10:20] *= 30
    elif kind == "some columns wide":
        text[70:150:7] *= -30
    return image, text


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("kind", ["narrow", "far from zero", "some rows wide", "some columns wide"])
@pytest.mark.parametrize("scale", [100.0, -100.0])
def test_tiles_of_any_range(assert_as_accurate, kind, scale):
    """Off the diagonal, rows and columns of a tile share their exponentials where its logits allow it."""
    inputs = [*(x.requires_grad_() for x in of_range(kind)), torch.tensor(scale, requires_grad=True)]
    oracle = loss_and_gradients(explicit_contrastive, [t.detach().double().requires_grad_() for t in inputs])
    plain = loss_and_gradients(explicit_contrastive, inputs)
    ours = loss_and_gradients(contrastive, inputs)
    torch.testing.assert_close(ours[0].double(), oracle[0], rtol=1e-6, atol=1e-6)
    for x, y, z in zip(ours[1:3], plain[1:3], oracle[1:3], strict=True):
        assert_as_accurate(x, y, z)


@pytest.mark.skipif(torch.cuda.is_available(), reason="runs the kernels on a CPU")
def test_sigmoid_loss_of_each_logit():
    """The polynomial and the exponentials, one logit a row: a relative error of exp(x) is an error of x."""
    from clippo_kernels.contrastive import launch

    x = torch.cat([torch.linspace(-80, 80, 1601), torch.linspace(-1, 1, 401)])
    negatives = by_label(torch.zeros(len(x), dtype=torch.int64), torch.ones(1, dtype=torch.int64))
    one, zero = torch.ones(()), torch.zeros(())
    ours = launch.sigmoid_forward(x[:, None], torch.ones(1, 1), one, zero, negatives)
    theirs = F.softplus(x.double(), threshold=200), x.double().sigmoid()
    for y, z in zip(ours, theirs, strict=True):
        assert ((y.double() / z - 1).abs() / (2 + x.abs())).max() < torch.finfo(torch.float32).eps


@pytest.mark.skipif(torch.cuda.is_available(), reason="runs the kernels on a CPU")
@pytest.mark.parametrize(("kind", "shared"), [("some rows wide", False), ("narrow", True)])
def test_narrow_tiles_share_exponentials(kind, shared):
    from clippo_kernels._triton import launch_hook
    from clippo_kernels.contrastive import launch

    partials = []

    def keep(kernel, programs, args, options):
        kernel[(programs,)](*args, **options)
        if kernel.__name__ == "forward":
            partials.append(args[kernel.arg_names.index("row_partials")])

    with launch_hook(keep):
        launch.contrastive_forward(*of_range(kind), torch.tensor(100.0), Positives())
    highest = partials[0][0]  # of each tile of columns, in the rows; a tile has 64 of each
    assert len(highest[1, :64].unique()) == (1 if shared else 64)
    assert len(highest[0, :64].unique()) == 64  # on the diagonal


@pytest.mark.usefixtures("backend")
def test_known_values():
    one = torch.ones(1, 4)
    assert contrastive_loss(one, one, 5.0) == 0
    same = torch.ones(8, 4)
    torch.testing.assert_close(contrastive_loss(same, same, 5.0), torch.tensor(math.log(8)))
    torch.testing.assert_close(sigmoid_loss(same, same, 0.0, 0.0), torch.tensor(8 * math.log(2)))
    # All of one label: every pair is a positive.
    labels = (torch.zeros(8, dtype=torch.int64),) * 2
    torch.testing.assert_close(contrastive_loss(same, same, 5.0, labels=labels), torch.tensor(math.log(8)))


@pytest.mark.usefixtures("backend")
@both_losses
def test_duplicates_and_equal_embeddings(loss, explicit):
    image, text = embeddings(12, 8, torch.float32)
    for rows in ([0] * 12, [0, 1, 2] * 4):
        inputs = [x.detach()[rows].requires_grad_() for x in (image, text)] + scalars(torch.float32)
        oracle = loss_and_gradients(explicit, [t.detach().double().requires_grad_() for t in inputs])
        for x, z in zip(loss_and_gradients(loss, inputs), oracle, strict=True):
            torch.testing.assert_close(x.double(), z, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("backend")
@both_losses
@pytest.mark.parametrize(("B", "texts"), [(5, 13), (140, 20)])
def test_labels_allow_other_numbers_of_texts(block, loss, explicit, B, texts):
    block(16)
    inputs = [*embeddings(B, 6, torch.float32, texts), *scalars(torch.float32)]
    labels = some_labels(B, texts)
    oracle = loss_and_gradients(
        explicit, [t.detach().double().requires_grad_() for t in inputs], labels=labels
    )
    for x, z in zip(loss_and_gradients(loss, inputs, labels=labels), oracle, strict=True):
        torch.testing.assert_close(x.double(), z, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("backend")
@both_losses
def test_labels_of_pairs_are_no_labels(loss, explicit):
    inputs = [*embeddings(20, 6, torch.float32), *scalars(torch.float32)]
    labels = (torch.arange(20) * 2**40 - 5,) * 2  # any 64-bit numbers
    ours, theirs = (loss_and_gradients(loss, inputs, labels=x) for x in (labels, None))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.usefixtures("backend")
def test_labels_without_any_positive():
    image, text = embeddings(4, 6, torch.float32)
    labels = torch.arange(4), torch.arange(4) + 4
    assert contrastive_loss(image, text, 5.0, labels=labels).isnan()
    assert sigmoid_loss(image, text, 5.0, -2.0, labels=labels) > 0


@pytest.mark.usefixtures("backend")
@both_losses
@with_and_without_labels
@pytest.mark.parametrize("where", [0, 1, 2])
def test_nan_in_nan_out(loss, explicit, where, labelled):
    inputs = [*embeddings(5, 3, torch.float32), *scalars(torch.float32)]
    with torch.no_grad():
        inputs[where].view(-1)[0] = torch.nan
    result, *gradients = loss_and_gradients(loss, inputs, labels=some_labels(5) if labelled else None)
    assert result.isnan()
    assert gradients[2].isnan()


@pytest.mark.usefixtures("backend")
@both_losses
def test_scalars_may_be_numbers_or_hold_one_element(loss, explicit):
    image, text = embeddings(5, 3, torch.float32)
    expected = loss(image, text, torch.tensor(4.0), torch.tensor(-1.0))
    assert torch.equal(loss(image, text, 4.0, -1.0), expected)
    scale = torch.tensor([4.0], requires_grad=True)
    value = loss(image, text, scale, torch.tensor([-1.0]))
    value.backward()
    assert torch.equal(value, expected)
    assert scale.grad.shape == (1,)


@pytest.mark.usefixtures("backend")
@both_losses
def test_strides_do_not_matter(loss, explicit):
    wide, text = embeddings(10, 6, torch.float32)
    for image in (wide[::2, ::2], wide.T[:5, :3], wide[:1, :3].expand(5, -1), wide[:5, :1].expand(-1, 3)):
        inputs = [image, text.T[:5, :3], *scalars(torch.float32)]
        ours, theirs = (loss_and_gradients(f, inputs) for f in (loss, explicit))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("backend")
@both_losses
def test_autocast_decides_the_dtype_of_products(loss, explicit):
    inputs = [*embeddings(9, 4, torch.float32), *scalars(torch.float32)]
    rounded = [x.detach().bfloat16().requires_grad_() for x in inputs[:2]] + inputs[2:]
    expected = loss_and_gradients(loss, rounded)
    with torch.autocast(inputs[0].device.type, torch.bfloat16):
        ours = loss_and_gradients(loss, inputs)
    assert all(torch.equal(a, b.to(a.dtype)) for a, b in zip(ours, expected, strict=True))
    assert ours[1].dtype == torch.float32


@pytest.mark.slow
@pytest.mark.usefixtures("backend")
@both_losses
@with_and_without_labels
def test_deterministic(block, loss, explicit, labelled):
    block(50)
    inputs = [*embeddings(150, 32, torch.float32), *scalars(torch.float32)]
    labels = some_labels(150) if labelled else None
    runs = (loss_and_gradients(loss, inputs, labels=labels) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@both_losses
def test_differentiates_once(loss, explicit):
    image, text = embeddings(5, 3)
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        torch.autograd.grad(loss(image, text, 4.0, -1.0), image, create_graph=True)


@pytest.mark.slow
@pytest.mark.usefixtures("backend")
@both_losses
def test_exports_any_batch(loss, explicit):
    class Loss(torch.nn.Module):
        def forward(self, image, text):
            return loss(image, text, 10.0, -2.0)

    batch = {0: torch.export.Dim("B")}
    program = torch.export.export(
        Loss(), tuple(embeddings(4, 3, torch.float32)), dynamic_shapes=(batch, batch)
    )
    image, text = embeddings(7, 3, torch.float32)
    torch.testing.assert_close(program.module()(image, text), loss(image, text, 10.0, -2.0))


@pytest.mark.usefixtures("backend")
@both_losses
@with_and_without_labels
@pytest.mark.slow
def test_compiles_whole(loss, explicit, labelled):
    inputs = [*embeddings(9, 4, torch.float32), *scalars(torch.float32)]
    labels = some_labels(9) if labelled else None
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    ours, theirs = (loss_and_gradients(f, inputs, labels=labels) for f in (compiled, loss))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(compiled(*inputs[:2], 3.0, -1.0), loss(*inputs[:2], 3.0, -1.0))


@pytest.mark.slow
@both_losses
def test_compiled_float64_has_its_gradients(loss, explicit):
    # The result has the dtype of its sums: a cast that does nothing would cost the gradients, see `cast`.
    inputs = [*embeddings(9, 4), *scalars(torch.float64)]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(loss_and_gradients(compiled, inputs), loss_and_gradients(loss, inputs))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("positives", ["pairs", "offset", "labels"])
def test_operators_are_registered_well(backend, dtype, positives):
    image, text = (t.detach() for t in embeddings(9, 4, dtype))
    own = slice(3, 8) if positives != "pairs" else slice(0, 9)
    if positives == "labels":
        pairs, _ = with_soft_targets(by_label(*some_labels(9)), torch.float32)
        pairs = pairs.block(own, slice(0, 9))
    else:
        pairs = Positives(own.start)
    rest = *pairs, backend, ""
    scale, bias, factor = torch.tensor(10.0), torch.tensor(-2.0), torch.tensor(0.1)
    ops, shard = torch.ops.clippo_kernels, image[own]
    row_lse, column_lse, positive = ops.contrastive_forward(shard, text, scale, *rest)
    softmax, sigmoid = ((shard, text, scale, x, factor) for x in (None, bias))
    weights = (torch.rand(5), column_lse, torch.rand(9)) if positives == "labels" else (None, None, None)
    for op, *args in (
        (ops.contrastive_forward.default, shard, text, scale, *rest),
        (ops.total.default, row_lse, torch.float32, backend, *weights, positive, factor, 3),
        (ops.total.default, row_lse, torch.float32, backend),
        (ops.sigmoid_forward.default, shard, text, scale, bias, *rest),
        (ops.contrastive_backward.default, *softmax, row_lse, column_lse, *rest, dtype, torch.float32),
        (ops.contrastive_backward.default, *sigmoid, None, None, *rest, dtype, dtype),
    ):
        torch.library.opcheck(op, args)


def test_both_backwards_are_chosen_by_the_table():
    for architecture in tuning.ARCHITECTURES:
        with tuning.assume(architecture):
            chosen = [
                tuning.find("contrastive.gradient", torch.device("cpu"), dtype, channels=D)
                for D, dtype in ((64, torch.bfloat16), (1024, torch.bfloat16), (64, torch.float32))
            ]
            assert [options is not None for options in chosen] == [True, False, False]


@pytest.mark.long
@pytest.mark.skipif(torch.cuda.is_available(), reason="counts the memory of the CPU")
@both_losses
@with_and_without_labels
@pytest.mark.slow
def test_never_holds_the_matrix(loss, explicit, labelled):
    B, D = 8192, 32
    inputs = [*embeddings(B, D, torch.float32), *scalars(torch.float32)]
    labels = some_labels(B) if labelled else None
    matrix_bytes = B * B * 4
    assert peak_cpu_memory(lambda: loss_and_gradients(loss, inputs, labels=labels)) < matrix_bytes / 8
    # The same measurement sees the matrix where there is one.
    if not labelled:
        with torch.no_grad():
            assert peak_cpu_memory(lambda: explicit(*inputs)) >= matrix_bytes


class PeakMemory(TorchDispatchMode):
    """Follows the bytes of the tensors that operators make, also of tensors without memory."""

    def __init__(self, *known):
        self.known = {id(x.untyped_storage()) for x in known}
        self.held = self.peak = 0
        super().__init__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if torch.is_tensor(x) and id(storage := x.untyped_storage()) not in self.known:
                self.known.add(id(storage))
                self.held += storage.nbytes()
                self.peak = max(self.peak, self.held)
                weakref.finalize(storage, self.forget, id(storage), storage.nbytes())
        return result

    def forget(self, storage, nbytes):
        self.known.discard(storage)
        self.held -= nbytes


@both_losses
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("B", "D"), [(65536, 768), (65536, 256), pytest.param(2**18, 64, marks=pytest.mark.long)]
)
def test_memory_around_the_kernels(loss, explicit, B, D, dtype):
    """What forward and backward hold beside their inputs, gradients among it, by either backward."""
    from clippo_kernels._triton import launch_hook
    from clippo_kernels.contrastive import launch

    image, text = torch.empty(2, B, D, dtype=dtype, device="meta")
    number = torch.empty((), device="meta")
    with launch_hook(lambda *_: None), PeakMemory(image, text) as memory:
        if loss is contrastive:
            shifts = launch.contrastive_forward(image, text, number, Positives())[:2]
            problem = Problem(image, text, number, None, number, *shifts, Positives())
        else:
            launch.sigmoid_forward(image, text, number, number, Positives())
            problem = Problem(image, text, number, number, number, None, None, Positives())
        launch.backward(problem, dtype, dtype)
    assert 2 * image.nbytes < memory.peak < 512 * 2**20


def test_products_without_memory_need_no_mixed_precision(monkeypatch):
    """torch.addmm with an out_dtype raises for meta tensors in torch 2.11."""
    from clippo_kernels.contrastive import launch

    monkeypatch.delattr(torch, "addmm")
    total = torch.empty(4, 6, device="meta")
    a, b = (torch.empty(shape, dtype=torch.bfloat16, device="meta") for shape in ((4, 5), (5, 6)))
    launch.set_or_add_product(total, a, b, is_first=False)


# Operators that launch nothing: views, allocations that are not filled, and queries of dtypes.
FREE = {
    "alias", "as_strided", "detach", "empty", "empty_like", "empty_strided", "expand", "new_empty", "numpy_T",
    "permute", "promote_types", "select", "slice", "split", "t", "transpose", "unbind", "unsqueeze", "view",
}  # fmt: skip


class DeviceOperations(TorchDispatchMode):
    """Counts PyTorch's operators, those inside of our own too, and launches of kernels."""

    def __init__(self):
        self.names = []
        super().__init__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        namespace, _, name = func.name().partition("::")
        if namespace == "clippo_kernels":
            inside = "run_backward" if name == "contrastive_backward" else f"run_{name}"
            with torch.no_grad(), self:
                return getattr(operators, inside)(*args, **(kwargs or {}))
        if name.partition(".")[0] not in FREE:
            self.names.append(name)
        return func(*args, **(kwargs or {}))

    def launched(self, kernel, programs, args, options):
        self.names.append(kernel.__name__)
        with torch.utils._python_dispatch._disable_current_modes():
            kernel[(programs,)](*args, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="runs the kernels on a CPU")
@pytest.mark.parametrize(
    ("loss", "labelled", "chunks", "in_kernel"),
    [
        (contrastive, False, 11, 9),
        (contrastive, True, 44, 42),
        (sigmoid, False, 11, 9),
        (sigmoid, True, 14, 12),
    ],
    ids=["contrastive", "contrastive, labels", "sigmoid", "sigmoid, labels"],
)
def test_device_operations(monkeypatch, loss, labelled, chunks, in_kernel):
    """Forward and backward launch a fixed number of device operations, in both kinds of backward."""
    from clippo_kernels._triton import launch_hook

    monkeypatch.setenv(BACKEND_VARIABLE, "triton")
    labels = some_labels(9) if labelled else None
    # float32 goes by chunks; 16-bit embeddings of 32 features do not.
    for dtype, expected in ((torch.float32, chunks), (torch.bfloat16, in_kernel)):
        inputs = [*embeddings(9, 32, dtype), *scalars(torch.float32)]
        counted = DeviceOperations()
        with launch_hook(counted.launched), counted:
            loss(*inputs, labels=labels).backward()
        assert len(counted.names) == expected, counted.names


def test_a_result_that_has_its_dtype_is_not_cast():
    x = torch.zeros(3)
    assert cast(x, torch.float32) is x
    assert cast(x, torch.float64).dtype == torch.float64


IMAGE = torch.zeros(4, 3)
FOUR = torch.arange(4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"image_embeddings": 0},
            TypeError,
            r"image_embeddings must be a tensor of shape \(B, D\), got int",
        ),
        ({"image_embeddings": IMAGE[0]}, ValueError, r"image_embeddings must have shape \(B, D\)"),
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
            {"text_embeddings": IMAGE[:, :2]},
            ValueError,
            r"text_embeddings must have shape \(4, 3\) like image_embeddings, got \(4, 2\)",
        ),
        (
            {"text_embeddings": IMAGE[:, :2], "labels": (FOUR, FOUR)},
            ValueError,
            r"text_embeddings must have rows of 3 features like image_embeddings, got \(4, 2\)",
        ),
        (
            {"image_embeddings": IMAGE[:0], "text_embeddings": IMAGE[:0]},
            ValueError,
            r"image_embeddings must hold at least one row, got \(0, 3\)",
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
        (
            {"group": "WORLD"},
            TypeError,
            "group must be a torch.distributed.ProcessGroup or None, got 'WORLD'",
        ),
        ({"labels": FOUR}, TypeError, r"labels must be a pair of tensors, .* got torch.int64 \(4,\)"),
        ({"labels": (FOUR,)}, TypeError, "labels must be a pair of tensors, of images and of texts"),
        ({"labels": (FOUR, FOUR[:3])}, ValueError, r"labels\[1\] must have shape \(4,\), got \(3,\)"),
        ({"labels": (FOUR[:, None], FOUR)}, ValueError, r"labels\[0\] must have shape \(B,\), got \(4, 1\)"),
        ({"labels": (FOUR.int(), FOUR)}, TypeError, r"labels\[0\] must have dtype torch.int64, got .*int32"),
        (
            {"labels": (FOUR, FOUR.to("meta"))},
            ValueError,
            r"labels\[1\] must be on cpu like image_embeddings",
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


def test_kernels_do_not_take_float64(monkeypatch):
    monkeypatch.setenv(BACKEND_VARIABLE, "triton")
    with pytest.raises(RuntimeError, match="contrastive_loss has no triton implementation .*float64"):
        contrastive_loss(IMAGE.double(), IMAGE.double(), 1.0)


@pytest.mark.usefixtures("backend")
@both_losses
@with_and_without_labels
def test_transforms_of_torch_func(loss, explicit, labelled):
    labels = some_labels(5) if labelled else None
    image, text = (x.detach() for x in embeddings(5, 6, torch.float32))
    scale, bias = (x.detach() for x in scalars(torch.float32))

    def of_image(x):
        return loss(x, text, scale, bias, labels=labels)

    def expected(x):
        return explicit(x, text, scale, bias, labels=labels)

    leaf = image.clone().requires_grad_()
    gradient = torch.autograd.grad(of_image(leaf), leaf)[0]
    torch.testing.assert_close(torch.func.grad(of_image)(image), gradient, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(torch.func.hessian(of_image)(image), torch.func.hessian(expected)(image))
    several = torch.stack([image, image.flip(0)])
    each = torch.stack([of_image(x) for x in several])
    torch.testing.assert_close(torch.func.vmap(of_image)(several), each)


@both_losses
def test_meta_tensors(loss, explicit):
    image, text, scale, bias = (
        torch.empty(s, device="meta", requires_grad=True) for s in ((5, 6), (5, 6), (), ())
    )
    loss(image, text, scale, bias).backward()
    assert image.grad.shape == image.shape
    assert image.grad.is_meta


@both_losses
def test_autocast_casts_before_dtypes_are_compared(loss, explicit):
    image, text = (x.detach() for x in embeddings(5, 6, torch.float32))
    scale, bias = scalars(torch.float32)
    with torch.autocast(image.device.type, torch.bfloat16):
        mixed, alike = loss(image.bfloat16(), text, scale, bias), loss(image, text, scale, bias)
    assert torch.equal(mixed, alike)


def test_numbers_are_not_copied_from_the_host(monkeypatch):
    """The host would wait for the GPU to take them, and a CUDA graph cannot hold such a copy."""
    monkeypatch.setenv(BACKEND_VARIABLE, "triton")
    monkeypatch.setattr(torch, "tensor", lambda *_, **__: pytest.fail("torch.tensor copies from the host"))
    image, text = torch.empty(2, 5, 8, device="meta", requires_grad=True)
    loss = contrastive_loss(image, text, 10.0) + sigmoid_loss(image, text, 10.0, -1.0)
    loss.backward()
