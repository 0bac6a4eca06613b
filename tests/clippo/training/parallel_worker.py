"""One rank of test_parallel_steps.py: saves what its steps computed to OUT.

python parallel_worker.py RANK WORLD_SIZE STORE OUT
"""

import dataclasses
import os
import sys
from itertools import product
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

from clippo.data.loader import Batches
from clippo.data.made_up import MadeUpConfig
from clippo.data.mixture import MixtureConfig
from clippo.data.order import order_of
from clippo.model.checkpoints.safetensors import whole
from clippo.recipes.emoji import recipe
from clippo.training.finite import FiniteCheck
from clippo.training.losses import SigmoidLossConfig, SoftmaxLossConfig
from clippo.training.parallel import DistributedContext, release
from clippo.training.state import TrainState, build_model, named_parameters
from clippo.training.trainer import take_step

STEPS = 50
EMOJI = recipe()
CONFIG = dataclasses.replace(
    EMOJI,
    model=dataclasses.replace(
        EMOJI.model, width=32, depth=2, mlp_dim=48, num_heads=2, image_size=48, embed_dim=16
    ),
    data=dataclasses.replace(EMOJI.data, languages=("en", "de")),
    batch_size=16,
    steps=STEPS,
    warmup_steps=5,
    merge_equal_texts=True,
)
LOSSES = {"softmax": SoftmaxLossConfig(), "sigmoid": SigmoidLossConfig()}
WITHIN_KINDS = SoftmaxLossConfig(within_kinds=True)
# Half of the pairs are pairs of texts, of which each rank may have another number.
MIXED = MixtureConfig(sources=(CONFIG.data, MadeUpConfig(count=64, words=3, text_share=1.0)), shares=(1, 1))
MICRO_BATCHES = (16, 3)
PARALLEL = ("ddp", "fsdp")


def batches_of(context, model, data=CONFIG.data) -> list:
    """This rank's share of the batches, the same pictures and texts for any number of ranks."""
    size = CONFIG.model.image_size
    source = data.build("train", image_size=size)
    order = order_of(source, CONFIG.batch_size, seed=0)
    rows = context.shard(CONFIG.batch_size)
    transform = CONFIG.transform.build(size)
    batches = Batches(source, order, transform, model.text_input, rows=rows, steps=range(STEPS), seed=0)
    return [batches.read(step) for step in range(STEPS)]


def state_of(config, context, dtype) -> TrainState:
    model, loss = build_model(config).to(dtype), config.loss.build().to(dtype)
    return TrainState.build(config, model, loss, context)


def gradients(config, context, batch) -> dict[str, torch.Tensor]:
    """The gradients of a step in float64, and its loss."""
    state = state_of(config, context, torch.float64)
    value, _ = take_step(state, batch, 0, config, context, FiniteCheck(0, context))
    found = {name: whole(p.grad).clone() for name, p in named_parameters(state.pairs)}
    release(state.embedder)
    return {**found, "value": value}


def pairs_of_two_kinds() -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Embeddings of 16 images and texts, their labels, and which are pairs of texts: the last five alone."""
    generator = torch.Generator().manual_seed(0)
    z = [F.normalize(torch.randn(16, 8, generator=generator, dtype=torch.float64), dim=1) for _ in range(2)]
    return z, torch.randint(8, (16,), generator=generator), torch.arange(16) > 10


def loss_of_two_kinds(context) -> dict[str, torch.Tensor]:
    """The loss within kinds of this rank's share, and its gradients: the first rank has no pair of texts."""
    z, labels, is_text = pairs_of_two_kinds()
    rows, scale = context.shard(16), torch.tensor([7.0], dtype=torch.float64, requires_grad=True)
    own = [x[rows].clone().requires_grad_() for x in z]
    value = WITHIN_KINDS.build()(*own, scale, context.group, labels[rows], is_text[rows])
    z_images, z_texts, of_scale = torch.autograd.grad(value, (*own, scale))
    return {"value": value.detach(), "z_images": z_images, "z_texts": z_texts, "scale": of_scale}


def losses(config, context, batches) -> list[float]:
    """The losses of all steps in float32."""
    state, check = state_of(config, context, torch.float32), FiniteCheck(0, context)
    found = [take_step(state, batch, step, config, context, check)[0] for step, batch in enumerate(batches)]
    release(state.embedder)
    return torch.stack(found).tolist()


def results(context, parallels=PARALLEL) -> dict:
    batches = batches_of(context, build_model(CONFIG))
    mixed = batches_of(context, build_model(CONFIG), MIXED)[0]
    found = {"two kinds": loss_of_two_kinds(context)}
    for parallel, chunk, loss in product(parallels, MICRO_BATCHES, LOSSES):
        # Without a bound on its norm, the gradient is the one that was exchanged.
        config = dataclasses.replace(
            CONFIG, parallel=parallel, micro_batch_size=chunk, loss=LOSSES[loss], grad_clip_norm=1e9
        )
        found[parallel, chunk, loss] = gradients(config, context, batches[0])
        if loss == "softmax":
            found[parallel, chunk, "texts"] = gradients(config, context, mixed)
            config = dataclasses.replace(config, loss=WITHIN_KINDS)
            found[parallel, chunk, "within kinds"] = gradients(config, context, mixed)
    for parallel in parallels:
        config = dataclasses.replace(CONFIG, parallel=parallel, micro_batch_size=3)
        found[parallel, "curve"] = losses(config, context, batches)
    return found


def main(rank: int, world_size: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    os.environ["RANK"], os.environ["WORLD_SIZE"] = str(rank), str(world_size)
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=world_size)
    context = DistributedContext.from_environment()
    torch.save(results(context), Path(out))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
