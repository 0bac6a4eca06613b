import itertools
from functools import partial
from importlib import import_module

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from clippo_kernels import patch_embed, patch_embed_select, tuning
from clippo_kernels.dispatch import BACKEND_VARIABLE
from clippo_kernels.patch_embed import reference

pytestmark = pytest.mark.usefixtures("_on_gpu")

ON_GPU = torch.cuda.is_available()
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def parameters(D=24, P=4, N=6, dtype=torch.float32):
    weight = torch.randn(D, 3, P, P) * (3 * P * P) ** -0.5
    return [t.to(dtype) for t in (weight, torch.randn(D), torch.randn(N, D))]


def pixels(*shape, dtype=torch.uint8):
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    return images if dtype == torch.uint8 else (images / 255).to(dtype)


def leaves(*tensors, dtype=None):
    """Floating tensors as leaves that want a gradient, of `dtype` if it is given; bytes as they are."""
    return [t.detach().to(dtype or t.dtype).requires_grad_() if t.is_floating_point() else t for t in tensors]


def tokens_and_gradients(embed, images, args, dtype=None):
    """Gradients of floating images too. All in `dtype`, or in whatever the inputs come in."""
    inputs = leaves(images, *args, dtype=dtype)
    tokens = embed(*inputs)
    dtokens = torch.randn(
        tokens.shape, generator=torch.Generator(tokens.device).manual_seed(1), device=tokens.device
    )
    wanted = [x for x in inputs if x.requires_grad]
    return [tokens, *torch.autograd.grad(tokens, wanted, dtokens.to(args[0].dtype).to(tokens.dtype))]


@pytest.fixture
def check_accuracy(assert_as_accurate, poisoned_memory):
    """Tokens and gradients against float64, scaled by the error of the plain chain at the same dtype."""

    def check(ours, plain, images, args):
        with poisoned_memory():
            results = tokens_and_gradients(ours, images, args)
        # The plain chain rounds floating images to the dtype of the weight first; its gradient of them is
        # compared where that is their own dtype.
        plains = tokens_and_gradients(plain, images, args)
        oracles = tokens_and_gradients(plain, images, args, dtype=torch.float64)
        for result, plain_result, oracle in zip(results, plains, oracles, strict=True):
            assert result.dtype == plain_result.dtype
            assert_as_accurate(result, plain_result, oracle)

    return check


def selects(keep_indices, **options):
    """`patch_embed_select` and its reference, as functions of the images and parameters alone."""
    return [
        lambda images, *args, op=op: op(images, keep_indices, *args, **options)
        for op in (patch_embed_select, reference.patch_embed_select)
    ]


def index(*pairs):
    return torch.tensor(pairs, dtype=torch.int32).reshape(-1, 2)


def random_index(T, B, N):
    return torch.stack((torch.randint(B, (T,)), torch.randint(N, (T,))), 1).int()


# ---------------------------------------------------------------------------------------------------------
# Accuracy

IMAGE_DTYPES = [
    (dtype, image_dtype) for dtype in DTYPES for image_dtype in {torch.uint8, torch.float32, dtype}
]


@pytest.mark.parametrize(("dtype", "image_dtype"), sorted(IMAGE_DTYPES, key=str), ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (2, 8, 12, 3), (2, 8, 12, 1)], ids=str)
@pytest.mark.parametrize(
    ("mean", "std"),
    [pytest.param(0.5, 0.5, marks=pytest.mark.long), (IMAGENET_MEAN, IMAGENET_STD)],
    ids=["half", "imagenet"],
)
def test_matches_conv2d(check_accuracy, backend, dtype, image_dtype, shape, mean, std):
    images, args = pixels(*shape, dtype=image_dtype), parameters(dtype=dtype)
    statistics = {"mean": mean, "std": std}
    ours, plain = (partial(op, **statistics) for op in (patch_embed, reference.patch_embed))
    check_accuracy(ours, plain, images, args)
    # every patch, out of order and some twice
    check_accuracy(*selects(random_index(20, 2, 6), **statistics), images, args)


# P, the image, D: every side of a patch and others, grids that are not square, widths that fill no tile
GEOMETRIES = [
    pytest.param(8, (16, 24), 130, marks=pytest.mark.long),
    (14, (28, 42), 40),
    pytest.param(16, (32, 48), 192, marks=pytest.mark.long),
    pytest.param(32, (64, 32), 24, marks=pytest.mark.long),
    (1, (2, 3), 5),
    (5, (10, 15), 7),
    (16, (16, 16), 1),
]
GEOMETRY_DTYPES = [torch.float32, torch.bfloat16]
if ON_GPU:  # real sizes, and no more than compile in a minute or two
    GEOMETRIES = [(16, (224, 224), 768), (14, (378, 378), 1152), (8, (64, 96), 192), (32, (384, 384), 1280)]
    GEOMETRIES += [(5, (10, 15), 7)]
    GEOMETRY_DTYPES = [torch.bfloat16]


@pytest.mark.parametrize("dtype", GEOMETRY_DTYPES, ids=str)
@pytest.mark.parametrize("channels", ["first", "last", "grey"])
@pytest.mark.parametrize(("P", "size", "D"), GEOMETRIES, ids=str)
def test_geometries(check_accuracy, backend, dtype, channels, P, size, D):
    H, W = size
    N = (H // P) * (W // P)
    images = pixels(*{"first": (3, 3, H, W), "last": (3, H, W, 3), "grey": (3, 1, H, W)}[channels])
    args = parameters(D, P, N, dtype)
    check_accuracy(patch_embed, reference.patch_embed, images, args)
    check_accuracy(*selects(random_index(5, 3, N)), images, args)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("B", "size"),
    [
        (67, (4, 8)),
        pytest.param(40, (8, 12), marks=pytest.mark.long),
        pytest.param(3, (40, 40), marks=pytest.mark.long),
    ],
    ids=str,
)
@pytest.mark.parametrize("num_sms", [pytest.param(1, marks=pytest.mark.long), 20])
def test_sums_over_many_rows(check_accuracy, monkeypatch, dtype, B, size, num_sms):
    # Fewer and more patches in an image than rows in a tile; in one long sum, or with more SMs
    # than tiles, so that every sum is split.
    monkeypatch.setenv(BACKEND_VARIABLE, "triton")
    launch = import_module("clippo_kernels.patch_embed.launch")
    monkeypatch.setattr(launch, "num_sms", lambda device: num_sms)
    H, W = size
    N = (H // 4) * (W // 4)
    images, args = pixels(B, 3, H, W), parameters(D=140, N=N, dtype=dtype)
    check_accuracy(patch_embed, reference.patch_embed, images, args)
    check_accuracy(*selects(random_index(133, B, N)), images, args)


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    [pytest.param(name, marks=() if name == "sm_90" else pytest.mark.long) for name in tuning.ARCHITECTURES],
)
def test_every_launch_table(check_accuracy, monkeypatch, architecture):
    if ON_GPU and architecture != tuning.architecture(torch.device("cuda")):
        pytest.skip("not the table of this GPU")
    monkeypatch.setenv(BACKEND_VARIABLE, "triton")
    with tuning.assume(architecture):
        for C, image_dtype, dtype in (
            (1, torch.uint8, torch.float16),
            (3, torch.uint8, torch.float16),
            (3, torch.float16, torch.float16),
            (3, torch.float32, torch.float16),
            (3, torch.float32, torch.float32),
        ):
            images, args = pixels(2, C, 32, 16, dtype=image_dtype), parameters(40, 16, 2, dtype)
            check_accuracy(patch_embed, reference.patch_embed, images, args)


@pytest.mark.parametrize("level", [0, 127, 255], ids=["black", "grey", "white"])
@pytest.mark.parametrize("C", [1, 3])
def test_flat_images_in_bfloat16(assert_as_accurate, backend, level, C):
    # Rendered text is mostly one flat level: the folded shift must not cancel against the product.
    images = torch.full((2, C, 8, 12), level, dtype=torch.uint8)
    args = parameters(dtype=torch.bfloat16)
    plain = reference.patch_embed
    oracle = plain(images, *(t.double() for t in args))
    assert_as_accurate(patch_embed(images, *args), plain(images, *args), oracle)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("C", [1, 3])
def test_pixels_very_near_the_mean(check_accuracy, backend, dtype, C):
    # Their normalised values are small, and so are their gradients of the weight: not differences of others.
    images = 0.5 + 1e-4 * torch.randn(4, C, 8, 12)
    check_accuracy(patch_embed, reference.patch_embed, images, parameters(dtype=dtype))


@pytest.mark.parametrize("magnitude", [1e-4, 1e3])
def test_weights_of_any_magnitude_in_float16(check_accuracy, backend, magnitude):
    # The scale of bytes, 1 / 127.5, is not multiplied into the weight, where it could make it subnormal.
    weight, *rest = parameters(D=8, dtype=torch.float16)
    check_accuracy(patch_embed, reference.patch_embed, pixels(2, 3, 8, 12), [weight * magnitude, *rest])


@pytest.mark.slow
def test_gradients_in_float64():
    args = leaves(*parameters(D=3, P=2, dtype=torch.float64))
    keep_indices = index((0, 3), (0, 1), (0, 3))

    def tokens(*inputs):
        return patch_embed(*inputs, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def select(images, *args):
        return patch_embed_select(images, keep_indices, *args, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    for shape, embed in itertools.product(((1, 4, 6, 1), (1, 3, 4, 6)), (tokens, select)):
        images = torch.rand(shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(embed, (images, *args))


# ---------------------------------------------------------------------------------------------------------
# Images of any layout


def test_grey_is_its_replication(backend):
    weight, bias, pos_embed = parameters()
    grey = pixels(2, 8, 12, 1)
    statistics = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    for images in (grey, grey / 255):
        torch.testing.assert_close(
            patch_embed(images, weight, bias, pos_embed, **statistics),
            patch_embed(images.expand(-1, -1, -1, 3), weight, bias, pos_embed, **statistics),
            atol=1e-5,
            rtol=1e-5,
        )


@pytest.mark.slow
def test_layouts_agree(backend):
    weight, bias, pos_embed = parameters()
    images = pixels(2, 3, 8, 12)
    weight_last = weight.permute(0, 2, 3, 1).contiguous()
    expected = patch_embed(images, weight, bias, pos_embed)
    for x, w in itertools.product((images, images.permute(0, 2, 3, 1).contiguous()), (weight, weight_last)):
        tokens = patch_embed(x, w, bias, pos_embed[None])
        torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)


def test_axes_that_could_both_be_channels(backend):
    # (3, 3, 3, 3) images and weight are read channels-first.
    images, weight = pixels(3, 3, 3, 3), torch.randn(5, 3, 3, 3)
    expected = reference.patch_embed(images, weight)
    torch.testing.assert_close(patch_embed(images, weight), expected, atol=1e-4, rtol=1e-4)


VIEWS = {
    "every other image and column": lambda x: x[::2, :, :, ::2],
    "one image for all": lambda x: x[:1, :, :, :12].expand(3, -1, -1, -1),
    "one row for all": lambda x: x[:, :, :1, :12].expand(-1, -1, 8, -1),
    "flipped": lambda x: x.flip(3)[..., 12:],
    "crop that is not aligned": lambda x: x[..., 5:17],
    "crop, channels last": lambda x: x.permute(0, 2, 3, 1).contiguous()[:, :, 5:17],
    "channels reversed": lambda x: x.flip(1)[..., 12:],
    "rows and columns exchanged": lambda x: x[:, :, :, :8].mT,
    "grey of colour": lambda x: x.permute(0, 2, 3, 1).contiguous()[:, :, :12, 1:2],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_strides_do_not_matter(backend, view, dtype):
    images = view(pixels(4, 3, 8, 24, dtype=dtype))
    before = images.clone()
    args = parameters(N=(images.shape[2] // 4) * (images.shape[3] // 4) if images.shape[1] == 3 else 6)
    results = tokens_and_gradients(patch_embed, images, args)
    expected = tokens_and_gradients(reference.patch_embed, before, args)
    for ours, plain in zip(results, expected, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)
    assert torch.equal(images, before)


@pytest.mark.slow
def test_gradients_of_any_stride(backend):
    images, args = pixels(2, 3, 8, 12), leaves(*parameters())
    for embed in (patch_embed, selects(index((0, 1), (1, 1), (1, 0)))[0]):
        tokens = embed(images, *args)
        dtokens = torch.randn(tokens.mT.shape).mT
        strided = torch.autograd.grad(tokens, args, dtokens, retain_graph=True)
        for ours, expected in zip(
            strided, torch.autograd.grad(tokens, args, dtokens.contiguous()), strict=True
        ):
            torch.testing.assert_close(ours, expected)
        torch.autograd.grad(embed(images, *args).sum(), args)  # a gradient that is expanded from one number


def test_one_patch_images_are_not_written_to(backend):
    images = pixels(2, 3, 4, 4)
    before = images.clone()
    patch_embed(images, torch.randn(5, 3, 4, 4))
    assert torch.equal(images, before)


@pytest.mark.slow
def test_offsets_beyond_32_bits(backend):
    # Rows lie 2^28 bytes apart, so that the last ones are out of reach of 32 bits. Only they are touched.
    B, H, W, row = 2, 8, 4, 2**28
    memory = torch.empty(B * H * row, dtype=torch.uint8)
    apart = memory.as_strided((B, 1, H, W), (H * row, W, row, 1))
    near = pixels(B, 1, H, W)
    apart.copy_(near)
    args = parameters(N=2)
    results = (tokens_and_gradients(patch_embed, x, args) for x in (apart, near))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


# ---------------------------------------------------------------------------------------------------------
# Edges


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_empty(backend, dtype):
    for shape, keep_indices in (((0, 3, 8, 12), None), ((0, 3, 8, 12), index()), ((2, 3, 8, 12), index())):
        images, *args = leaves(pixels(*shape, dtype=dtype), *parameters())
        embed = patch_embed if keep_indices is None else selects(keep_indices)[0]
        tokens = embed(images, *args)
        assert tokens.shape == ((0, 6, 24) if keep_indices is None else (0, 24))
        tokens.sum().backward()
        assert all(torch.equal(t.grad, torch.zeros_like(t)) for t in args)
        if images.requires_grad:
            assert torch.equal(images.grad, torch.zeros_like(images))


@pytest.mark.parametrize("optional", list(itertools.product([False, True], repeat=2)), ids=str)
@pytest.mark.parametrize("frozen", [False, True], ids=["trained weight", "frozen weight"])
def test_without_bias_or_position_embedding(backend, optional, frozen):
    images = pixels(2, 3, 8, 12)
    weight, bias, pos_embed = leaves(*parameters())
    weight.requires_grad_(not frozen)
    has_bias, has_pos_embed = optional
    given = bias if has_bias else None, pos_embed if has_pos_embed else None
    tokens, plain = (op(images, weight, *given) for op in (patch_embed, reference.patch_embed))
    torch.testing.assert_close(tokens, plain, atol=1e-5, rtol=1e-5)
    wanted = [x for x, used in ((weight, not frozen), (bias, has_bias), (pos_embed, has_pos_embed)) if used]
    if wanted:
        for ours, expected in zip(
            *(torch.autograd.grad(x.square().sum(), wanted) for x in (tokens, plain)), strict=True
        ):
            torch.testing.assert_close(ours, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
def test_nan_and_inf_reach_their_own_token_alone(backend, value):
    images = pixels(5, 3, 8, 12, dtype=torch.float32)
    images[1, 0, 2, 5] = value  # in the second patch
    tokens = patch_embed(images, *parameters())
    bad = ~tokens.isfinite().all(2)
    assert bad.nonzero().tolist() == [[1, 1]]


@pytest.mark.slow
def test_deterministic_and_independent_of_the_batch(backend):
    images, args = pixels(9, 3, 8, 12), parameters(dtype=torch.float16)
    keep_indices = random_index(40, 9, 6)
    select = selects(keep_indices)[0]
    for embed in (patch_embed, select):
        first, second = (tokens_and_gradients(embed, images, args) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    if backend == "triton":
        tokens = patch_embed(images, *args)
        assert torch.equal(patch_embed(images[3:4], *args)[0], tokens[3])
        assert torch.equal(
            select(images, *args), tokens[keep_indices[:, 0].long(), keep_indices[:, 1].long()]
        )


# ---------------------------------------------------------------------------------------------------------
# Memory, autograd, compilers, precision contexts


def test_gradients_of_a_list_are_deterministic_on_several_threads():
    """On a CPU, the gradient of plain indexing is summed atomically and differs from call to call."""
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(64, 3, 64, 64, generator=generator).requires_grad_()
        weight = torch.randn(96, 3, 16, 16, generator=generator)
        pos_embed = torch.randn(16, 96, generator=generator).requires_grad_()
        keep_indices = torch.stack(
            [torch.randint(n, (3000,), generator=generator) for n in (64, 16)], dim=1
        ).int()
        dtokens = torch.randn(3000, 96, generator=generator)
        first = None
        for _ in range(20):
            tokens = patch_embed_select(images, keep_indices, weight, pos_embed=pos_embed)
            gradients = torch.autograd.grad(tokens, [images, pos_embed], dtokens)
            first = first or gradients
            assert all(torch.equal(a, b) for a, b in zip(gradients, first, strict=True))
    finally:
        torch.set_num_threads(threads)


def test_no_image_and_no_patches_are_stored(allocations):
    launch = import_module("clippo_kernels.patch_embed.launch")
    images, (weight, bias, pos_embed) = pixels(64, 3, 8, 12), parameters()
    settings = [0.5] * 3, [0.5] * 3, torch.float32
    with allocations(images, weight, bias, pos_embed) as forward:
        tokens = launch.forward(images, weight, bias, pos_embed, None, *settings, torch.float16)
    _, prepared, _ = forward.sizes
    assert forward.sizes == [tokens.nbytes, prepared, bias.nbytes]
    assert prepared < 2 * weight.nbytes  # padded to whole blocks of pixels
    with allocations(images, weight, bias, tokens) as backward:
        launch.weight_gradient(tokens, images, weight, bias, None, *settings)
    _, partials = backward.sizes
    assert backward.sizes == [weight.nbytes, partials]
    if not ON_GPU:
        assert partials < 4 * weight.nbytes


def embed_every_other_patch(images, *args):
    image, position = torch.meshgrid(torch.arange(images.shape[0]), torch.arange(0, 6, 2), indexing="ij")
    return patch_embed_select(images, torch.stack((image, position), -1).flatten(0, 1).int(), *args)


EMBEDDERS = {"patch_embed": patch_embed, "patch_embed_select": embed_every_other_patch}
over_embedders = pytest.mark.parametrize("embed", EMBEDDERS.values(), ids=EMBEDDERS)


@pytest.mark.long
def test_operators_are_well_registered():
    ops = torch.ops.clippo_kernels
    weight, bias, pos_embed = parameters(dtype=torch.float16)
    statistics = [0.5] * 3, [0.25, 0.5, 0.5]
    for images, keep_indices in itertools.product(
        (pixels(2, 3, 8, 12), pixels(2, 1, 8, 12, dtype=torch.float32)), (None, index((1, 5), (0, 0), (1, 5)))
    ):
        forward = (images, weight, bias, pos_embed, keep_indices, *statistics, torch.float16, torch.bfloat16)
        tokens = ops.patch_embed_forward(*forward)
        assert tokens.dtype == torch.bfloat16
        torch.library.opcheck(ops.patch_embed_forward, forward)
        dout = torch.randn_like(tokens)
        torch.library.opcheck(ops.patch_embed_position_gradient, (dout, keep_indices, 6))
        sums = ops.patch_embed_position_gradient(dout, keep_indices, 6).sum(0)
        torch.library.opcheck(
            ops.patch_embed_weight_gradient,
            (dout, images, weight, sums, keep_indices, *statistics, torch.float16),
        )


@pytest.mark.slow
@over_embedders
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(3, 8, 12), (8, 12, 1)], ids=str)
def test_compiles_whole_for_any_batch(backend, embed, dtype, shape):
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    torch.compiler.reset()
    compiled = torch.compile(embed, fullgraph=True, backend=count)
    for B in (5, 3, 6):
        images, *args = leaves(pixels(B, *shape, dtype=dtype), *parameters())
        torch._dynamo.mark_dynamic(images, 0)
        wanted = [x for x in (images, *args) if x.requires_grad]
        tokens, expected = compiled(images, *args), embed(images, *args)
        torch.testing.assert_close(tokens, expected)
        ours, theirs = (torch.autograd.grad(x.square().sum(), wanted) for x in (tokens, expected))
        torch.testing.assert_close(ours, theirs)
    assert len(graphs) == 1


@pytest.mark.slow
@over_embedders
def test_exports_any_batch(backend, embed):
    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias, self.pos_embed = map(torch.nn.Parameter, parameters())

        def forward(self, images):
            return embed(images, self.weight, self.bias, self.pos_embed)

    module, dynamic = Module(), {0: torch.export.Dim("B", min=2)}
    program = torch.export.export(module, (pixels(4, 8, 12, 3),), dynamic_shapes=(dynamic,))
    images = pixels(3, 8, 12, 3)
    torch.testing.assert_close(program.module()(images), module(images))


def test_fake_tensors_have_no_index_to_check(backend):
    with FakeTensorMode():
        images, keep_indices = torch.empty(2, 3, 8, 12), torch.empty(9, 2, dtype=torch.int32)
        assert patch_embed_select(images, keep_indices, torch.empty(5, 3, 4, 4)).shape == (9, 5)


@pytest.mark.slow
def test_autocast_and_out_dtype(backend):
    images, args = pixels(2, 3, 8, 12), leaves(*parameters())
    assert patch_embed(images, *args, out_dtype=torch.bfloat16).dtype == torch.bfloat16
    with torch.autocast(images.device.type, torch.bfloat16):
        assert patch_embed(images, *args).dtype == torch.bfloat16
        wide = patch_embed(images, *args, out_dtype=torch.float32)
    assert wide.dtype == torch.float32
    torch.testing.assert_close(wide, patch_embed(images, *args), atol=0.05, rtol=0)
    assert not torch.equal(wide, patch_embed(images, *args))


def test_autocast_leaves_float64_alone():
    with torch.autocast("cuda" if ON_GPU else "cpu", torch.bfloat16):
        assert patch_embed(pixels(2, 3, 8, 12), *parameters(dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("C", [1, 3])
def test_gradients_under_autocast(assert_as_accurate, backend, C):
    # float32 weights: the products are those of bfloat16, the gradients come in float32.
    images, args = pixels(4, C, 8, 12), parameters()

    def under_autocast(embed, images, args):
        def embed_in_bfloat16(*inputs):
            with torch.autocast(images.device.type, torch.bfloat16):
                return embed(*inputs)

        return tokens_and_gradients(embed_in_bfloat16, images, args)

    oracles = tokens_and_gradients(reference.patch_embed, images, args, dtype=torch.float64)
    ours, plains = (under_autocast(embed, images, args) for embed in (patch_embed, reference.patch_embed))
    for result, plain, oracle in zip(ours[1:], plains[1:], oracles[1:], strict=True):
        assert result.dtype == torch.float32
        assert_as_accurate(result, plain.bfloat16(), oracle)


@pytest.mark.slow
@over_embedders
def test_activation_checkpointing(backend, embed):
    images, args = pixels(2, 3, 8, 12), leaves(*parameters())
    plain, saved = embed(images, *args), checkpoint(embed, images, *args, use_reentrant=False)
    assert torch.equal(plain, saved)
    ours, theirs = (torch.autograd.grad(x.square().sum(), args) for x in (saved, plain))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@over_embedders
def test_second_derivative_is_refused(monkeypatch, embed):
    monkeypatch.setenv(BACKEND_VARIABLE, "triton")
    args = leaves(*parameters())
    with pytest.raises(RuntimeError, match="patch_embed can be differentiated once, not with create_graph"):
        torch.autograd.grad(embed(pixels(2, 3, 8, 12), *args).sum(), args, create_graph=True)


@pytest.mark.parametrize("what", ["images", "weight", "tokens"])
def test_kernels_have_no_float64(monkeypatch, what):
    monkeypatch.setenv(BACKEND_VARIABLE, "triton")
    images = pixels(2, 3, 8, 12, dtype=torch.float64 if what == "images" else torch.uint8)
    args = parameters(dtype=torch.float64 if what == "weight" else torch.float32)
    with pytest.raises(RuntimeError, match="patch_embed has no triton implementation"):
        patch_embed(images, *args, out_dtype=torch.float64 if what == "tokens" else None)


# ---------------------------------------------------------------------------------------------------------
# Bad input

IMAGES, WEIGHT = torch.zeros(2, 3, 8, 12), torch.zeros(5, 3, 4, 4)
BAD_ARGUMENTS = [
    ({"images": [[0]]}, TypeError, r"images must be a tensor of shape \(B, C, H, W\), got list"),
    ({"images": IMAGES[0]}, ValueError, r"images must have shape \(B, C, H, W\), got \(3, 8, 12\)"),
    ({"images": IMAGES.int()}, TypeError, "images must be uint8 or floating, got torch.int32"),
    ({"images": IMAGES.char()}, TypeError, "images must be uint8 or floating, got torch.int8"),
    ({"images": IMAGES[:, :2]}, ValueError, r"images must be .* with C of 1 or 3, got \(2, 2, 8, 12\)"),
    ({"images": IMAGES[:, :, :7]}, ValueError, "images must .* multiples of P = 4, got 7 x 12"),
    ({"images": IMAGES[..., :11]}, ValueError, "images must .* multiples of P = 4, got 8 x 11"),
    ({"images": IMAGES.to("meta")}, ValueError, "weight must be on meta like images, got cpu"),
    ({"weight": WEIGHT[0]}, ValueError, r"weight must have shape \(D, 3, P, P\), got \(3, 4, 4\)"),
    ({"weight": WEIGHT.int()}, TypeError, "weight must be floating, got torch.int32"),
    ({"weight": WEIGHT[:, :1]}, ValueError, r"weight must be \(D, 3, P, P\) .*, got \(5, 1, 4, 4\)"),
    ({"weight": WEIGHT[..., :2]}, ValueError, r"weight must be \(D, 3, P, P\) .*, got \(5, 3, 4, 2\)"),
    ({"bias": torch.zeros(4)}, ValueError, r"bias must have shape \(5,\), got \(4,\)"),
    ({"bias": torch.zeros(1, 5)}, ValueError, r"bias must have shape \(D,\), got \(1, 5\)"),
    ({"bias": torch.zeros(5).int()}, TypeError, "bias must be floating, got torch.int32"),
    ({"bias": torch.zeros(5, device="meta")}, ValueError, "bias must be on cpu like images, got meta"),
    ({"pos_embed": torch.zeros(7, 5)}, ValueError, r"pos_embed must have shape \(6, 5\), got \(7, 5\)"),
    ({"pos_embed": torch.zeros(2, 6, 5)}, ValueError, r"pos_embed must have shape \(N, D\), got \(2, 6, 5\)"),
    ({"pos_embed": torch.zeros(6, 5).int()}, TypeError, "pos_embed must be floating, got torch.int32"),
    ({"out_dtype": torch.int8}, TypeError, "out_dtype must be floating, got torch.int8"),
    ({"mean": (0.5, 0.5)}, ValueError, "mean must be one number or three, got 2"),
    ({"std": (1.0, 0.0, 1.0)}, ValueError, r"std must not be 0, got \(1.0, 0.0, 1.0\)"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_ARGUMENTS)
def test_errors(arguments, error, message):
    arguments = {"images": IMAGES, "weight": WEIGHT} | arguments
    with pytest.raises(error, match=message):
        patch_embed(**arguments)
    with pytest.raises(error, match=message):
        patch_embed_select(keep_indices=torch.zeros(1, 2, dtype=torch.int32, device="cpu"), **arguments)


CPU_INDEX = torch.zeros(3, 2, dtype=torch.int32)


def cpu_index(*pairs):
    return index(*pairs).cpu()


@pytest.mark.parametrize(
    ("keep_indices", "error", "message"),
    [
        ([0, 1], TypeError, r"keep_indices must be a tensor of shape \(T, 2\), got list"),
        (CPU_INDEX[0], ValueError, r"keep_indices must have shape \(T, 2\), got \(2,\)"),
        (CPU_INDEX.mT, ValueError, r"keep_indices must have shape \(T, 2\), got \(2, 3\)"),
        (CPU_INDEX.long(), TypeError, "keep_indices must be int32, got torch.int64"),
        (CPU_INDEX.to("meta"), ValueError, "keep_indices must be on cpu like images, got meta"),
        ([(0, 0), (2, 0)], ValueError, "keep_indices must name images of 0 to 1, got 2"),
        ([(-1, 0), (1, 0)], ValueError, "keep_indices must name images of 0 to 1, got -1"),
        ([(0, 5), (0, 6)], ValueError, "keep_indices must name positions of 0 to 5, got 6"),
        ([(0, 5), (0, -3)], ValueError, "keep_indices must name positions of 0 to 5, got -3"),
    ],
)
def test_index_errors(keep_indices, error, message):
    if isinstance(keep_indices, list) and isinstance(keep_indices[0], tuple):
        keep_indices = cpu_index(*keep_indices)
    with pytest.raises(error, match=message):
        patch_embed_select(IMAGES, keep_indices, WEIGHT)


def test_index_is_read_once(backend, monkeypatch):
    calls = []
    module = import_module("clippo_kernels.patch_embed")  # whose name is that of a function, too
    monkeypatch.setattr(module, "check_range", lambda *args: calls.append(args))
    images, args, keep_indices = pixels(2, 3, 8, 12), parameters(), index((0, 1), (1, 2))
    for _ in range(3):
        patch_embed_select(images, keep_indices, *args)
    assert len(calls) == 1
    keep_indices[0] = 0
    patch_embed_select(images, keep_indices, *args)
    assert len(calls) == 2


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_meta_tensors(dtype):
    images = torch.empty(2, 3, 8, 12, dtype=dtype, device="meta")
    args = [x.to("meta").requires_grad_() for x in parameters()]
    tokens = patch_embed(images, *args)
    tokens.sum().backward()
    assert tokens.shape == (2, 6, 24)
    assert all(x.grad.shape == x.shape for x in args)
    keep_indices = torch.empty(5, 2, dtype=torch.int32, device="meta")
    assert patch_embed_select(images, keep_indices, *args).shape == (5, 24)


def test_transforms_of_torch_func(backend):
    images, (weight, *rest) = pixels(2, 3, 8, 12), parameters()

    def total(weight):
        return patch_embed(images, weight, *rest).square().sum()

    (leaf,) = leaves(weight)
    expected = torch.autograd.grad(total(leaf), leaf)[0]
    torch.testing.assert_close(torch.func.grad(total)(weight), expected, atol=1e-4, rtol=1e-4)


def test_a_list_that_changes_unseen(backend):
    if ON_GPU:
        pytest.skip("on a GPU only changes that PyTorch counts are seen")
    keep_indices, images = index((0, 1)), pixels(2, 3, 8, 12)
    patch_embed_select(images, keep_indices, *parameters())
    keep_indices.numpy()[:] = -1
    with pytest.raises(ValueError, match="keep_indices must name images of 0 to 1, got -1"):
        patch_embed_select(images, keep_indices, *parameters())
