"""One rank of test_sharded.py: python sharded_worker.py RANK WORLD_SIZE STORE OUT"""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

from clippo.model import Clippo, ClippoConfig, RenderedTextConfig
from clippo_kernels import cached_contrastive_step, contrastive_loss

CONFIG = ClippoConfig(
    width=32,
    depth=2,
    mlp_dim=48,
    num_heads=2,
    patch_size=16,
    image_size=48,
    embed_dim=8,
    text=RenderedTextConfig(tokens="inked"),
)
PAIRS = 8
TEXTS = [f"caption {i} {'of many' * (i % 3)}"[:20] for i in range(PAIRS)]


def model() -> Clippo:
    torch.manual_seed(0)
    return Clippo(CONFIG)


def data(clippo: Clippo) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (PAIRS, 48, 48, 3), dtype=torch.uint8, generator=rng)
    return images, clippo.tokenize(TEXTS)


def shard_root(clippo: Clippo) -> None:
    fully_shard(clippo)


def shard_blocks(clippo: Clippo) -> None:
    for block in clippo.tower.encoder.blocks:
        fully_shard(block)
    fully_shard(clippo)


WAYS = {"root": shard_root, "blocks and root": shard_blocks}


def main(rank: int, world_size: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{store}", timedelta(seconds=60), rank=rank, world_size=world_size
    )
    results = {}
    for way, shard in WAYS.items():
        clippo = model()
        images, texts = (x.chunk(world_size)[rank] for x in data(clippo))
        shard(clippo)
        before = clippo.encode_image(images)
        loss = cached_contrastive_step(
            clippo,
            images,
            texts,
            lambda z_images, z_texts, clippo=clippo: contrastive_loss(
                z_images, z_texts, clippo.logit_scale.exp(), group=dist.group.WORLD
            ),
            chunk_size=2,
        )
        gradients = {name: p.grad.full_tensor() for name, p in clippo.named_parameters()}
        clippo.save_pretrained(Path(out).parent / way)
        results[way] = {"before": before, "loss": loss, "gradients": gradients}
        results[way]["after"] = clippo.encode_text(texts)
    torch.save(results, out)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
