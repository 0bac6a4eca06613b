"""Models that read bytes: the same tower, another embedding of text."""

import dataclasses

import pytest
import torch

from clippo.model import Clippo, TowerConfig
from clippo.model.packing import random_patches
from clippo.training.baselines import MAX_BYTES, ByteTokenizer, OneTower, TwoTowers
from clippo.training.loop import train
from clippo.training.run_folder import RunFolder

SMALL = TowerConfig(width=32, depth=1, mlp_dim=64, heads=2, patch_size=16, image_size=48, out_dim=16)
TEXTS = ["a cat", "Füße", "", "x" * 100]


def test_bytes():
    found = ByteTokenizer()(TEXTS)
    assert found.shape == (4, MAX_BYTES)
    for text, row in zip(TEXTS, found, strict=True):
        expected = list(text.encode())[:MAX_BYTES]
        assert row.tolist() == expected + [-1] * (MAX_BYTES - len(expected))


@pytest.fixture(params=[OneTower, TwoTowers])
def model(request):
    torch.manual_seed(0)
    return request.param(SMALL)


def test_a_text_is_its_bytes_and_their_order(model):
    images = torch.randint(0, 256, (4, 48, 48, 3), dtype=torch.uint8)
    texts = torch.from_numpy(model.renderer(TEXTS))
    z_images, z_texts = model(images, texts)
    assert z_images.shape == z_texts.shape == (4, 16)
    torch.testing.assert_close(model.encode_image(images), z_images)
    torch.testing.assert_close(model.encode_text(TEXTS), z_texts)
    for i, text in enumerate(TEXTS):  # whatever is beside it in the batch
        torch.testing.assert_close(model.encode_text([text])[0], z_texts[i], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(model.encode_text(["a cat"]), model.encode_text(["a tac"]))
    assert torch.equal(model.encode_text(["x" * 64]), model.encode_text(["x" * 99]))
    few = random_patches(4, 9, 0.5)
    assert not torch.allclose(model(images, texts, few)[0], z_images)


def test_what_is_shared(model):
    """All of the tower, or none of it."""
    before = model.encode_text(TEXTS)
    with torch.no_grad():
        model.tower.head.weight.zero_()
    assert torch.equal(model.encode_text(TEXTS), before) == isinstance(model, TwoTowers)
    parameters = sum(p.numel() for p in model.parameters())
    own = sum(p.numel() for p in model.text_embedding.parameters())
    shared = sum(p.numel() for p in Clippo(SMALL).parameters())
    second = sum(p.numel() for p in model.text_tower.parameters()) if isinstance(model, TwoTowers) else 0
    assert parameters == shared + own + second
    assert own == (256 + MAX_BYTES) * 32


@pytest.mark.parametrize("baseline", ["1t", "two-tower"])
def test_they_train_and_resume_like_a_clippo(tiny_config, tmp_path, baseline):
    config = dataclasses.replace(tiny_config, baseline=baseline)
    model = train(config, tmp_path / "run")
    loaded, dataset = RunFolder(tmp_path / "run").load()
    assert type(loaded) is type(model)
    names = [concept.names["de"] for concept in dataset.concepts[:5]]
    assert torch.equal(loaded.encode_text(names), model.encode_text(names))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 4
    train(config, tmp_path / "run", resume=True)
