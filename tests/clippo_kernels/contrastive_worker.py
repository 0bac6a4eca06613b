"""One rank of the multi-process tests in test_contrastive_ranks.py: saves what it computed to OUT.

python contrastive_worker.py RANK WORLD_SIZE STORE OUT
"""

import sys
from datetime import timedelta
from functools import partial
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

import clippo_kernels.contrastive as contrastive_module
from clippo_kernels import cached_contrastive_step, contrastive_loss, sigmoid_loss
from clippo_kernels.compat import ClipLoss
from clippo_kernels.contrastive import operators

PAIRS, WIDTH, D = 12, 5, 4


class Towers(nn.Module):
    """One linear tower for both sides, with the scale and bias of the losses."""

    def __init__(self, dtype):
        super().__init__()
        torch.manual_seed(0)
        self.tower = nn.Linear(WIDTH, D, dtype=dtype)
        self.scale = nn.Parameter(torch.tensor([3.0], dtype=dtype))
        self.bias = nn.Parameter(torch.tensor(-1.0, dtype=dtype))

    def forward(self, image, text):
        return self.tower(image), self.tower(text), self.scale, self.bias


class Embed(Towers):
    """Embeddings alone. The loss uses the scale, which is a parameter of the model, as in a `Clippo`."""

    def __init__(self):
        super().__init__(torch.float64)
        del self.bias

    def forward(self, image, text):
        return self.tower(image), self.tower(text)


def called_in_a_function(model):
    ddp = nn.parallel.DistributedDataParallel(model)
    return lambda image, text: ddp(image, text)


WRAPPED = {
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "unused parameters": partial(nn.parallel.DistributedDataParallel, find_unused_parameters=True),
    "called in a function": called_in_a_function,
    "fully_shard": fully_shard,
}


def data(dtype):
    return torch.randn(2, PAIRS, WIDTH, dtype=dtype, generator=torch.Generator().manual_seed(1))


def labels():
    """Positives of a pair are on other ranks too, and some have none."""
    return torch.randint(0, 8, (2, PAIRS), generator=torch.Generator().manual_seed(2))


def contrastive(image, text, scale, bias, labels, group):
    # The bias takes part with a gradient of zero: DDP waits for every parameter.
    return contrastive_loss(image, text, scale, labels=labels, group=group) + 0 * bias


def sigmoid(image, text, scale, bias, labels, group):
    return sigmoid_loss(image, text, scale, bias, labels=labels, group=group)


LOSSES = {"contrastive": contrastive, "sigmoid": sigmoid}


def loss_and_gradients(model, loss_function, image, text, labels, group):
    model.zero_grad()
    loss = loss_function(*model(image, text), labels, group)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters())]


def refusal(image, text, group, **arguments):
    try:
        contrastive_loss(image, text, 1.0, group=group, **arguments)
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def compared_without_a_cpu_backend(rows, group):
    """Count the comparisons after each of four calls, in a group that is said to have no CPU backend."""
    devices, counts = [], []
    compare_messages = contrastive_module.compare_messages

    def compare_on_cpu(message, group, device):
        devices.append(device)
        compare_messages(message, group, "cpu")

    with (
        mock.patch.object(contrastive_module, "device_types", return_value={"cuda"}),
        mock.patch.object(contrastive_module, "compare_messages", compare_on_cpu),
    ):
        for some in (rows, rows, rows[:2], rows):
            contrastive_loss(some, some, 1.0, group=group)
            counts.append(len(devices))
    return devices, counts


def main(rank, world_size, store, out):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{store}", timedelta(seconds=60), rank=rank, world_size=world_size
    )
    group = dist.group.WORLD
    results = {}

    def part(x):
        return x.chunk(world_size, dim=1)[rank]

    gathered_bytes = operators.GATHERED_BYTES
    for name, loss_function in LOSSES.items():
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            model = nn.parallel.DistributedDataParallel(Towers(dtype))
            for ids in (None, tuple(part(labels()))):
                for way, limit in (("gathered", gathered_bytes), ("ring", 0)):
                    operators.GATHERED_BYTES = limit
                    results[name, dtype, ids is not None, way] = loss_and_gradients(
                        model, loss_function, *part(data(dtype)), ids, group
                    )
        for way, limit in (("gathered", gathered_bytes), ("ring", 0)):
            operators.GATHERED_BYTES = limit
            torch._dynamo.reset()
            compiled = torch.compile(loss_function, fullgraph=True, backend="aot_eager")
            model = nn.parallel.DistributedDataParallel(Towers(torch.float64))
            results[name, "compiled", False, way] = loss_and_gradients(
                model, compiled, *part(data(torch.float64)), None, group
            )
    operators.GATHERED_BYTES = gathered_bytes

    for local_loss in (False, True):

        def clip_loss(image, text, scale, bias, labels, group, local_loss=local_loss):
            loss = ClipLoss(local_loss, gather_with_grad=True, rank=rank, world_size=world_size)
            return loss(image, text, scale, bias, output_dict=True)["contrastive_loss"]

        model = nn.parallel.DistributedDataParallel(Towers(torch.float64))
        results["ClipLoss", local_loss] = loss_and_gradients(
            model, clip_loss, *part(data(torch.float64)), None, group
        )

    for name, wrap in WRAPPED.items():
        model = Embed()
        embed = wrap(model)
        for _ in range(2):  # the second step meets what the first has left
            model.zero_grad()
            value = cached_contrastive_step(
                embed,
                *part(data(torch.float64)),
                lambda image, text, model=model: contrastive_loss(
                    image, text, model.scale.exp(), group=group
                ),
                chunk_size=2,
            )
            gradients = [
                p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad for p in model.parameters()
            ]
            results.setdefault(("cached", name), []).append([value, *map(torch.clone, gradients)])
    static = nn.parallel.DistributedDataParallel(Embed(), static_graph=True)
    try:
        cached_contrastive_step(static, *part(data(torch.float64)), None, chunk_size=2)
    except ValueError as error:
        results["static graph"] = str(error)

    ones = torch.ones(3, 4)
    uneven = torch.ones(3 + (rank == 0), 4)
    empty = torch.ones(int(rank > 0), 4)
    results["rows"] = refusal(uneven, uneven, group)
    results["empty on one rank"] = refusal(empty, empty, group)
    results["empty on all ranks"] = refusal(ones[:0], ones[:0], group)
    results["unpaired on one rank"] = refusal(ones, uneven, group)
    results["columns"] = refusal(*[torch.ones(3, 4 + (rank == 1))] * 2, group)
    results["dtypes on one rank"] = refusal(ones, ones.double() if rank == 0 else ones, group)
    results["no tensor on one rank"] = refusal(None if rank == 1 else ones, ones, group)
    three = torch.arange(3)
    results["labels on one rank"] = refusal(ones, ones, group, labels=(three, three) if rank == 0 else None)
    results["labels no pair"] = refusal(ones, ones, group, labels=three)
    results["labels too few"] = refusal(ones, ones, group, labels=(three, three[: 3 - (rank == 1)]))
    results["compared"] = compared_without_a_cpu_backend(ones, group)
    # The refusals left no collective half done.
    results["after"] = contrastive_loss(torch.ones(2, 4), torch.ones(2, 4), 1.0, group=group)
    torch.save(results, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
