"""The loop learns what can be learned, ends when nothing gets better, and says what it sees."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from clippo.errors import UserError
from clippo.evaluation.base import Estimate
from clippo.evaluation.probes import logistic_regression
from clippo.finetuning.inputs import Features
from clippo.finetuning.objectives import Classification, Regression
from clippo.finetuning.tasks import Examples, Task
from clippo.finetuning.trainer import DivergedError, FinetuneConfig, finetune, frozen, verdict
from clippo.model import ClippoConfig
from clippo.training.run_folder import RunFolder
from tests.clippo.finetuning.conftest import SIZES


def lines_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def separable(width: int, count: int = 600) -> Task:
    """Two classes of features that a hyperplane separates almost everywhere, far from the origin."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, count)
    x = rng.normal(size=(count, width)) + 0.8 * (2 * labels[:, None] - 1) * (np.arange(width) < 8)
    inputs = Features(torch.tensor(100 + 0.01 * x, dtype=torch.float32), np.arange(count))
    train, dev, test = (
        Examples(inputs, labels, rows) for rows in np.split(np.arange(count), [count // 2, 2 * count // 3])
    )
    objective = Classification(classes=("a", "b"))
    return Task("separable", objective, "texts", train, dev, {"": test}, "")


def test_a_frozen_head_learns_what_a_logistic_regression_does(tuned_for, tmp_path):
    task = separable(SIZES["width"])
    tuned = tuned_for(task)
    before = {name: value.clone() for name, value in tuned.model.state_dict().items()}
    config = FinetuneConfig(freeze=True, learning_rate=3e-3, epochs=10)
    found = finetune(tuned, task, config, RunFolder(tmp_path)).tests[""]["accuracy"]
    x, train, test = task.train.inputs.features.numpy(), task.train, task.tests[""]
    predict = logistic_regression(x[train.rows], train.targets[train.rows], 2, C=0.01)
    wanted = 100 * (predict(x[test.rows]).argmax(1) == test.targets[test.rows]).mean()
    assert wanted > 95
    assert found > wanted - 2
    assert all(torch.equal(value, before[name]) for name, value in tuned.model.state_dict().items())


@pytest.mark.slow
def test_a_whole_model_learns_and_keeps_its_best_weights(tuned_for, easy, tmp_path, capsys):
    tuned = tuned_for(easy)
    before = {name: value.clone() for name, value in tuned.model.state_dict().items()}
    ended = finetune(tuned, easy, FinetuneConfig(learning_rate=2e-3, epochs=4), RunFolder(tmp_path))
    assert ended.steps == 32
    losses = [line["loss"] for line in lines_of(tmp_path / "metrics.jsonl")]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-3)
    assert losses[-1] < 0.3
    assert ended.tests[""]["accuracy"].low > ended.test_guessing[""]["accuracy"]
    changed = {
        name for name, value in tuned.model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert {
        "tower.patch_embed.weight",
        "tower.patch_embed.pos_embed",
        "tower.encoder.blocks.0.attn.qkv.weight",
    } <= changed
    evaluations = lines_of(tmp_path / "evaluations.jsonl")
    assert len(evaluations) == 10
    best = max(evaluations, key=lambda line: (line["dev/accuracy"], -line["dev/loss"]))
    assert best["step"] == ended.step
    # The weights are those of that step, and not the last ones.
    predicted = tuned.outputs_of(easy.dev).argmax(1).numpy()
    assert 100 * (predicted == easy.dev.targets[easy.dev.rows]).mean() == pytest.approx(best["dev/accuracy"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "step" in line]
    assert len(lines) == 10
    assert lines[0].startswith("easy, step 3 of 32: dev accuracy ")
    assert "better than the most frequent class" in lines[-1]


def test_a_run_ends_when_nothing_gets_better(tuned_for, tmp_path):
    task = separable(SIZES["width"])
    task = replace(task, dev=replace(task.dev, targets=1 - task.dev.targets))  # learning makes it worse
    config = FinetuneConfig(freeze=True, learning_rate=1e-2, patience=2, epochs=10)
    ended = finetune(tuned_for(task), task, config, RunFolder(tmp_path))
    evaluations = lines_of(tmp_path / "evaluations.jsonl")
    assert ended.steps == evaluations[-1]["step"] < config.steps(len(task.train))
    assert [line["step"] for line in evaluations].index(ended.step) == len(evaluations) - 3


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(tuned_for, tmp_path):
    task = separable(SIZES["width"])

    def weights(seed):
        tuned = tuned_for(task, seed)
        finetune(tuned, task, FinetuneConfig(freeze=True, max_steps=20, seed=seed), RunFolder(tmp_path))
        return tuned.head.hidden1.weight.detach()

    first, again, other = weights(0), weights(0), weights(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_loss_that_is_not_finite_ends_the_run(tuned_for, tmp_path):
    task = separable(SIZES["width"])
    task.train.inputs.features[task.train.rows[0]] = torch.nan
    with pytest.raises(DivergedError, match="not finite at step 1: try a learning rate below 3e-05"):
        finetune(tuned_for(task), task, FinetuneConfig(freeze=True), RunFolder(tmp_path))


def test_frozen_features_are_those_of_the_tower(tuned_for, easy):
    tuned = tuned_for(easy)
    kept = frozen(tuned, easy)
    for part, same in ((easy.train, kept.train), (easy.dev, kept.dev), (easy.tests[""], kept.tests[""])):
        assert torch.allclose(tuned.outputs_of(part), tuned.outputs_of(same), atol=1e-6)
        some = same.drawn(5, "some")
        assert torch.allclose(
            tuned.features_of(part.inputs, some.rows), tuned.features_of(some.inputs, some.rows), atol=1e-5
        )


def test_learning_rates_by_layer(model):
    config = FinetuneConfig(layer_decay=0.5, position_multiplier=10.0)
    sizes = replace(model.config, depth=2)
    names = {
        "head.out.weight": 1.0,
        "model.tower.encoder.pool.q.weight": 0.5,
        "model.tower.encoder.norm.bias": 0.5,
        "model.tower.encoder.blocks.1.norm1.weight": 0.25,
        "model.tower.encoder.blocks.0.mlp.fc1.weight": 0.125,
        "model.tower.patch_embed.weight": 0.0625,
        "model.tower.patch_embed.pos_embed": 0.625,
    }
    parameters = [(name, torch.nn.Parameter(torch.zeros(2, 2))) for name in names]
    groups = config.optimizer(sizes).build(parameters, sizes).param_groups
    found = {id(p): group["lr_multiplier"] for group in groups for p in group["params"]}
    assert {name: found[id(p)] for name, p in parameters} == names
    assert isinstance(sizes, ClippoConfig)


@pytest.mark.parametrize(
    ("value", "guess", "said"),
    [(60.0, 50.0, "better than"), (51.0, 50.0, "no better yet than"), (40.0, 50.0, "worse than")],
)
def test_the_verdict_looks_at_the_interval(value, guess, said):
    task = replace(separable(4), objective=Regression(mean=0.0, std=1.0))
    dev = {"spearman": Estimate(value, value - 3, value + 3)}
    line = verdict(task, dev, {"spearman": guess})
    assert line == f"dev spearman {value:.1f} ({value - 3:.1f} to {value + 3:.1f}), {said} the mean (50.0)"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("max_steps", -1),
        ("patience", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("layer_decay", 1.5),
        ("position_multiplier", 0.0),
        ("weight_decay", -1.0),
        ("seed", -1),
    ],
)
def test_values_out_of_range_are_refused(field, value):
    with pytest.raises(UserError, match=f"{field} must"):
        FinetuneConfig(**{field: value})
