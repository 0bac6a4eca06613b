import numpy as np
import pytest
import torch

from clippo.evaluation.answer_probe import fit_probe
from clippo.evaluation.vqa_accuracy import SoftTargets

RNG = np.random.default_rng(0)


def same_or_not(count: int) -> tuple[torch.Tensor, list[list[str]]]:
    """Two one-hot vectors of four, and whether they are equal, which no linear classifier can tell."""
    a, b = RNG.integers(4, size=(2, count))
    b = np.where(RNG.random(count) < 0.5, a, b)
    z = np.concatenate([np.eye(4)[a], np.eye(4)[b]], axis=1).astype(np.float32)
    return torch.from_numpy(z), [["yes"] if same else ["no"] for same in (a == b).tolist()]


@pytest.mark.slow
def test_an_answer_that_hangs_on_two_things_is_learned():
    z, answers = same_or_not(400)
    probe = fit_probe(z, SoftTargets(answers, ["no", "yes"]), [str(i) for i in range(400)])
    z_test, expected = same_or_not(200)
    assert [[["no", "yes"][number]] for number in probe.predict(z_test)] == expected


def test_the_probe_is_a_function_of_the_seed(monkeypatch):
    monkeypatch.setattr("clippo.evaluation.answer_probe.MAX_EPOCHS", 3)
    z, answers = same_or_not(100)
    targets, pictures = SoftTargets(answers, ["no", "yes"]), [str(i % 30) for i in range(100)]
    torch.manual_seed(1)
    first = fit_probe(z, targets, pictures).out.weight
    torch.manual_seed(2)
    assert torch.equal(fit_probe(z, targets, pictures).out.weight, first)
    assert not torch.equal(fit_probe(z, targets, pictures, seed=1).out.weight, first)


def test_two_questions_are_enough():
    probe = fit_probe(torch.ones(2, 3), SoftTargets([["yes"], ["yes"]], ["no", "yes"]), ["a", "b"])
    assert probe.predict(torch.ones(2, 3)).tolist() == [1, 1]


def test_embeddings_that_are_not_numbers_give_some_answer():
    z = torch.full((10, 3), torch.nan)
    probe = fit_probe(z, SoftTargets([["yes"]] * 10, ["no", "yes"]), ["a", "b"] * 5)
    assert set(probe.predict(z).tolist()) <= {0, 1}


def test_constant_embeddings_give_the_most_frequent_answer():
    answers = [["yes"]] * 30 + [["no"]] * 10
    probe = fit_probe(torch.ones(40, 3), SoftTargets(answers, ["no", "yes"]), ["a", "b"] * 20)
    assert probe.predict(torch.ones(5, 3)).tolist() == [1] * 5
