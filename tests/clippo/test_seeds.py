import numpy as np
import torch

from clippo.seeds import generator, generators, torch_seed


def test_numbers_follow_from_the_seed_and_the_path():
    def first(*args):
        return generator(*args).random()

    assert first(0, "order", 3) == first(0, "order", 3)
    others = [first(1, "order", 3), first(0, "weights", 3), first(0, "order", 4), first(0, "order")]
    assert len({first(0, "order", 3), *others}) == 5
    # The derivation is part of what makes a run reproducible: it must not change unnoticed.
    assert first(0, "order", 3) == 0.7222644724395508
    assert torch_seed(0, "step", 1, 0) == 1253490473126151718


def test_seeds_of_torch_are_as_it_takes_them():
    seeds = {torch_seed(seed, "step", step) for seed in (0, 1, 10**30) for step in range(100)}
    assert len(seeds) == 300
    for seed in seeds:
        torch.manual_seed(seed)


def test_many_generators_are_independent_and_repeatable():
    numbers = np.array([rng.random(50) for rng in generators(0, "examples", 7, count=200)])
    again = np.array([rng.random(50) for rng in generators(0, "examples", 7, count=200)])
    assert np.array_equal(numbers, again)
    assert len(np.unique(numbers)) == numbers.size
    assert abs(numbers.mean() - 0.5) < 0.01
    assert np.abs(np.corrcoef(numbers)[~np.eye(200, dtype=bool)]).max() < 0.7
    # Drawing fewer numbers from one generator does not change the next.
    few = [rng.random() for rng in generators(0, "examples", 7, count=200)]
    assert few == numbers[:, 0].tolist()
