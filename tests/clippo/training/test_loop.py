import dataclasses
import json
import math
import subprocess
import sys
from itertools import pairwise

import pytest
import torch

from clippo.data.emoji import EmojiDataset
from clippo.errors import UserError
from clippo.model import Clippo
from clippo.training.distributed import Processes
from clippo.training.loop import train
from clippo.training.optimizer import learning_rate, make_optimizer
from clippo.training.run_folder import RunFolder


def losses(folder) -> dict[int, float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {record["step"]: record["loss"] for record in map(json.loads, lines)}


def state(folder) -> dict[str, torch.Tensor]:
    return Clippo.from_pretrained(RunFolder(folder).newest_checkpoint()).state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_config):
    """A whole run of 20 steps."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(tiny_config, folder)
    return folder


def test_the_loss_falls(finished, tiny_config):
    by_step = losses(finished)
    assert list(by_step) == [5, 10, 15, 20]
    assert by_step[20] < by_step[5] - 0.3


def test_one_batch_over_and_over_is_learned(tiny_config, tmp_path, monkeypatch):
    """Well below the loss of a tower that says the same of everything."""
    sample = EmojiDataset.sample
    monkeypatch.setattr(EmojiDataset, "sample", lambda self, number, *args: sample(self, 0, *args))
    config = dataclasses.replace(tiny_config, steps=120, learning_rate=2e-3)
    train(config, tmp_path / "run")
    assert losses(tmp_path / "run")[120] < 0.5 * math.log(config.batch_size)


def test_the_folder_holds_what_it_says(finished, tiny_config):
    assert RunFolder(finished).config() == tiny_config
    assert sorted(path.name for path in finished.iterdir()) == [
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "results.json",
        "retrieval.png",
    ]
    assert [path.name for path in (finished / "checkpoints").iterdir()] == ["step-000020"]
    metrics = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    assert metrics["pairs_per_s"] > 0
    assert 0 < metrics["waiting_for_data"] < 1
    assert len(json.loads((finished / "results.json").read_text())) == 3 * 2 * 2


class PulledPlugError(Exception):
    pass


def train_until(step: int, config, folder) -> None:
    """Cut a run off."""
    sample = EmojiDataset.sample

    def cut(self, number, *args):
        if number == step:
            raise PulledPlugError
        return sample(self, number, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EmojiDataset, "sample", cut)
        with pytest.raises(PulledPlugError):
            train(config, folder)


@pytest.mark.parametrize("cut_at", [7, 13])
def test_a_run_that_was_cut_off_goes_on_bit_for_bit(finished, tiny_config, tmp_path, cut_at):
    train_until(cut_at, tiny_config, tmp_path / "run")
    train(tiny_config, tmp_path / "run", resume=True)
    assert same(state(tmp_path / "run"), state(finished))
    assert losses(tmp_path / "run") == losses(finished)


def test_patch_dropout_follows_from_the_seed_and_the_step(tiny_config, tmp_path):
    """Also in chunks, which are embedded twice, with blocks computed twice, and after a resumption."""
    config = dataclasses.replace(
        tiny_config,
        model=dataclasses.replace(tiny_config.model, text_tokens="inked"),
        steps=6,
        checkpoint_every=2,
        chunk_size=5,
        patch_dropout=0.5,
    )
    train(config, tmp_path / "whole")
    whole = state(tmp_path / "whole")
    train_until(5, config, tmp_path / "cut")
    train(config, tmp_path / "cut", resume=True)
    assert same(state(tmp_path / "cut"), whole)
    train(dataclasses.replace(config, recompute_blocks=True), tmp_path / "recomputed")
    for name, value in state(tmp_path / "recomputed").items():
        torch.testing.assert_close(value, whole[name], atol=1e-5, rtol=1e-4)
    train(dataclasses.replace(config, patch_dropout=0.0), tmp_path / "all")
    assert not same(state(tmp_path / "all"), whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_dropout": 1.0}, "patch_dropout must be from 0 to below 1"),
        ({"baseline": "2t"}, "baseline must be one of none, 1t, two-tower"),
    ],
)
def test_impossible_settings(tiny_config, change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(tiny_config, **change)


def test_resuming_a_finished_run_changes_nothing(finished, tiny_config):
    before = state(finished)
    train(tiny_config, finished, resume=True)
    assert same(state(finished), before)


def test_two_processes_train_as_one_does(finished, tiny_config, tmp_path):
    """Through torchrun and the command line, in a folder that holds a stranger's model.py."""
    (tmp_path / "model.py").write_text("raise SystemExit('a stranger was imported')")
    RunFolder(tmp_path / "run").create(tiny_config, resume=True)
    config = tmp_path / "run" / "config.json"
    flags = [
        flag
        for key, value in flat_flags(json.loads(config.read_text()))
        for flag in (f"--{key.replace('_', '-')}", *value)
    ]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command = [*torchrun, "-m", "clippo", "train", "--out", "run", "--resume", *flags]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    one, two = state(finished), state(tmp_path / "run")
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=2e-3, rtol=0, msg=name)
    assert losses(tmp_path / "run") == pytest.approx(losses(finished), abs=1e-3)


def test_chunks_train_as_a_whole_batch_does(finished, tiny_config, tmp_path):
    assert tiny_config.batch_size % 5
    train(dataclasses.replace(tiny_config, chunk_size=5), tmp_path / "run")
    one, other = state(finished), state(tmp_path / "run")
    for name in one:
        torch.testing.assert_close(other[name], one[name], atol=2e-3, rtol=0, msg=name)
    assert losses(tmp_path / "run") == pytest.approx(losses(finished), abs=1e-3)


def flat_flags(fields, prefix=""):
    for key, value in fields.items():
        if isinstance(value, dict):
            yield from flat_flags(value, f"{prefix}{key}.")
        elif isinstance(value, bool):
            yield prefix + ("" if value else "no-") + key, []
        else:
            yield prefix + key, [str(v) for v in (value if isinstance(value, list) else [value])]


def test_a_batch_must_divide_among_the_processes():
    assert Processes(1, 4, torch.device("cpu"), None).part(32) == slice(8, 16)
    with pytest.raises(UserError, match="batch_size must be a multiple of the 4 processes, got 30"):
        Processes(1, 4, torch.device("cpu"), None).part(30)


def test_a_loss_that_is_not_a_number_ends_the_run_and_keeps_its_checkpoint(tiny_config, tmp_path):
    config = dataclasses.replace(tiny_config, learning_rate=1e30, warmup_steps=0, log_every=1)
    with pytest.raises(UserError, match="the loss is nan at step .*--learning-rate"):
        train(config, tmp_path / "run")
    assert RunFolder(tmp_path / "run").newest_checkpoint() is None


def test_learning_rate_warms_up_and_ends_near_zero(tiny_config):
    config = dataclasses.replace(tiny_config, steps=1000, warmup_steps=100, learning_rate=1.0)
    rates = [learning_rate(step, config) for step in range(1000)]
    assert 0 < rates[0] < 0.02
    assert max(rates) == pytest.approx(0.97, abs=0.03)
    assert 90 <= rates.index(max(rates)) <= 100
    assert rates[-1] < 1e-4
    assert all(a > b for a, b in pairwise(rates[100:]))


def test_only_matrices_decay(tiny_config):
    model = Clippo(tiny_config.model)
    decayed, free = make_optimizer(model, tiny_config).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed_names = {names[id(p)] for p in decayed["params"]}
    free_names = {names[id(p)] for p in free["params"]}
    assert decayed_names | free_names == set(names.values())
    assert {"tower.patch_weight", "tower.blocks.0.attn.qkv.weight", "tower.head.weight"} <= decayed_names
    assert {"log_scale", "tower.pos_embed", "tower.pool.probe", "tower.norm.weight"} <= free_names
    assert decayed["weight_decay"] == 0.05
    assert free["weight_decay"] == 0
