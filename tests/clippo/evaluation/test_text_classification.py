import json

import numpy as np
import pytest
import torch

from clippo.errors import UserError
from clippo.evaluation.base import EvaluatorConfig
from clippo.evaluation.bitext import BitextConfig
from clippo.evaluation.glue import GlueConfig
from clippo.evaluation.sts import SimilarityConfig
from clippo.evaluation.text_classification import (
    TextClassification,
    TextClassificationConfig,
    class_vectors,
)
from clippo.evaluation.text_tasks import Part, TextTask, load_task
from clippo.model import Clippo, ClippoConfig
from clippo.model.configs import from_dict, to_dict
from clippo.renderer import UnifontRenderer


def two_classes(train, test):
    return TextTask("made", train, train, {"": test}, ("no", "yes"), ("accuracy", "f1"))


def known(task, rng):
    """Embeddings that hold the answers: each label has a direction of its own, and scores are a length."""
    parts = [task.train, task.validation, *task.tests.values()]
    directions = np.eye(8)
    given = {}
    for part in parts:
        for text, label in zip(part.inputs, part.labels.tolist(), strict=True):
            own = directions[label] if task.classes else label * directions[0]
            given[text] = own + rng.normal(scale=1e-3, size=8)
    return given


@pytest.mark.parametrize("name", ["sentiment", "rating", pytest.param("is_a", marks=pytest.mark.slow)])
def test_a_model_that_is_handed_the_answers_scores_100(texts, knowing, name):
    task = load_task(name, str(texts)).capped(120, 60)
    task_known = known(task, np.random.default_rng(0))
    for number, label in enumerate(task.classes):
        task_known |= {prompt.replace("{}", label): np.eye(8)[number] for prompt in task.prompts}
    evaluator = TextClassification(task)
    metrics = evaluator(knowing(task_known))
    for metric in task.metrics:
        assert metrics[f"probe/{metric}"] == pytest.approx(100, abs=0 if task.classes else 0.5)
        if task.prompts:
            assert metrics[f"zero_shot/{metric}"] == 100
    if task.classes:
        assert metrics["10_shot/accuracy"] > 95
    assert evaluator(knowing(task_known)) == metrics
    assert evaluator.fingerprint == task.fingerprint


@pytest.mark.parametrize("name", ["sentiment", "rating"])
def test_a_model_that_knows_nothing_scores_chance(texts, ignorant, name):
    config = TextClassificationConfig(task=name, path=str(texts), max_train=80, max_test=80)
    metrics = config.build(None, None, 64)(ignorant)
    main = "accuracy" if name != "rating" else "spearman"
    assert metrics[f"chance/{main}"] == {"sentiment": 50, "rating": 0}[name]
    for method in ("probe", "zero_shot", "10_shot") if name == "sentiment" else ("probe",):
        assert metrics[f"{method}/{main}"].low < metrics[f"chance/{main}"] < metrics[f"{method}/{main}"].high


def test_the_majority_is_that_of_training(ignorant):
    train = Part(tuple(f"t{i}" for i in range(20)), (), np.array([0] * 8 + [1] * 12))
    test = Part(("a", "b", "c", "d"), (), np.array([0, 0, 0, 1]))
    task = two_classes(train, test)
    metrics = TextClassification(task)(ignorant)
    assert metrics["majority/accuracy"] == 25
    assert metrics["majority/f1"] == pytest.approx(40)
    assert "zero_shot/accuracy" not in metrics


def test_ngrams_tell_classes_of_letters(ignorant):
    """Two languages of different letters, which random embeddings do not tell apart."""
    rng = np.random.default_rng(0)
    made = ["".join(rng.choice(list(letters), 12)) for letters in ("abcdef", "defghi") for _ in range(60)]
    labels = np.repeat([0, 1], 60)
    parts = [Part(tuple(made[i::2]), (), labels[i::2]) for i in (0, 1)]
    metrics = TextClassification(two_classes(*parts))(ignorant)
    assert metrics["n-grams/accuracy"] > 95
    assert 80 < metrics["n-grams_10_shot/accuracy"] < metrics["n-grams/accuracy"]
    assert metrics["probe/accuracy"] < 75


def test_class_vectors_are_means_that_are_not_normalised(knowing):
    model = knowing({"a dry sea": [1.0, 0.0], "dry sea!": [0.0, 1.0], "a x": [0.6, 0.8], "x!": [0.6, 0.8]})
    found = class_vectors(model, ("dry_sea", "x"), ("a {}", "{}!"))
    np.testing.assert_allclose(found, [[0.5, 0.5], [0.6, 0.8]], atol=1e-6)


def test_prompts_of_ones_own_replace_those_of_the_task(texts):
    config = TextClassificationConfig(task="sentiment", path=str(texts), prompts=("so {}",))
    assert config.build(None, None, 64).task.prompts == ("so {}",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": ("a film",)}, "prompts must have {} for the name of a class, got 'a film'"),
        ({"max_train": 7}, "max_train must be at least 8 and max_test at least 1, got 7 and 2000"),
        ({"max_test": 0}, "got 4000 and 0"),
        ({"task": "rating", "prompts": ("{}",)}, "prompts name classes, and the task rating has none"),
        ({"task": "glue/cola", "path": ""}, "path must be the folder of GLUE's data"),
    ],
)
def test_bad_settings_get_one_message(texts, arguments, message):
    with pytest.raises(UserError, match=message):
        TextClassificationConfig(**{"path": str(texts)} | arguments).build(None, None, 64)


@pytest.mark.parametrize(
    "config",
    [
        TextClassificationConfig(task="is_a", max_test=10),
        TextClassificationConfig(prompts=("so {}", "{}")),
        SimilarityConfig(task="glue/stsb", path="glue"),
        BitextConfig(data="packages", languages_per_script=0),
        GlueConfig(tasks=("rte",)),
    ],
)
def test_configurations_are_kept_in_json(config):
    kept = json.loads(json.dumps(to_dict(config)))
    assert from_dict(EvaluatorConfig, kept) == config


def test_an_untrained_tower_is_measured(texts):
    torch.manual_seed(0)
    sizes = {"width": 32, "depth": 1, "mlp_dim": 64, "num_heads": 2, "patch_size": 16, "image_size": 48}
    model = Clippo(ClippoConfig(**sizes, embed_dim=16), UnifontRenderer(48)).eval()
    config = TextClassificationConfig(path=str(texts), max_train=40, max_test=20)
    evaluator = config.build(None, None, 48)
    metrics = evaluator(model)
    assert metrics == evaluator(model)
    assert {name.partition("/")[0] for name in metrics} == {
        "probe", "zero_shot", "10_shot", "n-grams", "n-grams_10_shot", "majority", "chance"
    }  # fmt: skip


def test_perturbed_texts_are_tested_beside_the_given_ones(texts, knowing):
    """A probe that was fitted on texts as they are is lost where it does not know the changed ones."""
    config = TextClassificationConfig(
        task="domain", path=str(texts), max_train=80, max_test=60, perturbations=("upper_case=1", "typos=0")
    )
    plain = load_task("domain", str(texts)).capped(80, 60)
    evaluator = config.build(None, None, 64)
    parts = evaluator.task.tests
    assert [*parts] == ["", "upper_case=1", "typos=0"]
    assert parts["upper_case=1"].texts == tuple(text.upper() for text in plain.tests[""].texts)
    assert parts["typos=0"].texts == parts[""].texts
    given = known(plain, np.random.default_rng(0))
    given |= {text: np.ones(8) for text in parts["upper_case=1"].inputs}
    given |= {prompt.replace("{}", name): np.ones(8) for name in plain.classes for prompt in plain.prompts}
    metrics = evaluator(knowing(given))
    assert metrics["probe/accuracy"] == metrics["typos=0/probe/accuracy"] == 100
    assert metrics["upper_case=1/probe/accuracy"] < 80
    assert evaluator.fingerprint != plain.fingerprint
    assert "upper_case=1/n-grams/accuracy" in metrics


def test_both_texts_of_a_pair_are_perturbed(texts):
    config = TextClassificationConfig(task="is_a", path=str(texts), max_test=20, perturbations=("swap=1",))
    parts = config.build(None, None, 64).task.tests
    for side in ("texts", "seconds"):
        before, after = getattr(parts[""], side), getattr(parts["swap=1"], side)
        assert before != after
        assert [sorted(text) for text in before] == [sorted(text) for text in after]


def test_unknown_perturbations_are_refused():
    with pytest.raises(UserError, match="a perturbation must be one of .*, got 'typo'"):
        TextClassificationConfig(perturbations=("typo=0.1",))
