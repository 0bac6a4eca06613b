import dataclasses

import numpy as np
import pytest
import torch

from clippo.data.made_up import MadeUpConfig
from clippo.errors import UserError
from clippo.model import Clippo, ClippoConfig, RenderedTextConfig, load_big_vision, save_big_vision
from clippo.recipes.own import recipe as own
from clippo.training.initialisation import initialise
from clippo.training.state import build_model
from clippo.training.trainer import train
from tests.model.checkpoints.test_big_vision import old_names

SIZES = ClippoConfig(width=32, depth=1, mlp_dim=64, num_heads=2, patch_size=16, image_size=64, embed_dim=8)


@pytest.fixture
def published(tmp_path):
    torch.manual_seed(0)
    model = Clippo(SIZES)
    save_big_vision(model, tmp_path / "published.npz")
    return str(tmp_path / "published.npz")


def copy_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("image_size", [64, 96])
def test_published_weights(published, image_size):
    """For the published size of images and another one, and for all patches of a text or the inked ones."""
    text = RenderedTextConfig(tokens="inked")
    model = Clippo(dataclasses.replace(SIZES, image_size=image_size, text=text))
    told = initialise(model, published)
    expected = load_big_vision(published, image_size=image_size).state_dict()
    assert all(torch.equal(expected[name], value) for name, value in model.state_dict().items())
    assert told.startswith(f"weights of {published}: {len(expected)} tensors")
    assert ("tower.patch_embed.pos_embed was resampled" in told) == (image_size == 96)


def test_the_tower_of_a_classifier(tmp_path):
    torch.manual_seed(1)
    np.savez(tmp_path / "vit.npz", **old_names(vit := Clippo(SIZES), class_token=True))
    model = Clippo(SIZES)
    told = initialise(model, str(tmp_path / "vit.npz"))
    new = [
        name for name in model.state_dict() if ".pool." in name or ".head." in name or name == "logit_scale"
    ]
    assert told.endswith(
        f": {len(model.state_dict()) - len(new)} tensors; {len(new)} are new: {', '.join(new)}"
    )
    weight = "tower.encoder.blocks.0.mlp.fc1.weight"
    assert torch.equal(model.state_dict()[weight], vit.state_dict()[weight])


def test_own_takes_the_sizes_of_a_classifier(tmp_path):
    np.savez(tmp_path / "vit.npz", **old_names(Clippo(SIZES), class_token=True))
    config = own(MadeUpConfig(count=100), str(tmp_path / "vit.npz"))
    sizes = dataclasses.replace(SIZES, embed_dim=SIZES.width, text=config.model.text, resize="bicubic")
    assert config.model == sizes
    assert initialise(build_model(config), config.init_from).startswith("weights of")


@pytest.mark.parametrize(
    ("field", "value"),
    [("depth", 2), ("num_heads", 4), ("width", 64), ("embed_dim", 16), ("resize", "bicubic")],
)
def test_another_architecture_is_refused(published, field, value):
    model = Clippo(dataclasses.replace(SIZES, **{field: value}))
    before = copy_of(model)
    with pytest.raises(UserError, match=f"configuration of the run: model.{field} is .* there and"):
        initialise(model, published)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_what_is_no_model_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(UserError, match=r"cannot read a model from .*other.npz: .*; and .*as a ViT"):
        initialise(Clippo(SIZES), str(tmp_path / "other.npz"))
    with pytest.raises(UserError, match="there is no such file or folder"):
        initialise(Clippo(SIZES), str(tmp_path / "nowhere"))


@pytest.mark.slow
def test_a_run_says_what_it_begins_with(tiny_config, tmp_path, capsys):
    save_big_vision(Clippo(dataclasses.replace(tiny_config.model, image_size=96)), tmp_path / "begun.npz")
    config = dataclasses.replace(
        tiny_config, init_from=str(tmp_path / "begun.npz"), steps=4, warmup_steps=1, evaluators={}
    )
    train(config, tmp_path / "run")
    assert "tower.patch_embed.pos_embed was resampled" in capsys.readouterr().out
    train(dataclasses.replace(config, steps=5), tmp_path / "run", resume=True)
    assert "weights of" not in capsys.readouterr().out
