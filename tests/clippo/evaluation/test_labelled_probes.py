"""Few-shot, linear probe and neighbours, of models that are handed their features."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from clippo.data.base import Source
from clippo.data.transform import SquashConfig
from clippo.errors import UserError
from clippo.evaluation.few_shot import FewShotConfig, Middle
from clippo.evaluation.linear_probe import LinearProbeConfig
from clippo.evaluation.nearest_neighbours import NearestNeighboursConfig
from clippo.evaluation.probes import best_C
from clippo.model import create_model
from tests.clippo.evaluation.conftest import Labels, Told

SQUASH = SquashConfig()
CONFIGS = [FewShotConfig(shots=(1, 5)), LinearProbeConfig(), NearestNeighboursConfig(ks=(1, 5))]
HEADS = ["1_shot/", "", "1_neighbours/"]


def two_parts(labels_of, config_of):
    """80 examples to train on and 120 that are held out; the pictures of both have their own grey levels."""

    class Shifted(Labels):
        def __getitem__(self, index):
            example = super().__getitem__(index)
            object.__setattr__(example, "image", example.image + 80)
            return example

    fit, test = ([labels_of(i) for i in part] for part in (range(80), range(80, 200)))
    return config_of(train=Labels(fit), held_out=Shifted(test))


@pytest.mark.parametrize(
    ("config", "head"), list(zip(CONFIGS, HEADS, strict=True)), ids=["few_shot", "linear", "neighbours"]
)
def test_a_model_that_knows_is_right_and_one_that_guesses_reaches_chance(config_of, config, head):
    data = two_parts(lambda i: (str(i * 7 % 4),), config_of)
    evaluator = config.build(data, SQUASH, 2)
    known = torch.eye(4)[[i * 7 % 4 for i in range(200)]]
    metrics = evaluator(Told(dict(enumerate(known)), {}))
    assert all(
        value == 100 for name, value in metrics.items() if name.endswith(("neighbours/top1", "shot/top1"))
    )
    assert metrics[f"{head}top1"] == 100
    assert metrics["chance/top1"] == metrics["majority/top1"] == 25
    noise = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    guessed = evaluator(Told(dict(enumerate(noise)), {}))
    assert guessed[f"{head}top1"].low <= 25 <= guessed[f"{head}top1"].high
    constant = evaluator(Told(dict.fromkeys(range(200), torch.ones(8)), {}))
    assert constant[f"{head}top1"] <= 25
    broken = evaluator(Told(dict.fromkeys(range(200), torch.full((8,), torch.nan)), {}))
    assert broken[f"{head}top1"] == 0
    assert (
        evaluator.fingerprint
        != config.build(two_parts(lambda i: (str(i % 4),), config_of), SQUASH, 2).fingerprint
    )


def test_few_shot_is_that_of_the_reference(reference_dir, config_of):
    """With all shots there is nothing to choose: 70 examples of 7 classes to fit, 280 to measure."""
    with np.load(reference_dir / "evaluation" / "fewshot_ref.npz") as file:
        ref = dict(file)

    class Numbered(Source):
        """Pictures whose two first pixels are their number."""

        def __init__(self, labels, first):
            self.own = Labels([(str(label),) for label in labels])
            self.first = first

        def __len__(self):
            return len(self.own)

        def __getitem__(self, index):
            example = self.own[index]
            image = np.zeros((2, 2, 3), np.uint8)
            image[0, :, 0] = divmod(index + self.first, 256)
            object.__setattr__(example, "image", image)
            return example

    x = torch.from_numpy(np.concatenate([ref["xtr"], ref["xte"]]))

    class Model:
        def image_features(self, pixels):
            return x[pixels[:, 0, 0, 0].long() * 256 + pixels[:, 0, 1, 0]]

    data = config_of(train=Numbered(ref["ytr"], 0), held_out=Numbered(ref["yte"], len(ref["xtr"])))
    found = FewShotConfig(shots=(10,)).build(data, SQUASH, 2)(Model())
    assert found["10_shot/top1"] == pytest.approx(
        100 * float(ref["acc_10_1024.0"]), abs=101 / 280
    )  # in float32 there
    assert found["10_shot/seed_std"] == pytest.approx(0, abs=1e-9)


def test_few_shots_are_drawn_as_in_the_reference(config_of):
    """Of each class the first of a permutation, so that more shots have those of fewer."""
    data = two_parts(lambda i: (str(i * i % 5),), config_of)
    evaluator = FewShotConfig(shots=(1, 3, 999), seeds=2).build(data, SQUASH, 2)
    labels = np.array([i * i % 5 for i in range(80)])
    for seed in range(2):
        rng = np.random.default_rng(seed)
        classes = [rng.permutation(np.flatnonzero(labels == n)) for n in np.unique(labels)]
        for count in (1, 3, 999):
            rows = evaluator.fit.rows[evaluator.chosen[count, seed]]
            assert rows.tolist() == np.concatenate([own[:count] for own in classes]).tolist()
    few = FewShotConfig(shots=(1, 3), seeds=2).build(data, SQUASH, 2)
    assert len(few.fit) <= 3 * 3 * 2  # the others are not read


def test_the_middle_is_that_of_the_reference(reference_dir, config_of):
    with np.load(reference_dir / "evaluation" / "pp_ref.npz") as file:
        ref = dict(file)
    middle = Middle(SquashConfig(resize="bilinear").build(256), 224)
    for number in range(5):
        found = middle(ref[f"img{number}"])
        np.testing.assert_allclose(found / 127.5 - 1, ref[f"img{number}_fewshot"], atol=1e-6)
    built = FewShotConfig(shots=(1,)).build(two_parts(lambda i: (str(i % 2),), config_of), SQUASH, 224)
    assert built.transform.transform.image_size == 256


def test_the_linear_probe_is_that_of_scikit_learn(config_of):
    """On noisy features, of which a tenth of the test labels are several."""
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=200)
    x = rng.normal(size=(3, 6))[y] + 1.5 * rng.normal(size=(200, 6))
    data = two_parts(lambda i: (str(y[i]),) if i < 180 else (str(y[i]), "2"), config_of)
    found = LinearProbeConfig().build(data, SQUASH, 2)(Told(dict(enumerate(torch.from_numpy(x))), {}))
    C = best_C(x[:80], y[:80], 3)
    z = (x - x[:80].mean(0)) / (x[:80].std(0) + 1e-5)
    predicted = LogisticRegression(C=C, tol=1e-8, max_iter=10_000).fit(z[:80], y[:80]).predict(z[80:])
    right = (predicted == y[80:]) | ((predicted == 2) & (np.arange(80, 200) >= 180))
    assert found["top1"] == pytest.approx(100 * right.mean())
    assert found["chosen/log10_C"] == pytest.approx(np.log10(C))


def test_another_source_is_measured(config_of):
    fit, test = Labels([("a",), ("b",)] * 3), Labels([("b",), ("c",)])
    config = NearestNeighboursConfig(data=config_of(all=fit), test_data=config_of(all=test), ks=(1,))
    evaluator = config.build(None, SQUASH, 2)
    assert evaluator.num_classes == 3
    vectors = torch.eye(3)
    metrics = evaluator(Told({i: vectors[i % 2] for i in range(6)} | {1: vectors[1]}, {}))
    assert metrics["1_neighbours/top1"] == 0  # 0 is like a, and no example of c is known
    assert "1_neighbours/top5" not in metrics


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="shots must be numbers above 0, got 5, 0"):
        FewShotConfig(shots=(5, 0))
    with pytest.raises(UserError, match="seeds must be at least 1, got 0"):
        FewShotConfig(seeds=0)
    with pytest.raises(UserError, match="ks must be numbers above 0, got none"):
        NearestNeighboursConfig(ks=())


def test_features_are_what_the_head_embeds():
    model = create_model("clippo-mu16", image_size=32, embed_dim=8).eval()
    pixels = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    features = model.image_features(pixels, batch_size=2)
    assert features.shape == (5, model.config.width)
    torch.testing.assert_close(
        model.tower.encoder.head(features), model.encode_image(pixels, normalize=False)
    )
    assert not features.requires_grad
