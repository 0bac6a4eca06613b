"""A model that `fully_shard` has split over ranks: processes on this machine, through gloo, on a CPU."""

from pathlib import Path

import pytest
import torch

from clippo.model import Clippo
from clippo_kernels import contrastive_loss

WORKER = Path(__file__).with_name("sharded_worker.py")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def worker(import_file):
    return import_file(WORKER)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder that the ranks write into."""
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def ranks(run_ranks, folder):
    """What each of two processes computed."""
    return run_ranks(WORKER, 2, folder)


@pytest.mark.parametrize("way", ["root", "blocks and root"])
def test_a_sharded_model_is_the_model(worker, ranks, way):
    clippo = worker.model()
    images, texts = worker.data(clippo)
    ranks = [results[way] for results in ranks]
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
def test_a_sharded_model_is_saved_whole(worker, ranks, folder, way):
    assert len(ranks) == 2
    state, saved = worker.model().state_dict(), Clippo.from_pretrained(folder / way).state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], saved[name]) for name in state)
