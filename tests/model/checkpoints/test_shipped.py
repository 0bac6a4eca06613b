"""Models that come with the package."""

import json
from pathlib import Path

import pytest
import torch

from clippo.data.decode import decode
from clippo.errors import UserError
from clippo.index import PictureIndex
from clippo.model import Clippo, ClippoConfig
from clippo.model.checkpoints import shipped
from clippo.training.run_folder import load_model

SMALL = ClippoConfig(width=16, depth=1, mlp_dim=32, num_heads=2, patch_size=8, image_size=16, embed_dim=8)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A model that comes with the package, under the name "own"."""
    model = Clippo(SMALL)
    model.save_pretrained(tmp_path / "pretrained" / "own")
    monkeypatch.setattr(shipped, "ROOT", tmp_path / "pretrained")
    monkeypatch.chdir(tmp_path)
    return model


def test_they_are_found_by_name(own):
    assert shipped.shipped_models() == ["own"]
    for load in (Clippo.from_pretrained, load_model):
        assert load("own").weights_sha256() == own.weights_sha256()


def test_a_folder_of_the_same_name_comes_first(own, tmp_path):
    other = Clippo(SMALL)
    other.save_pretrained(tmp_path / "own")
    for load in (Clippo.from_pretrained, load_model):
        assert load("own").weights_sha256() == other.weights_sha256()


@pytest.mark.parametrize("name", ["other", "../own", "own/../own", ".", ""])
def test_other_names_are_not_theirs(own, name):
    assert shipped.shipped_folder(name) is None


def test_those_that_come_with_the_package_are_listed(own):
    with pytest.raises(UserError, match="the models that come with this package are own$"):
        load_model("other")


def test_they_have_no_revision(own):
    with pytest.raises(ValueError, match="revision is for names on the Hub, and own"):
        Clippo.from_pretrained("own", revision="main")


def test_the_dictionary_gives_the_embeddings_that_were_measured():
    """The texts and pictures of shipped_vectors.json; the pictures are thumbnails of the index beside it."""
    stored = json.loads((Path(__file__).parent / "shipped_vectors.json").read_text(encoding="utf-8"))
    model = Clippo.from_pretrained("clippo-dictionary").eval()
    folder = shipped.shipped_folder("clippo-dictionary")
    index = PictureIndex.open(folder / "pictures.idx")
    index.check_model(model, "clippo-dictionary")
    place = index.about.transform.build(model.config.image_size)
    pictures = [place(decode(index.thumbnail(int(id)))) for id in stored["pictures"]]
    found = {
        "texts": model.encode_text(list(stored["texts"])),
        "pictures": model.encode_image(pictures),
    }
    for kind, embeddings in found.items():
        expected = torch.tensor(list(stored[kind].values()))
        torch.testing.assert_close(embeddings, expected, atol=2e-3, rtol=0)
    assert sum(p.numel() for p in model.parameters()) <= 2_000_000
    assert (folder / "model.safetensors").stat().st_size <= 4_000_000
