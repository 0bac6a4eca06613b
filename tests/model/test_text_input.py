"""Models that read text as bytes: the same tower, another way for text to enter."""

from dataclasses import replace

import pytest
import torch

from clippo.model import ByteTextConfig, Clippo, ClippoConfig
from clippo.model.packing import patch_dropout

SMALL = ClippoConfig(width=32, depth=1, mlp_dim=64, num_heads=2, patch_size=16, image_size=48, embed_dim=16)
BYTES = replace(SMALL, text=ByteTextConfig())
TEXTS = ["a cat", "Füße", "", "x" * 100]


@pytest.fixture(params=[1, 2], ids=["one tower", "two towers"])
def model(request):
    torch.manual_seed(0)
    return Clippo(replace(BYTES, num_towers=request.param))


@pytest.mark.parametrize("max_bytes", [64, 5])
def test_bytes(max_bytes):
    found = Clippo(replace(SMALL, text=ByteTextConfig(max_bytes=max_bytes))).tokenize(TEXTS)
    assert found.shape == (4, max_bytes)
    for text, row in zip(TEXTS, found, strict=True):
        expected = list(text.encode())[:max_bytes]
        assert row.tolist() == expected + [-1] * (max_bytes - len(expected))


def test_a_text_is_its_bytes_and_their_order(model):
    images = torch.randint(0, 256, (4, 48, 48, 3), dtype=torch.uint8)
    texts = model.tokenize(TEXTS)
    z_images, z_texts = model(images, texts)
    assert z_images.shape == z_texts.shape == (4, 16)
    torch.testing.assert_close(model.encode_image(images), z_images)
    torch.testing.assert_close(model.encode_text(TEXTS), z_texts)
    for i, text in enumerate(TEXTS):  # whatever else is in the batch
        torch.testing.assert_close(model.encode_text([text])[0], z_texts[i], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(model.encode_text(["a cat"]), model.encode_text(["a tac"]))
    assert torch.equal(model.encode_text(["x" * 64]), model.encode_text(["x" * 99]))
    few = patch_dropout(4, 9, 0.5)
    assert not torch.allclose(model(images, texts, few)[0], z_images)


def test_parameters_of_one_tower_and_of_two(model):
    before = model.encode_text(TEXTS)
    with torch.no_grad():
        model.tower.encoder.head.weight.zero_()
    assert torch.equal(model.encode_text(TEXTS), before) == (model.config.num_towers == 2)
    parameters = sum(p.numel() for p in model.parameters())
    shared = sum(p.numel() for p in Clippo(SMALL).parameters())
    second = sum(p.numel() for p in model.tower.encoder.parameters()) * (model.config.num_towers - 1)
    assert parameters == shared + second + (256 + 64) * 32


def test_files(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "renderer.json").exists()
    loaded = Clippo.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded.encode_text(TEXTS), model.encode_text(TEXTS))


def test_bytes_need_no_renderer(model):
    with pytest.raises(TypeError, match="reads text as bytes and has no renderer"):
        _ = model.renderer
    with pytest.raises(ValueError, match="renderer must be None for a model that reads bytes"):
        Clippo(model.config, lambda texts: None)
    with pytest.raises(ValueError, match=r"text\.max_bytes must be at least 1, got 0"):
        ByteTextConfig(max_bytes=0)
