"""Muon updates the matrices inside of the blocks, and AdamW the rest."""

import copy
import dataclasses
import re

import pytest
import torch

from clippo.errors import UserError
from clippo.model import ByteTextConfig, Clippo
from clippo.training.checkpoint import checked_optimizer_state
from clippo.training.muon import Muon
from clippo.training.optimizers import AdamWConfig, MuonConfig
from clippo.training.trainer import train
from tests.clippo.training.test_trainer import losses, same, state, train_until


def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
    """What five of the published Newton-Schulz iterations make of a matrix, without rounding.

    They take a singular value x to a x + b x^3 + c x^5.
    """
    U, S, V = torch.linalg.svd(matrix.double(), full_matrices=False)
    S = S / S.square().sum().sqrt()
    for _ in range(5):
        S = 3.4445 * S - 4.7750 * S**3 + 2.0315 * S**5
    return U @ S.diag() @ V


@pytest.mark.parametrize(("shape", "count"), [((32, 32), 1), ((16, 64), 1), ((96, 32), 3), ((64, 32), 2)])
def test_a_matrix_takes_the_published_steps(shape, count):
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(shape))
    optimizer = Muon([{"params": [parameter], "weight_decay": 0.1}], {parameter: count}, momentum=0.9)
    optimizer.param_groups[0]["lr"] = lr = 0.02
    weights = [part.double() for part in parameter.detach().clone().chunk(count)]
    means = [torch.zeros_like(part) for part in weights]
    for step in range(3):
        parameter.grad = torch.randn(shape)
        optimizer.step()
        for i, grad in enumerate(parameter.grad.double().chunk(count)):
            means[i] = 0.9 * means[i] + 0.1 * grad
            update = orthogonalized(0.1 * grad + 0.9 * means[i])
            scale = 0.2 * max(update.shape) ** 0.5
            weights[i] = weights[i] * (1 - lr * 0.1) - lr * scale * update
        # The iterations round to bfloat16.
        error = (parameter.detach() - torch.cat(weights)).square().mean().sqrt()
        assert error < 0.02 * 0.2 * lr * (step + 1)


def test_a_matrix_takes_the_steps_of_pytorch_bit_for_bit():
    torch.manual_seed(0)
    own, theirs = (torch.nn.Parameter(torch.ones(16, 64)) for _ in range(2))
    optimizers = (
        Muon([{"params": [own], "weight_decay": 0.1}], {own: 1}, momentum=0.8),
        torch.optim.Muon([theirs], weight_decay=0.1, momentum=0.8, adjust_lr_fn="match_rms_adamw"),
    )
    for step in range(3):
        own.grad = torch.randn(own.shape)
        theirs.grad = own.grad.clone()
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
            optimizer.step()
        assert torch.equal(own, theirs)


def stepped(model, optimizer, steps=range(3)):
    """Take steps with gradients that follow from the step alone."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * group["lr_multiplier"]
        optimizer.step()
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_muon_updates_the_matrices_of_the_blocks_and_adamw_the_rest(tiny_config):
    torch.manual_seed(0)
    config = dataclasses.replace(tiny_config.model, text=ByteTextConfig())
    models = [Clippo(config)]
    models[0].init_weights()
    models.append(copy.deepcopy(models[0]))
    results = [
        stepped(model, choice.build(model.named_parameters(), config))
        for model, choice in zip(models, (MuonConfig(), AdamWConfig()), strict=True)
    ]
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    pool = ("q", "kv", "proj", "mlp.fc1", "mlp.fc2")
    assert {name for name in results[0] if not torch.equal(results[0][name], results[1][name])} == {
        *(f"tower.encoder.blocks.0.{layer}.weight" for layer in layers),
        *(f"tower.encoder.pool.{layer}.weight" for layer in pool),
    }
    optimizer = MuonConfig().build(models[0].named_parameters(), config)
    counts = {name: optimizer.matrices.get(parameter) for name, parameter in models[0].named_parameters()}
    assert counts["tower.encoder.blocks.0.attn.qkv.weight"] == 3
    assert counts["tower.encoder.pool.kv.weight"] == 2
    assert counts["tower.encoder.pool.mlp.fc1.weight"] == counts["tower.encoder.pool.q.weight"] == 1


def test_a_step_is_as_large_as_one_of_adamw(tiny_config):
    """Moonlight sets the root mean square to 0.2 of the learning rate, the measured mean of AdamW's steps."""
    torch.manual_seed(0)
    model = Clippo(tiny_config.model)
    model.init_weights()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = MuonConfig(weight_decay=0).build(model.named_parameters(), model.config)
    after = stepped(model, optimizer, steps=[0])
    for name, parameter in model.named_parameters():
        if parameter in optimizer.matrices:
            rms = (after[name] - before[name]).square().mean().sqrt().item()
            assert 0.15 * 0.01 < rms < 0.25 * 0.01, name


@pytest.mark.parametrize("frozen", ["blocks", r"^(?!.*(qkv|fc1)\.weight)"])
def test_what_is_frozen_stays_as_it_is(tiny_config, frozen):
    """Some matrices of Muon's, or all parameters of AdamW's."""
    torch.manual_seed(0)
    model = Clippo(tiny_config.model)
    model.init_weights()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    config = MuonConfig(lr_multipliers=(f"{frozen}=0",))
    after = stepped(model, config.build(model.named_parameters(), model.config))
    kept = {name for name in before if torch.equal(before[name], after[name])}
    assert kept == {name for name in before if re.search(frozen, name)}


def test_the_state_goes_on_bit_for_bit(tiny_config):
    """Through the checks of a checkpoint, with a step that was not finite among those before it."""
    torch.manual_seed(0)
    model = Clippo(tiny_config.model)
    model.init_weights()
    optimizer = MuonConfig().build(model.named_parameters(), model.config)
    stepped(model, optimizer)
    optimizer.found_inf = torch.ones(())
    stepped(model, optimizer, steps=[3])
    optimizer.found_inf = torch.zeros(())
    other = copy.deepcopy(model)
    again = MuonConfig().build(other.named_parameters(), model.config)
    found = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="step must be 4, got 3"):
        checked_optimizer_state(found, again, 4)
    again.load_state_dict(checked_optimizer_state(found, again, 3))
    again.found_inf = torch.zeros(())
    steps = range(4, 7)
    assert same(stepped(model, optimizer, steps), stepped(other, again, steps))


@pytest.mark.slow
def test_a_run_with_muon_learns_and_resumes_to_the_last_bit(tiny_config, tmp_path):
    config = dataclasses.replace(tiny_config, optimizer=MuonConfig(), evaluators={})
    train(config, tmp_path / "whole")
    by_step = losses(tmp_path / "whole")
    assert by_step[20] < by_step[5] - 0.3
    train_until(13, config, tmp_path / "cut")
    train(config, tmp_path / "cut", resume=True)
    assert same(state(tmp_path / "whole"), state(tmp_path / "cut"))
    assert losses(tmp_path / "cut") == by_step


@pytest.mark.parametrize("field", ["momentum", "beta1", "beta2"])
@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_what_cannot_be_is_refused(field, value):
    with pytest.raises(UserError, match=f"optimizer.{field} must be from 0 to below 1, got {value}"):
        MuonConfig(**{field: value})
