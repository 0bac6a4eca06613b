import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import Clippo, TowerConfig


@pytest.fixture
def clippo() -> Clippo:
    return Clippo(TowerConfig(width=16, depth=1, mlp_dim=32, heads=2, patch_size=8, image_size=16, out_dim=8))


def test_round_trip(clippo, tmp_path):
    clippo.save_pretrained(tmp_path / "new" / "folder")
    loaded = Clippo.from_pretrained(tmp_path / "new" / "folder")
    assert loaded.config == clippo.config
    for name, value in clippo.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_what_is_missing_is_named(clippo, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        Clippo.from_pretrained(tmp_path)
    clippo.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        Clippo.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 2}, r"tower.blocks.1.norm1.weight: expected \(16,\), found nothing"),
        ({"width": 32}, r"expected \(32, 3, 8, 8\), found \(16, 3, 8, 8\)"),
        ({"width": "16"}, "width must be an integer"),
        ({"dropout": 0.1}, "dropout"),
        ({"depth": 10**6}, "depth must be an integer from 1 to 512"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(clippo, tmp_path, change, message):
    clippo.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        Clippo.from_pretrained(tmp_path)


def test_broken_files_are_refused(clippo, tmp_path):
    clippo.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        Clippo.from_pretrained(tmp_path)
    tensors = {name: value for name, value in clippo.state_dict().items() if name != "log_scale"}
    save_file(tensors, weights)
    assert "log_scale" not in load_file(weights)
    with pytest.raises(ValueError, match="log_scale"):
        Clippo.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="not the configuration"):
        Clippo.from_pretrained(tmp_path)


class Renderer:
    """As much of one as a checkpoint needs."""

    def __init__(self, **description):
        self.description = description

    def __call__(self, texts):
        raise AssertionError


def test_another_renderer_is_warned_of(clippo, tmp_path, recwarn):
    clippo.renderer = Renderer(options={"size": 16, "ink": 0}, fonts={"a.otf": "12"})
    clippo.save_pretrained(tmp_path)
    Clippo.from_pretrained(tmp_path)
    Clippo.from_pretrained(tmp_path, clippo.renderer)
    Clippo.from_pretrained(tmp_path, lambda texts: None)  # says nothing about itself
    assert not recwarn.list
    other = Renderer(options={"size": 16, "ink": 9}, fonts={"b.otf": "12"})
    with pytest.warns(
        UserWarning, match=r"options\.ink was 0, is 9; fonts\.a\.otf was 12, is absent; fonts\.b"
    ):
        Clippo.from_pretrained(tmp_path, other)
    (tmp_path / "renderer.json").write_text("[]")
    with pytest.raises(ValueError, match=r"renderer\.json does not describe"):
        Clippo.from_pretrained(tmp_path, other)
