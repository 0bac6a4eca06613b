"""One optimizer step of the emoji recipe, in float32 and under bfloat16 autocast, and the batch it needs.

pytest bench/bench_train.py
"""

import pytest
import torch

from clippo.training import recipes
from clippo.training.optimizer import make_optimizer
from clippo_kernels import contrastive_loss
from model import Clippo

CONFIG = recipes.emoji()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_step(benchmark, dataset, dtype):
    torch.manual_seed(0)
    model = Clippo(CONFIG.model)
    optimizer = make_optimizer(model, CONFIG)
    images, texts = (torch.from_numpy(array) for array in dataset.batch(0, CONFIG.batch_size))

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            z_images, z_texts = model(images, texts)
        loss = contrastive_loss(z_images, z_texts, model.logit_scale)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    benchmark.pedantic(step, rounds=20, warmup_rounds=3)
    benchmark.extra_info["pairs_per_s"] = round(CONFIG.batch_size / benchmark.stats["median"])


def test_batch(benchmark, dataset):
    numbers = iter(range(1000))
    benchmark.pedantic(lambda: dataset.batch(next(numbers), CONFIG.batch_size), rounds=20, warmup_rounds=3)
    benchmark.extra_info["pairs_per_s"] = round(CONFIG.batch_size / benchmark.stats["median"])
