"""The contrastive loss of a batch that several processes share, under DistributedDataParallel.

    torchrun --nproc-per-node 2 examples/contrastive_loss_ddp.py

prints, from its first process,

    loss of 2 processes 7.0547, of one 7.0547
    their gradients differ by at most 5e-07

Each process embeds its own pairs, and takes those of all processes as negatives. On GPUs, "nccl" takes the
place of "gloo".
"""

import copy

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from clippo_kernels import contrastive_loss

PAIRS, FEATURES, EMBED_DIM = 64, 32, 16


class Towers(nn.Module):
    """Two linear towers and a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(FEATURES, EMBED_DIM), nn.Linear(FEATURES, EMBED_DIM)
        self.logit_scale = nn.Parameter(torch.tensor(10.0).log())

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z_images, z_texts = (nn.functional.normalize(z) for z in (self.image(images), self.text(texts)))
        return z_images, z_texts, self.logit_scale.exp()


def gradient(model: nn.Module) -> Tensor:
    """The gradients of all parameters in one vector."""
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def main() -> None:
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)  # the same towers and the same batch everywhere
    towers, images, texts = Towers(), torch.randn(PAIRS, FEATURES), torch.randn(PAIRS, FEATURES)
    alone = copy.deepcopy(towers)

    own = slice(rank * PAIRS // world_size, (rank + 1) * PAIRS // world_size)
    shared = DistributedDataParallel(towers)
    loss = contrastive_loss(*shared(images[own], texts[own]), group=dist.group.WORLD)
    loss.backward()

    if rank == 0:
        expected = contrastive_loss(*alone(images, texts))
        expected.backward()
        difference = (gradient(towers) - gradient(alone)).abs().max()
        print(f"loss of {world_size} processes {loss:.4f}, of one {expected:.4f}")
        print(f"their gradients differ by at most {difference:.0e}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
