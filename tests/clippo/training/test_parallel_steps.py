"""Processes that share a batch take the steps that one process takes with the whole of it."""

from pathlib import Path

import pytest
import torch

from clippo.training.parallel import DistributedContext

WORKER = Path(__file__).with_name("parallel_worker.py")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def worker(import_file):
    return import_file(WORKER)


@pytest.fixture(scope="module")
def alone(worker):
    """What one process computes with whole batches."""
    return worker.results(DistributedContext(0, 1, torch.device("cpu")), ("ddp",))


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.long)])
def ranks(request, run_ranks, tmp_path_factory):
    """What each of several processes computes with its share."""
    return run_ranks(WORKER, request.param, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("loss", ["softmax", "sigmoid", "texts", "within kinds"])
@pytest.mark.parametrize("micro_batch", [16, 3])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_the_gradients_are_those_of_one_process(alone, ranks, parallel, micro_batch, loss):
    expected = alone["ddp", 16, loss]
    for found in (alone["ddp", micro_batch, loss], *(rank[parallel, micro_batch, loss] for rank in ranks)):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=1e-12, rtol=1e-12, msg=name)


def test_the_loss_within_kinds_is_that_of_one_process_where_ranks_hold_other_numbers_of_them(alone, ranks):
    """The gradients of parameters are means over the ranks, for which those of embeddings are multiplied."""
    expected, found = alone["two kinds"], [rank["two kinds"] for rank in ranks]
    for one in found:
        torch.testing.assert_close(one["value"], expected["value"], atol=1e-12, rtol=1e-12)
    for name in ("z_images", "z_texts"):
        gradient = torch.cat([one[name] for one in found]) / len(ranks)
        torch.testing.assert_close(gradient, expected[name], atol=1e-12, rtol=1e-12, msg=name)
    scale = torch.stack([one["scale"] for one in found]).mean(0)
    torch.testing.assert_close(scale, expected["scale"], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_the_losses_of_fifty_steps_are_those_of_one_process(alone, ranks, parallel):
    """In float32, where sums in another order differ by some 1e-7, which steps then multiply."""
    expected = alone["ddp", "curve"]
    assert expected[-1] < expected[0]
    for rank in ranks:
        assert rank[parallel, "curve"] == pytest.approx(expected, abs=2e-5)
