"""A model that `fully_shard` has split over ranks: processes on this machine, through gloo, on a CPU."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clippo.model import Clippo
from clippo_kernels import contrastive_loss

WORKER = Path(__file__).with_name("sharded_worker.py")
RANKS = 2

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def worker():
    spec = importlib.util.spec_from_file_location("sharded_worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """The beginning of the names of the files that the ranks have written."""
    out = tmp_path_factory.mktemp("sharded") / "out"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    commands = [[sys.executable, WORKER, str(rank), str(RANKS), f"{out}-store", out] for rank in range(RANKS)]
    processes = [subprocess.Popen(c, env=environment, stderr=subprocess.PIPE, text=True) for c in commands]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    return out


@pytest.mark.parametrize("way", ["root", "blocks and root"])
def test_a_sharded_model_is_the_model(worker, out, way):
    clippo = worker.model()
    images, texts = worker.data(clippo)
    ranks = [torch.load(f"{out}-{rank}.pt")[way] for rank in range(RANKS)]
    before = torch.cat([rank["before"] for rank in ranks])
    torch.testing.assert_close(before, clippo.encode_image(images), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        torch.cat([rank["after"] for rank in ranks]), clippo.encode_text(texts), atol=1e-5, rtol=1e-4
    )
    loss = contrastive_loss(*clippo(images, texts), clippo.logit_scale.exp())
    loss.backward()
    for rank in ranks:
        torch.testing.assert_close(rank["loss"], loss.detach())
        for name, parameter in clippo.named_parameters():
            torch.testing.assert_close(
                rank["gradients"][name], parameter.grad, atol=1e-5, rtol=1e-4, msg=name
            )


@pytest.mark.parametrize("way", ["root", "blocks and root"])
def test_a_sharded_model_is_saved_whole(worker, out, way):
    state, saved = worker.model().state_dict(), Clippo.from_pretrained(f"{out}-{way}").state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], saved[name]) for name in state)
