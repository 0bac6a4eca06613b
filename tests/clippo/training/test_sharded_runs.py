"""Runs whose parameters are sharded: processes that torchrun starts on this machine, through gloo."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from clippo.errors import UserError
from clippo.model import Clippo
from clippo.training.run_folder import RunFolder
from clippo.training.trainer import train

pytestmark = pytest.mark.slow

FLAGS = """
--model.width 32 --model.depth 2 --model.mlp-dim 64 --model.num-heads 2 --model.image-size 48
--model.embed-dim 32 --data.languages en de --batch-size 16 --learning-rate 3e-3 --warmup-steps 2
--schedule constant --checkpoint-every 5 --log-every 1 --eval-every 10 --ema-decay 0.9 --micro-batch-size 3
""".split()


def torchrun(processes: int, folder, steps: int, *flags: str) -> str:
    """Train for some steps; what the processes print to the error stream."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    command += ["-m", "clippo", "train", "emoji", "--out", folder, "--steps", str(steps), *flags]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 0, run.stderr
    return run.stderr


def weights(folder) -> dict[str, torch.Tensor]:
    return Clippo.from_pretrained(RunFolder(folder).newest_checkpoint()).state_dict()


def losses(folder) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 12 steps of two processes."""
    folder = tmp_path_factory.mktemp("sharded") / "whole"
    torchrun(2, folder, 12, *FLAGS, "--parallel", "fsdp")
    return folder


@pytest.mark.long
def test_the_steps_are_those_of_ddp(whole, tmp_path):
    torchrun(2, tmp_path / "ddp", 12, *FLAGS)
    assert losses(whole) == pytest.approx(losses(tmp_path / "ddp"), abs=1e-5)
    shards = [path.name for path in (RunFolder(whole).newest_checkpoint() / "state").glob("*.safetensors")]
    assert len(shards) == 2


@pytest.mark.long
def test_other_numbers_of_processes_go_on(whole, tmp_path):
    torchrun(2, tmp_path / "run", 5, *FLAGS, "--parallel", "fsdp")
    torchrun(4, tmp_path / "run", 10, "--resume")
    torchrun(1, tmp_path / "run", 12, "--resume")
    assert losses(tmp_path / "run") == pytest.approx(losses(whole), abs=1e-5)
    found, expected = weights(tmp_path / "run"), weights(whole)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=2e-4, rtol=0, msg=name)


@pytest.mark.long
def test_a_damaged_shard_gives_way_to_the_checkpoint_before(whole):
    shard = next((RunFolder(whole).newest_checkpoint() / "state").glob("shard-*"))
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(content)
    before = losses(whole)
    errors = torchrun(2, whole, 12, "--resume")
    assert f"{shard.name} is damaged" in errors
    assert "the run goes on from step-000010" in errors
    assert losses(whole) == before


@pytest.mark.long
def test_one_process_without_torchrun_is_refused(tiny_config, tmp_path, whole):
    with pytest.raises(UserError, match="parallel must be ddp without torchrun"):
        train(dataclasses.replace(tiny_config, parallel="fsdp"), tmp_path / "run")
    folder = RunFolder(whole)
    config = dataclasses.replace(folder.config(), parallel="ddp")
    folder.config_file.write_text(folder.config_file.read_text().replace('"fsdp"', '"ddp"'))
    with pytest.raises(UserError, match="step-000012 was written with parallel fsdp, and cannot go on"):
        train(config, whole, resume=True)
