"""The Triton patch embedding as registered operators, and the autograd function that calls them."""

from typing import Any

import torch
from torch import Tensor

from .._ops import refuse_second_derivative, register
from ..dispatch import can_launch
from . import eager

__all__ = ["PatchEmbed"]

OPS = torch.ops.clippo_kernels


class PatchEmbed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        pos_embed: Tensor | None,
        keep_indices: Tensor | None,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        dtype: torch.dtype,
        out_dtype: torch.dtype,
    ) -> Any:
        out = OPS.patch_embed_forward(
            images, weight, bias, pos_embed, keep_indices, mean, std, dtype, out_dtype
        )
        ctx.save_for_backward(images, weight, keep_indices)
        ctx.arguments = mean, std, dtype
        ctx.dtypes = [None if x is None else x.dtype for x in (bias, pos_embed)]
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("patch_embed")
        images, weight, keep_indices = ctx.saved_tensors
        needs_images, needs_weight, needs_bias, needs_pos_embed, *_ = ctx.needs_input_grad
        bias_dtype, pos_embed_dtype = ctx.dtypes
        dout = dout.contiguous()  # one copy here instead of one in each operator
        dimages = dweight = dbias = dpos_embed = None
        if needs_images:
            dimages = eager.image_gradient(dout, images, weight, keep_indices, *ctx.arguments)
        if needs_weight or needs_bias or needs_pos_embed:
            sum_ND = OPS.patch_embed_position_gradient(dout, keep_indices, grid_size(images, weight))
            sum_D = sum_ND.sum(0)
            if needs_weight:
                dweight = OPS.patch_embed_weight_gradient(
                    dout, images, weight, sum_D, keep_indices, *ctx.arguments
                )
            dbias = sum_D.to(bias_dtype) if needs_bias else None
            dpos_embed = sum_ND.to(pos_embed_dtype) if needs_pos_embed else None
        return dimages, dweight, dbias, dpos_embed, *(None,) * 5


def grid_size(images: Tensor, weight: Tensor) -> int:
    """Number N of patches of an image, for images (B, C, H, W)."""
    H, W = images.shape[2:]
    P = weight.shape[-1]
    return (H // P) * (W // P)


# ---------------------------------------------------------------------------------------------------------
# Operators. Triton is imported by `launch`, when the first one runs.


def run_forward(images: Tensor, weight: Tensor, *arguments: Any) -> Tensor:
    if not can_launch(images.device):  # in an exported program
        return eager.patch_embed(images, weight, *arguments)

    from . import launch

    _, _, keep_indices, *_ = arguments
    out = launch.forward(images, weight, *arguments)
    if keep_indices is not None:
        return out
    return out.view(images.shape[0], grid_size(images, weight), weight.shape[0])


def run_weight_gradient(dout: Tensor, *arguments: Any) -> Tensor:
    from . import launch

    return launch.weight_gradient(dout.reshape(-1, dout.shape[-1]), *arguments)


def run_position_gradient(dout: Tensor, keep_indices: Tensor | None, N: int) -> Tensor:
    from . import launch

    return launch.position_gradient(dout.reshape(-1, dout.shape[-1]), keep_indices, N)


def fake_forward(images: Tensor, weight: Tensor, *arguments: Any) -> Tensor:
    _, _, keep_indices, *_, out_dtype = arguments
    tokens = (
        (images.shape[0], grid_size(images, weight)) if keep_indices is None else (keep_indices.shape[0],)
    )
    return images.new_empty((*tokens, weight.shape[0]), dtype=out_dtype)


def fake_weight_gradient(dout: Tensor, images: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(weight)


def fake_position_gradient(dout: Tensor, keep_indices: Tensor | None, N: int) -> Tensor:
    return dout.new_empty((N, dout.shape[-1]), dtype=torch.float32)


register(
    "patch_embed_forward",
    "(Tensor images, Tensor weight, Tensor? bias, Tensor? pos_embed, Tensor? keep_indices, float[] mean,"
    " float[] std, ScalarType dtype, ScalarType out_dtype) -> Tensor",
    run_forward,
    fake_forward,
)
register(
    "patch_embed_weight_gradient",
    "(Tensor dout, Tensor images, Tensor weight, Tensor dbias, Tensor? keep_indices, float[] mean,"
    " float[] std, ScalarType dtype) -> Tensor",
    run_weight_gradient,
    fake_weight_gradient,
)
register(
    "patch_embed_position_gradient",
    "(Tensor dout, Tensor? keep_indices, SymInt N) -> Tensor",
    run_position_gradient,
    fake_position_gradient,
)
