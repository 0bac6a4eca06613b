import itertools

import pytest
import torch
import torch.nn.functional as F

from clippo_kernels import patch_embed

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def conv_chain(images, weight, bias, pos_embed, mean=HALF, std=HALF):
    """The textbook chain on (B, C, H, W) images, in the dtype of the weight."""
    x = images.to(weight.dtype)
    if images.dtype == torch.uint8:
        x = x / 255
    x = (x - x.new_tensor(mean).view(3, 1, 1)) / x.new_tensor(std).view(3, 1, 1)
    return F.conv2d(x, weight, bias, stride=weight.shape[-1]).flatten(2).mT + pos_embed


def parameters(D=24, P=4, N=6, dtype=torch.float32):
    weight = torch.randn(D, 3, P, P) * (3 * P * P) ** -0.5
    return tuple(t.to(dtype).requires_grad_() for t in (weight, torch.randn(D), torch.randn(N, D)))


def pixels(*shape, dtype=torch.uint8):
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    return images if dtype == torch.uint8 else (images / 255).to(dtype)


def channels_first(images):
    images = images if images.shape[1] in (1, 3) else images.permute(0, 3, 1, 2)
    return images.expand(-1, 3, -1, -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("image_dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (2, 8, 12, 3), (2, 1, 8, 12), (2, 8, 12, 1)])
@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.5), (IMAGENET_MEAN, IMAGENET_STD)])
def test_matches_conv2d(assert_as_accurate, dtype, image_dtype, shape, mean, std):
    images = pixels(*shape, dtype=image_dtype)
    args = parameters(dtype=dtype)
    oracle_args = [t.detach().double().requires_grad_() for t in args]
    statistics = (HALF, HALF) if mean == 0.5 else (mean, std)

    ours = patch_embed(images, *args, mean=mean, std=std)
    plain = conv_chain(channels_first(images), *args, *statistics)
    oracle = conv_chain(channels_first(images), *oracle_args, *statistics)
    assert ours.dtype == dtype
    assert_as_accurate(ours, plain, oracle)

    dtokens = torch.randn(oracle.shape).to(dtype)
    grads = (
        torch.autograd.grad(out, a, dtokens.to(out.dtype))
        for out, a in ((ours, args), (plain, args), (oracle, oracle_args))
    )
    for ours_grad, plain_grad, oracle_grad in zip(*grads, strict=True):
        assert_as_accurate(ours_grad, plain_grad, oracle_grad)


@pytest.mark.parametrize("level", [0, 127, 255], ids=["black", "grey", "white"])
def test_flat_images_in_bfloat16(assert_as_accurate, level):
    # Rendered text is mostly one flat level: the folded shift must not cancel against the product.
    images = torch.full((2, 3, 8, 12), level, dtype=torch.uint8)
    args = parameters(dtype=torch.bfloat16)
    oracle = conv_chain(images, *(t.double() for t in args))
    assert_as_accurate(patch_embed(images, *args), conv_chain(images, *args), oracle)


def test_gradients_in_float64():
    args = parameters(D=3, P=2, dtype=torch.float64)

    def tokens(*inputs):
        return patch_embed(*inputs, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    for shape in ((1, 4, 6, 1), (1, 3, 4, 6)):
        images = torch.rand(shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(tokens, (images, *args))


def test_grey_is_its_replication():
    weight, bias, pos_embed = parameters(dtype=torch.float64)
    grey = pixels(2, 8, 12, 1)
    statistics = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    torch.testing.assert_close(
        patch_embed(grey, weight, bias, pos_embed, **statistics),
        patch_embed(grey.expand(-1, -1, -1, 3), weight, bias, pos_embed, **statistics),
    )


def test_layouts_agree():
    weight, bias, pos_embed = parameters(dtype=torch.float64)
    images = pixels(2, 3, 8, 12)
    weight_last = weight.detach().permute(0, 2, 3, 1).contiguous()
    expected = patch_embed(images, weight, bias, pos_embed)
    for x, w in itertools.product((images, images.permute(0, 2, 3, 1).contiguous()), (weight, weight_last)):
        torch.testing.assert_close(patch_embed(x, w, bias, pos_embed[None]), expected)


def test_axes_that_could_both_be_channels():
    # (3, 3, 3, 3) images and weight are read channels-first.
    images, weight = pixels(3, 3, 3, 3), torch.randn(5, 3, 3, 3, dtype=torch.float64)
    expected = conv_chain(images, weight, weight.new_zeros(5), 0)
    torch.testing.assert_close(patch_embed(images, weight), expected)


def test_strides_do_not_matter():
    args = parameters(dtype=torch.float64)
    wide = pixels(4, 3, 8, 24)
    for images in (wide[::2, :, :, ::2], wide[:1, :, :, :12].expand(3, -1, -1, -1), wide.flip(3)[..., 12:]):
        before = images.clone()
        torch.testing.assert_close(patch_embed(images, *args), conv_chain(before, *args))
        assert torch.equal(images, before)


def test_one_patch_images_are_not_written_to():
    images = pixels(2, 3, 4, 4)
    before = images.clone()
    patch_embed(images, torch.randn(5, 3, 4, 4))
    assert torch.equal(images, before)


def test_autocast_and_out_dtype():
    images = pixels(2, 3, 8, 12)
    args = parameters()
    assert patch_embed(images, *args, out_dtype=torch.bfloat16).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert patch_embed(images, *args).dtype == torch.bfloat16
        wide = patch_embed(images, *args, out_dtype=torch.float32)
        assert patch_embed(images, *parameters(dtype=torch.float64)).dtype == torch.float64
    assert wide.dtype == torch.float32
    torch.testing.assert_close(wide, patch_embed(images, *args), atol=0.05, rtol=0)
    assert not torch.equal(wide, patch_embed(images, *args))


def test_empty_batch():
    args = parameters()
    tokens = patch_embed(pixels(0, 3, 8, 12), *args)
    assert tokens.shape == (0, 6, 24)
    tokens.sum().backward()
    assert all(torch.equal(t.grad, torch.zeros_like(t)) for t in args)


@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (2, 8, 12, 1)])
def test_compiles_whole(shape):
    images, args = pixels(*shape), parameters()
    compiled = torch.compile(patch_embed, fullgraph=True, backend="aot_eager")
    tokens = compiled(images, *args)
    torch.testing.assert_close(tokens, patch_embed(images, *args))
    ours = torch.autograd.grad(tokens.square().sum(), args)
    torch.testing.assert_close(ours, torch.autograd.grad(patch_embed(images, *args).square().sum(), args))


def test_deterministic():
    images, args = pixels(2, 3, 8, 12), parameters()

    def run():
        tokens = patch_embed(images, *args)
        return [tokens, *torch.autograd.grad(tokens.square().sum(), args)]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


IMAGES, WEIGHT = torch.zeros(2, 3, 8, 12), torch.zeros(5, 3, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"images": [[0]]}, TypeError, r"images must be a tensor of shape \(B, C, H, W\), got list"),
        ({"images": IMAGES[0]}, ValueError, r"images must have shape \(B, C, H, W\), got \(3, 8, 12\)"),
        ({"images": IMAGES.int()}, TypeError, "images must be uint8 or floating, got torch.int32"),
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
        (
            {"pos_embed": torch.zeros(2, 6, 5)},
            ValueError,
            r"pos_embed must have shape \(N, D\)",
        ),
        ({"pos_embed": torch.zeros(6, 5).int()}, TypeError, "pos_embed must be floating, got torch.int32"),
        ({"out_dtype": torch.int8}, TypeError, "out_dtype must be floating, got torch.int8"),
        ({"mean": (0.5, 0.5)}, ValueError, "mean must be one number or three, got 2"),
        ({"std": (1.0, 0.0, 1.0)}, ValueError, r"std must not be 0, got \(1.0, 0.0, 1.0\)"),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        patch_embed(**{"images": IMAGES, "weight": WEIGHT} | arguments)
