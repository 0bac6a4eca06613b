from dataclasses import replace

import numpy as np
import pytest
import torch

from clippo.data.base import Example, Source, Text
from clippo.data.transform import SquashConfig
from clippo.errors import UserError
from clippo.evaluation.attention_maps import (
    COLOUR,
    OPACITY,
    AttentionMap,
    AttentionMaps,
    entropy,
    maps_of_images,
    maps_of_texts,
    measures,
    overlaid,
    patches_of_many_colours,
)
from clippo.model import ByteTextConfig, Clippo, ClippoConfig, RenderedTextConfig
from clippo.renderer import AlignedRenderer, UnifontRenderer

RNG = np.random.default_rng(0)
TEXTS = ["a cat", "", "写真の猫 of a dog"]
RENDERERS = {"packed": AlignedRenderer(64), "inked": UnifontRenderer(64), "all": UnifontRenderer(64)}


def model_of(kind, num_towers=1):
    text = ByteTextConfig()
    if kind != "bytes":
        text = RenderedTextConfig(tokens="all" if kind == "all" else "inked")
    sizes = {"width": 32, "depth": 1, "mlp_dim": 64, "num_heads": 4, "patch_size": 16, "image_size": 64}
    torch.manual_seed(0)
    config = ClippoConfig(**sizes, embed_dim=16, text=text, num_towers=num_towers)
    model = Clippo(config, RENDERERS.get(kind)).eval()
    with torch.no_grad():  # at first, attention is nearly equal everywhere
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


@torch.no_grad()
def pooled(encoder, features, found):
    """What the pooling head gives if these maps are its attention."""
    values = encoder.pool.kv(features).unflatten(-1, (2, 4, -1))[:, 1].split([len(m.weights) for m in found])
    weighted = [
        (torch.from_numpy(m.weights)[..., None] * v).sum(0) for m, v in zip(found, values, strict=True)
    ]
    return encoder.pool.project(torch.stack(weighted).float())


@pytest.mark.parametrize(("kind", "num_towers"), [("packed", 1), ("inked", 1), ("all", 1), ("bytes", 2)])
@torch.no_grad()
def test_the_weights_are_those_of_the_pooling_head(kind, num_towers):
    """The values, weighted by them, give what the head gives; so does one tower more."""
    model = model_of(kind, num_towers)
    tokens = model.text_input.tokenize(TEXTS)
    encoder = model.text_encoder or model.tower.encoder
    x, varlen = model.text_input(tokens, model.text_input.mask(tokens), model.tower.patch_embed)
    features, found = encoder.forward_features(x, varlen), maps_of_texts(model, TEXTS)
    torch.testing.assert_close(
        pooled(encoder, features.reshape(-1, 32), found), encoder.pool(features, varlen)
    )
    assert max(m.weights.max() for m in found if len(m.weights) > 1) > 0.3

    pixels = RNG.integers(0, 256, (3, 64, 64, 3), np.uint8)
    features = model.tower.encoder.forward_features(model.image_tokens(torch.from_numpy(pixels))[0])
    expected = model.tower.encoder.pool(features)
    found = maps_of_images(model, pixels)
    torch.testing.assert_close(pooled(model.tower.encoder, features.flatten(0, 1), found), expected)


def test_positions_are_those_of_the_patches_that_are_read():
    for kind in ("packed", "inked", "all"):
        model = model_of(kind)
        inked = (model.renderer(TEXTS) != 127).reshape(3, 4, 16, 4, 16).any((2, 4)).reshape(3, 16)
        expected = [np.arange(16)] * 3 if kind == "all" else [np.flatnonzero(row) for row in inked]
        found = [one.positions.tolist() for one in maps_of_texts(model, TEXTS)]
        assert found == [own.tolist() or [0] for own in expected]
    byte_positions = [one.positions.tolist() for one in maps_of_texts(model_of("bytes"), TEXTS)]
    assert byte_positions == [list(range(max(1, len(text.encode())))) for text in TEXTS]


def test_entropy_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    weights = RNG.dirichlet(np.full(7, 0.3), 3).T
    assert entropy(weights) == pytest.approx(100 * stats.entropy(weights) / np.log(7))


def test_measures_of_known_maps():
    content = np.array([True, False, False, True])
    certain = AttentionMap(np.arange(4), np.array([[1.0, 0.0], [0, 0], [0, 0], [0, 1]]))
    equal = AttentionMap(np.arange(4), np.full((4, 2), 0.25))
    found = measures([certain] * 20, [content] * 20)
    assert found["head_1/entropy"] == found["head_2/entropy"] == 0
    assert found["entropy"] == pytest.approx(50)  # both patches alike
    assert found["content"] == found["head_1/content"] == 100
    assert found["chance/content"] == 50
    found = measures([equal] * 20, [content] * 20)
    assert found["entropy"] == pytest.approx(100)
    assert found["content"] == found["chance/content"] == 50
    # A blank text, one of a single patch, and texts of which only the inked patches are read.
    inked = AttentionMap(np.array([0, 3]), np.array([[0.9, 0.5], [0.1, 0.5]]))
    single = AttentionMap(np.array([2]), np.ones((1, 2)))
    assert "content" not in measures([inked, single], [content, np.zeros(4, bool)])
    assert measures([inked, single], [])["head_2/entropy"] == pytest.approx(100)
    assert measures([single], []) == {}


def test_patches_of_one_colour_have_no_content():
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    pixels[0, :16, 16:] = (10, 20, 30)
    pixels[1, 31, 3, 2] = 1
    assert patches_of_many_colours(pixels, 16).tolist() == [[False] * 4, [False, False, True, False]]


def test_attention_is_laid_over_the_patches_that_are_read():
    pixels = RNG.integers(0, 256, (1, 32, 32, 3), np.uint8)
    one = AttentionMap(np.array([1, 2]), np.array([[0.8], [0.2]]))
    out = overlaid(pixels, [one], 16).astype(float)
    assert (out[0, :16, :16] == pixels[0, :16, :16]).all()
    assert (out[0, 16:, 16:] == pixels[0, 16:, 16:]).all()
    for rows, columns, opacity in (
        (slice(16), slice(16, 32), OPACITY),
        (slice(16, 32), slice(16), OPACITY / 4),
    ):
        expected = (1 - opacity) * pixels[0, rows, columns] + opacity * np.array(COLOUR)
        assert out[0, rows, columns] == pytest.approx(expected, abs=0.51)


class Few(Source):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = RNG.integers(0, 256, (64, 64, 3), np.uint8)
        image[:, :32] = 127
        return Example(str(index), image, (Text("Hund", "de"), Text("dog" * index, "en")))


@pytest.mark.parametrize(("kind", "columns"), [("packed", 4), ("all", 4), ("bytes", 2)])
def test_images_and_texts_are_measured_and_drawn(kind, columns):
    evaluator, model = AttentionMaps(Few(5), SquashConfig().build(64)), model_of(kind)
    assert {text for _, texts in [evaluator.inputs(evaluator.examples)] for text in texts} >= {
        "dog",
        "dogdog",
    }
    metrics = evaluator(model)
    assert metrics == evaluator(model)
    assert metrics["image/chance/content"] == 50
    assert 0 < metrics["text/head_4/entropy"] < 100
    assert ("text/content" in metrics) == (kind == "all")
    assert evaluator.picture(model).size == (2 * (columns * 200 + 8), 3 * 200 + 8)


class Pairs(Few):
    def __getitem__(self, index):
        return replace(super().__getitem__(index), image=None)


@pytest.mark.parametrize("source", [Few(0), Pairs(3)])
def test_no_images_are_refused(source):
    with pytest.raises(UserError, match="at least one image"):
        AttentionMaps(source, SquashConfig().build(64))
