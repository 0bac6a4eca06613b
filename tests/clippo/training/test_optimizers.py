"""Adafactor is that of the published code."""

import dataclasses

import numpy as np
import pytest
import torch

from clippo.errors import UserError
from clippo.model import Clippo, load_big_vision
from clippo.model.checkpoints.big_vision import entries
from clippo.training.adafactor import factored_dims
from clippo.training.optimizers import AdafactorConfig, AdamWConfig, MuonConfig
from clippo.training.schedules import RsqrtConfig
from clippo.training.trainer import train
from clippo_kernels import contrastive_loss
from tests.clippo.training.test_trainer import same, state, train_until


def test_adafactor_takes_the_published_steps(reference_dir):
    """Four steps, with a warm-up of two and a time scale of four.

    Key biases have no gradient but rounding errors, which Adafactor scales to size.
    """
    model = load_big_vision(reference_dir / "model" / "params.npz")
    optimizer = AdafactorConfig().build(model.named_parameters(), model.config)
    with np.load(reference_dir / "model" / "io.npz") as file:
        images, texts = torch.from_numpy(file["images"]), torch.from_numpy(file["texts"])
    schedule = RsqrtConfig(timescale=4, cooldown_steps=0)
    tensors = dict(model.named_parameters())
    with np.load(reference_dir / "model" / "train.npz") as expected:
        for step in range(4):
            optimizer.zero_grad()
            loss = contrastive_loss(*model(images, texts), model.logit_scale.exp())
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            assert loss.item() == pytest.approx(float(expected[f"step{step}/loss"]), rel=1e-5)
            assert norm.item() == pytest.approx(float(expected[f"step{step}/gnorm"]), rel=1e-5)
            factor = schedule.factor(step, steps=100, warmup_steps=2)
            for group in optimizer.param_groups:
                group["lr"], group["factor"] = 1e-3 * factor, factor
            optimizer.step()
            for entry in entries(model.config):
                if entry.theirs.endswith("key/bias"):
                    continue
                found = entry.to_theirs(entry.part_of(tensors[entry.ours].detach())).numpy()
                # An update moves a weight by about 1e-3; bfloat16 rounds its mean, to one side or the other.
                wanted = expected[f"step{step}/params/{entry.theirs}"]
                np.testing.assert_allclose(found, wanted, rtol=0, atol=5e-6, err_msg=entry.theirs)


@pytest.mark.parametrize(
    ("shape", "dims"),
    [
        ((32, 128), (1, 0)), ((128, 32), (0, 1)), ((64, 64), (1, 0)), ((768, 12, 64), (0, 2)),
        ((31, 999), None), ((16, 16, 3, 768), None), ((768,), None), ((1, 196, 768), (2, 1)),
    ],
)  # fmt: skip
def test_the_two_largest_dimensions_are_factored(shape, dims):
    assert factored_dims(torch.Size(shape)) == dims


def test_the_state_is_a_quarter_of_that_of_adamw(tiny_config):
    sizes = {}
    for config in (AdafactorConfig(), AdamWConfig()):
        model = Clippo(dataclasses.replace(tiny_config.model, width=128, mlp_dim=512, num_heads=2))
        optimizer = config.build(model.tower.encoder.named_parameters(), model.config)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        tensors = [value for own in optimizer.state.values() for value in own.values()]
        sizes[config.name] = sum(tensor.nbytes for tensor in tensors)
    assert 0.24 < sizes["adafactor"] / sizes["adamw"] < 0.3


@pytest.mark.parametrize(
    "config", [AdafactorConfig(), AdamWConfig(), MuonConfig()], ids=lambda config: config.name
)
def test_a_step_that_is_not_finite_changes_nothing(tiny_config, config):
    model = Clippo(tiny_config.model)
    optimizer = config.build(model.named_parameters(), model.config)
    for step in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, torch.nan if step == 1 else 0.5)
        optimizer.found_inf = torch.tensor(float(step == 1))
        for group in optimizer.param_groups:
            group["lr"] = group["factor"] = 0.1
        kept = [parameter.clone() for parameter in model.parameters()]
        moments = [value.clone() for own in optimizer.state.values() for value in own.values()]
        optimizer.step()
        after = [value for own in optimizer.state.values() for value in own.values()]
        is_same = all(torch.equal(a, b) for a, b in zip(kept, model.parameters(), strict=True))
        assert is_same == (step == 1)
        if step == 1:
            assert all(torch.equal(a, b) for a, b in zip(moments, after, strict=True))
        assert all(value.isfinite().all() for value in after)


@pytest.mark.slow
def test_a_run_with_adafactor_resumes_to_the_last_bit(tiny_config, tmp_path):
    config = dataclasses.replace(
        tiny_config, optimizer=AdafactorConfig(), schedule=RsqrtConfig(timescale=3, cooldown_steps=2),
        steps=8, checkpoint_every=4, evaluators={},
    )  # fmt: skip
    train(config, tmp_path / "whole")
    train_until(6, config, tmp_path / "cut")
    train(config, tmp_path / "cut", resume=True)
    assert same(state(tmp_path / "whole"), state(tmp_path / "cut"))


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="optimizer.momentum must be from 0 to below 1, got 1"):
        AdafactorConfig(momentum=1)
    with pytest.raises(UserError, match="optimizer.weight_decay must be finite and not negative, got -1"):
        AdafactorConfig(weight_decay=-1)


@pytest.mark.parametrize("make", [AdamWConfig, MuonConfig], ids=lambda config: config.name)
def test_learning_rates_and_decays_follow_patterns(tiny_config, make):
    model = Clippo(tiny_config.model)
    config = make(
        weight_decay=0.1, lr_multipliers=("patch_embed=0", "norm=0.5", "^tower=2"), wd_multipliers=("mlp=3",)
    )
    named = dict(model.named_parameters())
    config.freeze(named.items())
    optimizer = config.build(named.items(), model.config)
    names = {id(parameter): name for name, parameter in named.items()}
    found = {
        names[id(parameter)]: (group["lr_multiplier"], round(group["weight_decay"], 6))
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    frozen = {name for name, parameter in named.items() if not parameter.requires_grad}
    assert frozen == {name for name in named if "patch_embed" in name}
    assert found.keys() == named.keys() - frozen
    assert found["tower.encoder.blocks.0.norm1.weight"] == (0.5, 0)
    assert found["tower.encoder.blocks.0.mlp.fc1.weight"] == (2, 0.3)
    assert found["tower.encoder.blocks.0.attn.qkv.weight"] == (2, 0.1)
    assert found["logit_scale"] == (1, 0)


@pytest.mark.parametrize(
    "optimizer",
    [
        AdamWConfig,
        pytest.param(AdafactorConfig, marks=pytest.mark.slow),
        pytest.param(MuonConfig, marks=pytest.mark.slow),
    ],
    ids=lambda config: config.name,
)
def test_frozen_parameters_stay_as_they_are(tiny_config, tmp_path, optimizer):
    config = dataclasses.replace(
        tiny_config,
        optimizer=optimizer(lr_multipliers=("patch_embed|logit_scale=0",)),
        steps=4,
        evaluators={},
    )
    torch.manual_seed(0)
    trained = train(config, tmp_path / "run").state_dict()
    longer = train(dataclasses.replace(config, steps=6), tmp_path / "run", resume=True).state_dict()
    same_names = {name for name in trained if torch.equal(trained[name], longer[name])}
    assert same_names == {name for name in trained if "patch_embed" in name or name == "logit_scale"}


@pytest.mark.parametrize("spec", ["patch_embed", "=1", "(=1", "a=b", "a=-1", "a=inf"])
def test_a_pattern_that_is_none_is_refused(spec):
    with pytest.raises(UserError, match="optimizer.lr_multipliers must be PATTERN=FACTOR, such as"):
        AdamWConfig(lr_multipliers=(spec,))


def test_a_pattern_that_fits_nothing_is_refused(tiny_config):
    config = AdamWConfig(wd_multipliers=("patch_emb=1", "heads=2"))
    with pytest.raises(
        UserError, match="optimizer.wd_multipliers: no parameter has 'heads' in its name; they"
    ):
        config.build(Clippo(tiny_config.model).named_parameters(), tiny_config.model)


def test_freezing_everything_is_refused(tiny_config):
    config = AdamWConfig(lr_multipliers=(".=0",))
    with pytest.raises(UserError, match="lr_multipliers must leave a parameter to train, got 0 for all"):
        config.build(Clippo(tiny_config.model).named_parameters(), tiny_config.model)
