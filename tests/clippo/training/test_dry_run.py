import dataclasses
import re

import pytest
import torch

from clippo.cli import main
from clippo.data.made_up import MadeUpConfig
from clippo.data.mixture import MixtureConfig
from clippo.data.sentences import SentencesConfig
from clippo.errors import UserError
from clippo.recipes import find_recipe
from clippo.training.dry_run import (
    LiveBytes,
    dry_run,
    made_up_batch,
    mean_flops,
    memory,
    needs,
    num_parameters,
)
from clippo.training.optimizers import AdafactorConfig, AdamWConfig, MuonConfig


def test_live_bytes_are_those_that_somebody_holds():
    with LiveBytes() as live:
        a = torch.empty(1000, device="meta")
        b = a.view(10, 100) + 1
        assert live.now == 8000
        del a
        assert (live.now, live.peak) == (4000, 8000)
        c = b[0]
        del b
        assert live.now == 4000  # which c is a part of
        del c
        assert live.now == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "bytes_of_a_weight"), [(AdamWConfig(), 16), (AdafactorConfig(), 10), (MuonConfig(), 14)]
)
def test_what_stays_between_steps_is_known(tiny_config, optimizer, bytes_of_a_weight):
    """float32 weights and gradients; two float32 moments, a bfloat16 one and some vectors, or one and two."""
    model = dataclasses.replace(tiny_config.model, width=128, mlp_dim=512)
    config = dataclasses.replace(tiny_config, model=model, optimizer=optimizer)
    held, _ = memory(config, made_up_batch(config, 8))
    assert held == pytest.approx(bytes_of_a_weight * num_parameters(config), rel=0.1)


@pytest.mark.slow
def test_activations_grow_with_the_batch_and_shrink_with_checkpointing(tiny_config):
    config = dataclasses.replace(tiny_config, model=dataclasses.replace(tiny_config.model, depth=6))
    batch = made_up_batch(config, 128)
    _, active = memory(config, batch)
    _, half = memory(config, made_up_batch(config, 64))
    assert 1.8 < active / half < 2.2
    _, kept = memory(dataclasses.replace(config, grad_checkpointing=True), batch)
    assert kept < 0.5 * active


@pytest.mark.parametrize(
    ("name", "parameters", "hours"),
    [("yfcc100m", "93.5", 305), ("laion400m", "93.5", 152), ("laion400m_l16", "316.7", 531)],
)
@pytest.mark.slow
def test_the_recipes_at_published_scale_are_counted(name, parameters, hours):
    """A B/16 has 35.3 GFLOP for an image of 196 patches (two for a multiply-add), and a step three times two
    of them for each pair.
    """
    config = find_recipe(name)(MadeUpConfig())
    text = needs(config)
    assert f"{parameters} M" in text
    assert re.search(rf"^computed +{hours} hours of an H100", text, re.M)
    if name == "yfcc100m":
        pairs = config.steps * config.batch_size
        assert float(re.search(r"([\d.e+]+) FLOP", text)[1]) == pytest.approx(6 * 35.3e9 * pairs, rel=0.01)


def test_sentences_make_a_published_run_longer_and_cheaper():
    recipe = find_recipe("yfcc100m")
    sentences = SentencesConfig(path="c4/*.json.gz")
    steps = {}
    for share in (0.25, 0.5, 0.75):
        config = recipe(MadeUpConfig(), sentences=sentences, sentence_share=share)
        assert config.data.text_share == share
        assert config.evaluators.keys() == {"images", "sentences"}
        steps[share] = config.steps
    assert steps == {0.25: 333_333, 0.5: 500_000, 0.75: 500_000}
    assert recipe(sentences).data.text_share == 1.0
    with pytest.raises(UserError, match="sentence_share must be between 0 and 1, got 1.0"):
        recipe(MadeUpConfig(), sentences=sentences, sentence_share=1.0)


def test_the_mixtures_in_miniature_are_scaled_in_the_same_way():
    recipe = find_recipe("miniature")
    configs = {share: recipe(share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)}
    assert {share: config.data.text_share for share, config in configs.items()} == {s: s for s in configs}
    steps = {share: config.steps for share, config in configs.items()}
    assert steps == {0.0: 450, 0.25: 600, 0.5: 900, 0.75: 900, 1.0: 900}
    with pytest.raises(UserError, match="sentence_share must be from 0 to 1, got 1.5"):
        recipe(1.5)


@pytest.mark.slow
def test_steps_with_sentences_are_counted(tiny_config, capsys):
    """A text of 16 cells takes fewer tokens than an image of 9 patches takes products."""
    mixed = MixtureConfig(sources=(MadeUpConfig(), SentencesConfig(path="x.txt")), shares=(1, 1))
    flops = {}
    for name, data in (("images", MadeUpConfig()), ("mixed", mixed)):
        config = dataclasses.replace(tiny_config, data=data)
        made_up = dataclasses.replace(config, data=MadeUpConfig(text_share=data.text_share))
        flops[name] = mean_flops(config, made_up_batch(made_up, 16))
    assert 0.5 * flops["images"] < flops["mixed"] < 1.5 * flops["images"]
    dry_run(dataclasses.replace(tiny_config, data=mixed), 2)
    assert '2 steps on made-up data: {"step": 2,' in capsys.readouterr().out


@pytest.mark.slow
def test_steps_on_made_up_data(tiny_config, capsys):
    dry_run(dataclasses.replace(tiny_config, init_from="nowhere.npz"), 2)
    assert '2 steps on made-up data: {"step": 2,' in capsys.readouterr().out


@pytest.mark.slow
def test_a_dry_run_needs_no_data(capsys):
    main(["train", "own", "--dry-run", "0"])
    assert "parameters" in capsys.readouterr().out
