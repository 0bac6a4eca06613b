import numpy as np
import pytest
import torch

from clippo.model import (
    PUBLISHED,
    Clippo,
    ClippoConfig,
    RenderedTextConfig,
    create_model,
    list_models,
    save_big_vision,
)
from clippo.model.tower import Tower
from clippo.model.variants import named_config


def count(config: ClippoConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in Clippo(config).parameters())


@pytest.mark.parametrize(("name", "parameters"), [("clippo-b16", 93_474_817), ("clippo-l16", 316_681_985)])
def test_published_parameter_counts(name, parameters):
    assert count(named_config(name)) == parameters


@pytest.mark.parametrize("name", [name for name in list_models() if name not in PUBLISHED])
def test_every_variant_can_be_made(name):
    config = named_config(name)
    with torch.device("meta"):
        tower = Tower(config)
    assert tower.patch_embed.pos_embed.shape == (1, (224 // config.patch_size) ** 2, config.width)


def test_all_names_are_listed():
    assert len(list_models()) == 8 * 4 + 6
    assert "clippo-so400m14" in list_models()


def test_overrides():
    model = create_model("clippo-mu16", image_size=64, embed_dim=8, text_tokens="inked")
    assert model.config == ClippoConfig(
        width=32,
        depth=1,
        mlp_dim=128,
        num_heads=2,
        patch_size=16,
        image_size=64,
        embed_dim=8,
        text=RenderedTextConfig(tokens="inked"),
    )
    assert model.encode_image(torch.zeros(2, 64, 64, 3, dtype=torch.uint8)).shape == (2, 8)
    for name in ("vit-b16", "clippo-b7", "clippo"):
        with pytest.raises(ValueError, match=f"name must be one of clippo-mu8.*'{name}'"):
            create_model(name)
    with pytest.raises(TypeError, match="dropout"):
        create_model("clippo-mu16", dropout=0.1)


def test_weights_of_every_kind(tmp_path):
    torch.manual_seed(0)
    model = create_model("clippo-mu16", image_size=64, embed_dim=8)
    save_big_vision(model, tmp_path / "mu.npz")
    model.save_pretrained(tmp_path / "mu")
    for weights in (tmp_path / "mu.npz", tmp_path / "mu"):
        loaded = create_model("clippo-mu16", weights=weights, image_size=64, embed_dim=8)
        assert torch.equal(loaded.tower.encoder.head.weight, model.tower.encoder.head.weight)
        with pytest.raises(ValueError, match="is not a clippo-ti16 of these sizes"):
            create_model("clippo-ti16", weights=weights, image_size=64, embed_dim=8)
    larger = create_model(
        "clippo-mu16", weights=tmp_path / "mu.npz", image_size=96, embed_dim=8, text_tokens="inked"
    )
    assert larger.tower.patch_embed.pos_embed.shape == (1, 36, 32)
    assert larger.config.text.tokens == "inked"


def test_published_files_are_looked_for(tmp_path, monkeypatch):
    """A file under the published name; only its sizes are not those of a B/16."""
    name = "clippo_b16_yfcc100m"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLIPPO_MODEL_PATH", raising=False)
    with pytest.raises(FileNotFoundError, match=rf"{name}\.npz.*gs://big_vision/clippo/{name}\.npz"):
        create_model(name)
    folder = tmp_path / "models"
    folder.mkdir()
    save_big_vision(create_model("clippo-mu16", image_size=64), folder / f"{name}.npz")
    monkeypatch.setenv("CLIPPO_MODEL_PATH", f"/nowhere:{folder}")
    with pytest.raises(ValueError, match=f"is not a {name} of these sizes"):
        create_model(name)
    np.savez(tmp_path / "models" / f"{name}.npz", a=np.zeros(1))
    with pytest.raises(ValueError, match="cannot be read as a CLIPPO checkpoint"):
        create_model(name)


def test_published_facts():
    """The means over GLUE that the table gives, and that every checkpoint says where it comes from."""
    assert [fact.results["glue"] for fact in PUBLISHED.values()] == [58.6, 60.7, 69.7, 75.2, 77.6, 78.4]
    assert {fact.steps for fact in PUBLISHED.values()} == {250, 333, 500}
    assert "imagenet_zero_shot" not in PUBLISHED["clippo_b16_100c4"].results
