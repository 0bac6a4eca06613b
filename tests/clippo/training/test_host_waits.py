"""A step asks nothing of the device that the host would have to wait for.

The steps run on the meta device, which has no values: reading one (`item`, `nonzero`, a copy to the CPU)
raises an error there. The operators are those that launch kernels on a GPU.
"""

import dataclasses
import importlib

import pytest
import torch
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode

from clippo.data.loader import Batches
from clippo.data.made_up import MadeUpConfig
from clippo.data.order import order_of
from clippo.model import ByteTextConfig, RenderedTextConfig
from clippo.training import trainer
from clippo.training.finite import FiniteCheck
from clippo.training.losses import SigmoidLossConfig, SoftmaxLossConfig
from clippo.training.optimizers import AdafactorConfig
from clippo.training.parallel import DistributedContext
from clippo.training.state import TrainState, build_model
from clippo_kernels import _checks, trusted_indices

META = DistributedContext(0, 1, torch.device("meta"))
TEXTS = {
    "inked": {"text": RenderedTextConfig(tokens="inked")},
    "all": {"text": RenderedTextConfig(tokens="all")},
    "bytes": {"text": ByteTextConfig(max_bytes=20)},
    "two towers": {"text": ByteTextConfig(max_bytes=20), "num_towers": 2},
}


class NoBlockingCopies(TorchDispatchMode):
    """Raises if a copy from the host to the device waits until the device has caught up."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = kwargs.get("device")
        is_copy = operator is torch.ops.aten._to_copy.default and device is not None
        # The meta version of masked_fill copies a number, which that of a GPU passes to its kernel.
        if is_copy and args[0].ndim and args[0].device.type == "cpu" and device.type == "meta":
            assert kwargs.get("non_blocking"), f"a copy of {tuple(args[0].shape)} waits for the device"
        return operator(*args, **kwargs)


def steps_on_meta(config) -> None:
    size = config.model.image_size
    source = config.data.build("train", image_size=size)
    order = order_of(source, config.batch_size, seed=0)
    model = build_model(config)
    batches = Batches(
        source, order, config.transform.build(size), model.text_input,
        rows=slice(0, config.batch_size), steps=range(2), seed=0,
    )  # fmt: skip
    state = TrainState.build(config, model, config.loss.build(), META)
    check = FiniteCheck(1, META)
    for step in range(2):
        batch = batches.read(step)
        with NoBlockingCopies():
            trainer.take_step(state, batch, step, config, META, check)


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """The operators of a GPU, and an optimizer with fused kernels."""
    monkeypatch.setenv("CLIPPO_KERNELS_BACKEND", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for module in (_foreach_utils, importlib.import_module("torch.optim.optimizer")):
        if hasattr(module, "_get_fused_kernels_supported_devices"):
            monkeypatch.setattr(module, "_get_fused_kernels_supported_devices", lambda: ["meta"])
    build = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, **kw: build(groups, **kw | {"fused": True}))


@pytest.fixture
def config(tiny_config):
    return dataclasses.replace(
        tiny_config, micro_batch_size=6, ema_decay=0.9, grad_checkpointing=True, merge_equal_texts=True,
        max_skipped_steps=1,
    )  # fmt: skip


@pytest.mark.parametrize("text", ["inked", *(pytest.param(x, marks=pytest.mark.slow) for x in [*TEXTS][1:])])
@pytest.mark.parametrize("patch_dropout", [pytest.param(0.0, marks=pytest.mark.slow), 0.5])
def test_no_step_waits_for_the_device(config, text, patch_dropout):
    model = dataclasses.replace(config.model, **TEXTS[text])
    steps_on_meta(dataclasses.replace(config, model=model, patch_dropout=patch_dropout))


@pytest.mark.slow
@pytest.mark.parametrize("loss", [SoftmaxLossConfig(), SoftmaxLossConfig(within_kinds=True)])
@pytest.mark.parametrize("text", TEXTS)
def test_nor_does_one_with_pairs_of_texts(config, text, loss):
    model = dataclasses.replace(config.model, **TEXTS[text])
    data = MadeUpConfig(count=100, words=2, text_share=0.5)
    steps_on_meta(dataclasses.replace(config, model=model, data=data, loss=loss, patch_dropout=0.5))


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"loss": SigmoidLossConfig()}, {"optimizer": AdafactorConfig()}])
def test_no_other_loss_or_optimizer_does(config, change):
    steps_on_meta(dataclasses.replace(config, micro_batch_size=16, **change))


@pytest.mark.slow
def test_a_step_that_does_is_found(config, monkeypatch):
    normal = trainer.cached_contrastive_step
    monkeypatch.setattr(
        trainer, "cached_contrastive_step", lambda *args, **kwargs: normal(*args, **kwargs).item()
    )
    with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
        steps_on_meta(config)


class Elsewhere:
    """What the check asks a tensor for, on a device that this machine need not have."""

    is_meta = False

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)


def test_indices_on_a_gpu_are_not_read_where_they_are_trusted():
    def refuse(values):
        raise ValueError("read")

    with trusted_indices():
        _checks.check_once(Elsewhere("cuda"), (), refuse)
        with pytest.raises(ValueError, match="read"):
            _checks.check_once(Elsewhere("cpu"), (), refuse)
    with pytest.raises(ValueError, match="read"):
        _checks.check_once(Elsewhere("cuda"), (), refuse)
