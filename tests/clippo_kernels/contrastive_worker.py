"""One rank of the multi-process test in test_contrastive.py: saves what it computed to OUT.

python contrastive_worker.py RANK WORLD_SIZE STORE OUT
"""

import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from clippo_kernels import contrastive_loss, sigmoid_loss

PAIRS, WIDTH, D = 6, 5, 4


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


def data(dtype):
    return torch.randn(2, PAIRS, WIDTH, dtype=dtype, generator=torch.Generator().manual_seed(1))


def contrastive(image, text, scale, bias, group):
    # The bias takes part with a gradient of zero: DDP waits for every parameter.
    return contrastive_loss(image, text, scale, group=group) + 0 * bias


def sigmoid(image, text, scale, bias, group):
    return sigmoid_loss(image, text, scale, bias, group=group)


LOSSES = {"contrastive": contrastive, "sigmoid": sigmoid}


def loss_and_gradients(model, loss_function, image, text, group):
    model.zero_grad()
    loss = loss_function(*model(image, text), group)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters())]


def refusal(image_rows, text_rows, columns, group):
    try:
        contrastive_loss(torch.ones(image_rows, columns), torch.ones(text_rows, columns), 1.0, group=group)
    except ValueError as error:
        return str(error)
    return None


def main(rank, world_size, store, out):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{store}", timedelta(seconds=60), rank=rank, world_size=world_size
    )
    group = dist.group.WORLD
    results = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        model = nn.parallel.DistributedDataParallel(Towers(dtype))
        image, text = data(dtype).chunk(world_size, dim=1)[rank]
        for name, loss_function in LOSSES.items():
            results[name, dtype] = loss_and_gradients(model, loss_function, image, text, group)
    for name, loss_function in LOSSES.items():
        compiled = torch.compile(loss_function, fullgraph=True, backend="aot_eager")
        image, text = data(torch.float64).chunk(world_size, dim=1)[rank]
        model = nn.parallel.DistributedDataParallel(Towers(torch.float64))
        results[name, "compiled"] = loss_and_gradients(model, compiled, image, text, group)
    results["rows"] = refusal(3 + rank, 3 + rank, 4, group)
    results["empty on one rank"] = refusal(rank, rank, 4, group)
    results["empty on all ranks"] = refusal(0, 0, 4, group)
    results["unpaired on one rank"] = refusal(3, 3 + rank, 4, group)
    results["columns"] = refusal(3, 3, 4 + rank, group)
    # The refusals left no collective half done.
    results["after"] = contrastive_loss(torch.ones(2, 4), torch.ones(2, 4), 1.0, group=group)
    torch.save(results, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
