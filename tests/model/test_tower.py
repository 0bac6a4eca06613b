import math

import pytest
import torch
import torch.nn.functional as F

from clippo.model import Clippo, ClippoConfig, RenderedTextConfig, create_model

SMALL = ClippoConfig(width=32, depth=2, mlp_dim=64, num_heads=2, patch_size=8, image_size=32, embed_dim=16)


@pytest.fixture
def clippo() -> Clippo:
    torch.manual_seed(0)
    return Clippo(SMALL)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 0),
        ("depth", -1),
        ("depth", 10**6),
        ("num_heads", 3),
        ("image_size", 33),
        ("mlp_dim", 1.5),
        ("embed_dim", True),
        ("num_towers", 3),
    ],
)
def test_impossible_sizes_are_named(field, value):
    with pytest.raises(ValueError, match=field):
        ClippoConfig(**vars(SMALL) | {field: value})


def test_one_pass_gives_what_two_give(clippo):
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    texts = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    z_images, z_texts = clippo(images, texts)
    torch.testing.assert_close(z_images, clippo.encode_image(images))
    torch.testing.assert_close(z_texts, clippo.encode_text(texts))
    torch.testing.assert_close(z_images.norm(dim=-1), torch.ones(3))


def test_layouts_and_dtypes_of_the_same_pixels_agree(clippo):
    pixels = torch.randint(0, 256, (2, 32, 32, 1), dtype=torch.uint8)
    expected = clippo.encode_image(pixels)
    for same in (
        pixels[..., 0],
        pixels.expand(-1, -1, -1, 3),
        pixels.permute(0, 3, 1, 2),
        pixels.float() / 127.5 - 1,
    ):
        torch.testing.assert_close(clippo.encode_image(same), expected, atol=1e-5, rtol=1e-4)


def test_impossible_texts_are_named():
    with pytest.raises(ValueError, match='text.tokens must be "all" or "inked", got \'some\''):
        RenderedTextConfig(tokens="some")
    with pytest.raises(ValueError, match="num_towers must be 1 for rendered text"):
        ClippoConfig(**vars(SMALL) | {"num_towers": 2})


@pytest.mark.parametrize("shape", [(2, 32, 16, 3), (2, 16, 16), (32, 32), (2, 3, 32, 32, 1)])
def test_images_of_another_size_are_refused(clippo, shape):
    with pytest.raises(ValueError, match="images must be 32 x 32 px"):
        clippo.encode_image(torch.zeros(shape))


def test_initialisation_follows_the_published_models():
    torch.manual_seed(0)
    model = create_model("clippo-ti16", image_size=64)
    tower, D = model.tower, 192
    assert model.logit_scale.exp().item() == pytest.approx(10)
    assert tower.patch_embed.pos_embed.std().item() == pytest.approx(D**-0.5, rel=0.1)
    assert tower.patch_embed.weight.std().item() == pytest.approx((3 * 16 * 16) ** -0.5, rel=0.05)
    assert tower.encoder.head.weight.std().item() == pytest.approx(D**-0.5, rel=0.05)
    assert tower.encoder.pool.probe.abs().max().item() == pytest.approx(math.sqrt(6 / (1 + D)), rel=0.1)
    attention = tower.encoder.blocks[3].attn
    for weight in (*attention.qkv.weight.chunk(3), attention.proj.weight):
        assert weight.abs().max().item() == pytest.approx(math.sqrt(6 / (2 * D)), rel=0.01)
    for name, parameter in tower.named_parameters():
        if name.endswith("bias"):
            assert parameter.abs().max() < 1e-5, name


def test_residual_scale_shrinks_what_a_block_adds(clippo):
    tower, x = clippo.tower, torch.randn(2, 16, 32)
    tower.init_weights(residual_scale=0)
    for parameter in tower.encoder.blocks[0].mlp.fc2.bias, tower.encoder.blocks[0].attn.proj.bias:
        torch.nn.init.zeros_(parameter)
    assert torch.equal(tower.encoder.blocks[0](x), x)
    torch.manual_seed(1)
    tower.init_weights()
    published = tower.encoder.blocks[1].attn.proj.weight.clone()
    torch.manual_seed(1)
    tower.init_weights(residual_scale=0.5)
    assert torch.equal(tower.encoder.blocks[1].attn.proj.weight, published / 2)


def test_block_is_the_textbook_block(clippo):
    """Attention written out with a softmax; the tower's own goes through the packed kernel."""
    block, x = clippo.tower.encoder.blocks[0], torch.randn(2, 16, 32)
    q, k, v = block.attn.qkv(block.norm1(x)).reshape(2, 16, 3, 2, 16).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-1, -2) / 4).softmax(-1)
    y = x + block.attn.proj((weights @ v).transpose(1, 2).reshape(2, 16, 32))
    y = y + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(y)), approximate="tanh"))
    torch.testing.assert_close(block(x), y)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is used where there is no GPU")
@pytest.mark.slow
def test_whole_model_through_the_kernels(clippo, monkeypatch):
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    texts = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    weights_ND = torch.randn(6, 16)
    results = {}
    for backend in ("eager", "triton"):
        monkeypatch.setenv("CLIPPO_KERNELS_BACKEND", backend)
        z = torch.cat(clippo(images, texts))
        gradients = torch.autograd.grad((z * weights_ND).sum(), list(clippo.tower.parameters()))
        results[backend] = [z, *gradients]
    for kernels, reference in zip(results["triton"], results["eager"], strict=True):
        torch.testing.assert_close(
            kernels, reference, atol=1e-5 * float(reference.detach().abs().max()), rtol=1e-3
        )
