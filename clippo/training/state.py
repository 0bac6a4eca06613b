"""What a step of training changes: the model, its loss, the optimizer and the mean of the weights."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from clippo.data.pairs import FirstSides
from clippo.errors import UserError
from clippo.model import Clippo, RenderedTextConfig
from clippo.model.checkpoints.safetensors import whole
from clippo.model.clippo import normalized
from clippo.model.packing import concatenated, copied, patch_dropout
from clippo.seeds import torch_seed
from clippo.training.config import TrainConfig
from clippo.training.losses import Loss
from clippo.training.parallel import DistributedContext, parallelize
from clippo_kernels import trusted_indices

__all__ = ["PairEmbedder", "TrainState", "build_model", "named_parameters"]


class PairEmbedder(nn.Module):
    """A model and its loss as one module, whose forward pass embeds pairs.

    Args:
        model: embeds pictures and texts.
        loss: its parameters are trained with those of the model.
        bfloat16: compute products in bfloat16, of float32 weights.

    Attributes:
        patch_dropout: share of the patches of an image that are left out.
        norms: mean lengths of the embeddings of the last images and texts, before they are normalised.
    """

    def __init__(self, model: Clippo, loss: Loss, *, bfloat16: bool) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.in_bfloat16 = bfloat16
        self.patch_dropout = 0.0
        self.norms: tuple[Tensor, Tensor] | None = None

    def forward(self, images: Tensor | FirstSides, texts: Any) -> tuple[Tensor, Tensor]:
        """Embed B pairs: two (B, E) of unit length.

        Args:
            images: (B, S, S, 3) uint8, on any device; or first sides, of which some are texts. These go
                through the tower together with the second sides.
            texts: output of the tokenizer, or that and its mask.
        """
        texts, mask = texts if isinstance(texts, tuple) else (texts, None)
        device = self.model.device
        num_pairs, order, kept = len(texts), None, None
        if isinstance(images, FirstSides):
            order = copied(images.order, device)
            texts = concatenated(texts, images.texts)
            mask = None if mask is None or images.text_mask is None else torch.cat([mask, images.text_mask])
            images = images.images
        if self.patch_dropout:
            grid = images.shape[1] // self.model.config.patch_size
            kept = patch_dropout(len(images), grid**2, self.patch_dropout)
        # What is kept of images and texts was chosen here, so that the host need not look at it on a GPU.
        with trusted_indices(), self.autocast():
            z_images, z_texts = self.model.embed(images.to(device, non_blocking=True), texts, kept, mask)
            assert z_images is not None and z_texts is not None  # noqa: PT018
            self.norms = mean_norm(z_images), mean_norm(z_texts)
            if order is not None:
                z_images = torch.cat([z_images, z_texts[num_pairs:]])[order]
                z_texts = z_texts[:num_pairs]
            return normalized(z_images), normalized(z_texts)

    def autocast(self) -> AbstractContextManager[Any]:
        """Context of bfloat16 products."""
        device_type = self.model.device.type
        if not torch.amp.is_autocast_available(device_type):  # such as "meta"
            return nullcontext()
        return torch.autocast(device_type, torch.bfloat16, enabled=self.in_bfloat16)


def mean_norm(z: Tensor) -> Tensor:
    """The mean length of the rows, 0 if there are none."""
    norm: Tensor = torch.linalg.vector_norm(z.detach().float(), dim=-1)
    return norm.sum() / max(1, len(norm))


@dataclass
class TrainState:
    """What a step of training changes.

    Attributes:
        pairs: the model and its loss.
        embedder: the same, wrapped so that the processes share its gradients; what a step calls.
        optimizer: updates the parameters of both.
        average: the model with the mean of its weights over the steps; None if the run keeps none.
        left_out: batches that were left out by rewinding, see `TrainConfig.max_rewinds`.
    """

    pairs: PairEmbedder
    embedder: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None = None
    left_out: int = 0

    @classmethod
    def build(cls, config: TrainConfig, model: Clippo, loss: Loss, context: DistributedContext) -> TrainState:
        """Spread a model and its loss over the processes, and make their optimizer.

        Raises:
            UserError: as of `OptimizerConfig.build` and `parallelize`.
        """
        # On a CPU, casts to bfloat16 cost more than it saves at the widths that are trained there.
        on_gpu = context.device.type == "cuda"
        bfloat16 = on_gpu if config.precision == "auto" else config.precision == "bfloat16"
        model.tower.patch_embed.takes_smaller = bool(config.resolutions)
        pairs = PairEmbedder(model, loss, bfloat16=bfloat16).to(context.device)
        average = None
        if config.ema_decay:
            average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
            if config.parallel == "fsdp":
                parallelize(average.module, context, "fsdp", bfloat16=bfloat16)
        for encoder in filter(None, (model.tower.encoder, model.text_encoder)):
            encoder.grad_checkpointing = config.grad_checkpointing
            if config.compile:
                for block in encoder.blocks:
                    block.compile()
        embedder = parallelize(pairs, context, config.parallel, bfloat16=bfloat16)
        return cls(pairs, embedder, config.optimizer.build(named_parameters(pairs), config.model), average)

    @property
    def model(self) -> Clippo:
        return self.pairs.model

    @property
    def loss(self) -> Loss:
        return self.pairs.loss

    @property
    def trained_parameters(self) -> list[nn.Parameter]:
        """The parameters that are not frozen."""
        return [parameter for parameter in self.pairs.parameters() if parameter.requires_grad]

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.pairs.parameters())

    @property
    def renderer_fingerprint(self) -> str:
        """Checksum of what the renderer draws; "none" for a model that reads bytes."""
        return str(getattr(getattr(self.model.text_input, "renderer", None), "fingerprint", "none"))

    @property
    def used(self) -> Clippo:
        """The model to evaluate and to keep: that of the mean weights, if there is one."""
        return self.model if self.average is None else cast(Clippo, self.average.module)

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds a part of every parameter alone."""
        return any(hasattr(parameter, "full_tensor") for parameter in self.pairs.parameters())

    def whole_model(self) -> Clippo:
        """The model to evaluate, whole. If it is sharded, all processes must call this."""
        if not self.is_sharded:
            return self.used
        model = Clippo(self.used.config, getattr(self.used.text_input, "renderer", None))
        model.load_state_dict({name: whole(value) for name, value in self.used.state_dict().items()})
        return model.to(self.model.device)


def named_parameters(pairs: PairEmbedder) -> list[tuple[str, nn.Parameter]]:
    """The parameters of the model and of the loss, without the names of these two parts."""
    return [*pairs.model.named_parameters(), *pairs.loss.named_parameters()]


def build_model(config: TrainConfig) -> Clippo:
    """Make the model of a run with its first weights.

    Raises:
        UserError: the model and the renderer do not fit together.
    """
    torch.manual_seed(torch_seed(config.seed, "weights"))
    has_renderer = isinstance(config.model.text, RenderedTextConfig)
    try:
        renderer = config.renderer.build(config.model.image_size) if has_renderer else None
        model = Clippo(config.model, renderer)
    except ValueError as error:
        raise UserError(f"model and renderer do not fit together: {error}") from error
    model.init_weights(residual_scale=config.residual_scale)
    return model
