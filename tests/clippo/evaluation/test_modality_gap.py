from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clippo.data.base import Example, Source, Text
from clippo.data.transform import SquashConfig
from clippo.errors import UserError
from clippo.evaluation.modality_gap import (
    ModalityGap,
    centred,
    chance_gap,
    is_nearest,
    principal_components,
    same_modality,
    separable,
    uniformity,
)

RNG = np.random.default_rng(0)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


class Numbered(Source):
    """Pictures whose grey level is their number, each with an English and most with a German name.

    The last has the text of the first.
    """

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count + 1

    def __getitem__(self, index):
        number = index % self.count
        texts = (Text(f"en {number}", "en"), *[Text(f"de {number}", "de")] * (number >= 5))
        return Example(str(index), np.full((8, 8, 3), index, np.uint8), texts)


class Known:
    """A model that is handed its embeddings: (N, E) of images, and of texts by language."""

    def __init__(self, images, **texts):
        self.images, self.texts = images, texts
        self.text_input = SimpleNamespace()

    def encode_image(self, pixels):
        return torch.from_numpy(self.images[pixels[:, 0, 0, 0].numpy()]).float()

    def encode_text(self, texts):
        rows = [self.texts[text.split()[0]][int(text.split()[1])] for text in texts]
        return torch.from_numpy(np.stack(rows)).float()


def measured(model, count):
    return ModalityGap(Numbered(count), SquashConfig().build(8))(model)


def test_a_model_that_knows_all_has_no_gap_and_finds_all():
    z = unit(RNG.normal(size=(40, 16)))
    metrics = measured(Known(z, en=z, de=z), 40)
    for name in ("text_to_image/R@1", "image_to_text/R@1", "centred/text_to_image/R@1"):
        assert metrics[name] == 100
    for name in ("gap", "chance/gap", "alignment", "centred/alignment", "de/gap", "de/gap_to_en"):
        assert metrics[name] == pytest.approx(0, abs=1e-6)
    assert metrics["linear/accuracy"] == metrics["nearest/accuracy"] == 50  # all ties
    assert metrics["chance/R@1"] == 100 / 40
    assert "en/gap_to_en" not in metrics


def test_a_model_that_knows_nothing_is_at_chance():
    images, en, de = unit(RNG.normal(size=(3, 300, 64)))
    metrics = measured(Known(images, en=en, de=de), 255)  # more cannot be told by their grey level
    for name in ("linear/accuracy", "nearest/accuracy", "centred/nearest/accuracy"):
        assert metrics[name].low < 50 < metrics[name].high
    for name in ("text_to_image/R@1", "image_to_text/R@1"):
        assert metrics[name] < 2.2  # five of 255, where chance is one
    for name in ("gap", "de/gap"):
        assert metrics[name].low < metrics[name] < metrics[name].high
        assert metrics[name] == pytest.approx(metrics[name.replace("gap", "chance/gap")], rel=0.25)
    assert metrics["alignment"] == pytest.approx(2, abs=0.05)


def test_a_gap_is_closed_by_centring():
    """Two cones of aligned pairs: nearest neighbours stay in their cone, until the means are subtracted."""
    z = RNG.normal(size=(60, 16))
    z[:, :2] = 0
    images, en, de = (unit(z + 5 * np.eye(16)[axis] + 0.1 * RNG.normal(size=z.shape)) for axis in (0, 1, 1))
    metrics = measured(Known(images, en=en, de=de), 60)
    assert metrics["linear/accuracy"] == metrics["nearest/accuracy"] == 100
    assert metrics["gap"].low > 0.5
    assert metrics["de/gap"].low > 0.5
    assert metrics["de/gap_to_en"] < 0.05
    assert metrics["centred/nearest/accuracy"] == pytest.approx(50, abs=10)
    assert metrics["centred/text_to_image/R@1"] == 100


def test_measures_are_their_definitions():
    x, y = unit(RNG.normal(size=(2, 30, 8)) + 0.3)
    nearest = [np.linalg.norm(y - a, axis=1).argmin() == i for i, a in enumerate(x)]
    assert is_nearest(x, y).tolist() == nearest
    distances = [((a - b) ** 2).sum() for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    estimate = uniformity(x)
    assert estimate == pytest.approx(np.log(np.mean(np.exp(-2 * np.array(distances)))))
    assert estimate.low < estimate < estimate.high
    both, expected = np.concatenate([x, y]), []
    for i, a in enumerate(both):
        others = [j for j in range(60) if j % 30 != i % 30]
        found = others[np.argmax(both[others] @ a)]
        expected.append(100 * (found // 30 == i // 30))
    assert same_modality(x, y).tolist() == expected
    gaps = [np.linalg.norm((RNG.choice([-1, 1], (30, 1)) * (x - y)).mean(0)) ** 2 for _ in range(4000)]
    assert chance_gap(x, y) == pytest.approx(np.mean(gaps) ** 0.5, rel=0.05)


def test_centring_a_small_sample_does_not_hide_its_neighbours():
    scores = [
        same_modality(*map(centred, unit(RNG.normal(size=(2, 30, 64)))), is_centred=True) for _ in range(40)
    ]
    assert np.mean(scores) == pytest.approx(50, abs=4)  # 33 without the correction


def test_the_classifier_and_the_components_are_those_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    decomposition = pytest.importorskip("sklearn.decomposition")
    x, y = unit(RNG.normal(size=(2, 40, 12)) + 0.4 * RNG.normal(size=(2, 1, 12)))
    expected = np.empty((2, 40))
    for part in (0, 1):
        both = np.concatenate([x[1 - part :: 2], y[1 - part :: 2]])
        alpha = 0.01 * both.var(0).mean() * len(both)
        ridge = linear_model.RidgeClassifier(alpha=alpha).fit(both, np.repeat([1, 0], 20))
        expected[0, part::2] = ridge.predict(x[part::2])
        expected[1, part::2] = 1 - ridge.predict(y[part::2])
    assert 50 < 100 * expected.mean() < 100
    assert separable(x, y).tolist() == (100 * expected.reshape(-1)).tolist()
    pca = decomposition.PCA(2).fit(x)
    points, shares = principal_components(x)
    assert abs(points) == pytest.approx(abs(pca.transform(x)))
    assert shares == pytest.approx(100 * pca.explained_variance_ratio_)


def test_constant_embeddings():
    z = np.ones((25, 4)) / 2
    metrics = measured(Known(z, en=z, de=z), 25)
    assert metrics["text_to_image/R@1"] == metrics["centred/text_to_image/R@1"] == 0
    assert metrics["linear/accuracy"] == metrics["nearest/accuracy"] == 50
    assert metrics["texts/uniformity"] == 0
    assert (centred(z) == 0).all()


def test_picture():
    images, texts = unit(RNG.normal(size=(2, 30, 8)))
    picture = ModalityGap(Numbered(30), SquashConfig().build(8)).picture(Known(images, en=texts))
    assert picture.size == (1200, 600)
    assert len(picture.getcolors(2**20)) > 100


def test_too_few_examples_are_refused():
    with pytest.raises(UserError, match="at least 20 images with different texts, got 19"):
        ModalityGap(Numbered(19), SquashConfig().build(8))


def test_pairs_of_texts_are_no_images():
    class Pairs(Numbered):
        def __getitem__(self, index):
            return replace(super().__getitem__(index), image=None)

    with pytest.raises(UserError, match="at least 20 images with different texts, got 0"):
        ModalityGap(Pairs(30), SquashConfig().build(8))
