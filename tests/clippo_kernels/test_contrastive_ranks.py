"""Losses of batches that are spread over ranks: processes on this machine, through gloo, on a CPU."""

import math
from pathlib import Path

import pytest
import torch

from clippo_kernels import contrastive_loss

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("contrastive_worker.py")


@pytest.fixture(scope="module")
def worker(import_file):
    return import_file(WORKER)


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.long)])
def ranks(request, run_ranks, tmp_path_factory):
    """What each of so many processes computed."""
    return run_ranks(WORKER, request.param, tmp_path_factory.mktemp("ranks"))


CASES = [
    *(
        (kind, labelled)
        for kind in (torch.float64, torch.float32, torch.bfloat16)
        for labelled in (False, True)
    ),
    ("compiled", False),
]


@pytest.mark.parametrize("name", ["contrastive", "sigmoid"])
@pytest.mark.parametrize(("kind", "labelled"), CASES)
@pytest.mark.parametrize("way", ["gathered", "ring"])
def test_many_processes_are_one(worker, ranks, name, kind, labelled, way):
    dtype = torch.float64 if kind == "compiled" else kind
    expected = worker.loss_and_gradients(
        worker.Towers(dtype),
        worker.LOSSES[name],
        *worker.data(dtype),
        tuple(worker.labels()) if labelled else None,
        group=None,
    )
    first = ranks[0][name, kind, labelled, way]
    # The gradient of the tower's bias is what is left of rows that cancel.
    tolerance = {"rtol": 1.6e-2, "atol": 3e-2} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(first, expected, **tolerance)
    for results in ranks[1:]:
        for ours, theirs in zip(results[name, kind, labelled, way], first, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("local_loss", [False, True])
def test_the_loss_of_open_clip(ranks, local_loss):
    for results in ranks:
        expected = results["contrastive", torch.float64, False, "gathered"]
        torch.testing.assert_close(results["ClipLoss", local_loss], expected)


WRAPPED = ["DistributedDataParallel", "unused parameters", "called in a function", "fully_shard"]


@pytest.mark.parametrize("name", WRAPPED)
def test_cached_step_of_many_processes(worker, ranks, name):
    model = worker.Embed()
    loss = contrastive_loss(*model(*worker.data(torch.float64)), model.scale.exp())
    loss.backward()
    expected = [loss.detach(), *(p.grad for p in model.parameters())]
    for results in ranks:
        for step in results["cached", name]:
            torch.testing.assert_close(step, expected)


def test_cached_step_refuses_a_static_graph(ranks):
    for results in ranks:
        assert "embed must not have static_graph=True" in results["static graph"]


def alike(first, others, which=1):
    refusal = "ValueError: the arguments of a loss must be alike on every rank"
    return f"{refusal}, got {first} on rank 0; {others} on rank {which}"


def two(text):
    return f"torch.float32 {text}, torch.float32 {text}"


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("rows", alike(two("(4, 4)"), two("(3, 4)"))),
        (
            "empty on one rank",
            alike("ValueError: image_embeddings must hold at least one row, got (0, 4)", two("(1, 4)")),
        ),
        ("empty on all ranks", "ValueError: image_embeddings must hold at least one row, got (0, 4)"),
        (
            "unpaired on one rank",
            alike(
                "ValueError: text_embeddings must have shape (3, 4) like image_embeddings, got (4, 4)",
                two("(3, 4)"),
            ),
        ),
        ("columns", alike(two("(3, 4)"), two("(3, 5)"))),
        (
            "dtypes on one rank",
            alike(
                "TypeError: text_embeddings must have dtype torch.float32 like image_embeddings, got "
                "torch.float64",
                two("(3, 4)"),
            ),
        ),
        (
            "no tensor on one rank",
            alike(
                two("(3, 4)"),
                "TypeError: image_embeddings must be a tensor of shape (B, D), got NoneType",
            ),
        ),
        (
            "labels on one rank",
            alike(two("(3, 4)") + ", torch.int64 (3,), torch.int64 (3,)", two("(3, 4)")),
        ),
        (
            "labels no pair",
            "TypeError: labels must be a pair of tensors, of images and of texts, got torch.int64 (3,)",
        ),
        (
            "labels too few",
            alike(
                two("(3, 4)") + ", torch.int64 (3,), torch.int64 (3,)",
                "ValueError: labels[1] must have shape (3,), got (2,)",
            ),
        ),
    ],
)
def test_ranks_refuse_alike(ranks, case, message):
    for results in ranks:
        assert results[case] == message
        torch.testing.assert_close(results["after"], torch.tensor(math.log(2 * len(ranks))))


def test_ranks_compare_arguments_once_where_that_waits_for_a_gpu(ranks):
    for results in ranks:
        assert results["compared"] == (["cuda"] * 2, [1, 1, 2, 2])
