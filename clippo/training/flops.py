"""FLOPs of a training step, counted by arithmetic, and the FLOP/s that a GPU can do at most.

`step_flops(...) / seconds / (processes * peak_flops(device))` is the share of the peak that a run reaches:
the "model FLOPs utilization" of PaLM (Chowdhery et al., arXiv 2204.02311, appendix B).

A multiply-add of a matrix product is two FLOPs. Nothing else counts: normalisation, softmax, activations, the
lookup of bytes and the optimizer take time, but hardly any FLOPs. Dimensions: B pairs, S sequences, T tokens
of all sequences, D width, E features of an embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clippo.model import ClippoConfig, RenderedTextConfig

__all__ = ["forward_flops", "peak_flops", "peak_of", "step_flops"]


def forward_flops(config: ClippoConfig, image_lengths: Tensor, text_lengths: Tensor) -> int:
    """FLOPs of one call of a `Clippo` that embeds images of three channels and texts.

    Args:
        config: the model.
        image_lengths: (S,) integers, the tokens of each image: `config.num_patches`, or what patch dropout
            keeps. There may be none.
        text_lengths: (S,) integers, the tokens of each text: all patches, those with ink, or bytes. For
            packed texts this is `varlen.cu_seqlens.diff()`.

    Raises:
        ValueError: lengths that are not integers in one dimension.
    """
    check_lengths("image_lengths", image_lengths)
    check_lengths("text_lengths", text_lengths)
    if config.num_towers == 2:
        encoders = encoder_flops(config, image_lengths) + encoder_flops(config, text_lengths)
    else:
        encoders = encoder_flops(config, torch.cat([image_lengths, text_lengths]))
    return patch_embed_flops(config, image_lengths, text_lengths) + encoders


def step_flops(config: ClippoConfig, image_lengths: Tensor, text_lengths: Tensor) -> int:
    """FLOPs that a training step needs, of the whole batch on all processes: forward, loss and backward.

    These are the model FLOPs of PaLM: what the mathematics needs, and not what a device executes. All
    parameters are trained. The backward takes two products for each of the forward; that of the patch
    embedding takes one, because pixels need no gradient. A softmax or sigmoid loss takes one product of B
    images with B texts, and two in its backward; those that a loss within kinds saves are counted. What is
    computed again to save memory does not count: activation checkpoints, the second embedding of
    `cached_contrastive_step`, and the logits in the backward of attention and loss.

    Args:
        config: the model.
        image_lengths, text_lengths: as for `forward_flops`, (I,) and (2 B - I,): of a pair of texts both
            sides are texts.

    Raises:
        ValueError: as of `forward_flops`, or numbers of images and texts that make no pairs.
    """
    forward = forward_flops(config, image_lengths, text_lengths)
    I, T = len(image_lengths), len(text_lengths)  # noqa: E741
    if T < I or (I + T) % 2:
        raise ValueError(
            f"text_lengths must have one entry for each of {I} images, and two a pair of texts, got {T}"
        )
    B = (I + T) // 2
    logits = 2 * B * B * config.embed_dim
    return 3 * forward - patch_embed_flops(config, image_lengths, text_lengths) + 3 * logits


def patch_embed_flops(config: ClippoConfig, image_lengths: Tensor, text_lengths: Tensor) -> int:
    """FLOPs of the forward of the patch embedding. Drawn text is grey: it has one channel, and bytes none."""
    is_drawn = isinstance(config.text, RenderedTextConfig)
    channels = 3 * int(image_lengths.sum()) + (int(text_lengths.sum()) if is_drawn else 0)
    return 2 * channels * config.patch_size**2 * config.width


def encoder_flops(config: ClippoConfig, lengths: Tensor) -> int:
    """FLOPs of the forward of an `Encoder` on sequences of these lengths; 0 if there are none."""
    if not len(lengths):
        return 0
    D = config.width
    mlp = 2 * D * config.mlp_dim  # multiply-adds for a token, as all of these
    S, T, pairs = len(lengths), int(lengths.sum()), int(lengths.long().square().sum())
    block = T * (3 * D * D + D * D + mlp) + 2 * pairs * D  # qkv, proj, mlp; logits and values
    # The query is projected once for all sequences, and there is one result for each.
    pool = D * D + T * 2 * D * D + 2 * T * D + S * (D * D + mlp)  # q, kv; logits and values; proj, mlp
    head = S * D * config.embed_dim
    return 2 * (config.depth * block + pool + head)


def check_lengths(name: str, lengths: Tensor) -> None:
    if lengths.ndim != 1 or lengths.is_floating_point():
        raise ValueError(
            f"{name} must be integers of shape (S,), got {lengths.dtype} of shape {tuple(lengths.shape)}"
        )


# TFLOP/s of bfloat16 products with float32 sums on the tensor cores, without sparsity, from NVIDIA's data
# sheets; newer ones print twice as much, with sparsity. The names are the driver's, without "NVIDIA".
PEAKS = {
    # "Tesla V100 data sheet": it has no bfloat16, so this is float16.
    "Tesla V100-SXM2-16GB": 125,
    "Tesla V100-SXM2-32GB": 125,
    "Tesla V100-PCIE-16GB": 112,
    "Tesla V100-PCIE-32GB": 112,
    # "A100 Tensor Core GPU data sheet", one figure for all.
    "A100-SXM4-40GB": 312,
    "A100-SXM4-80GB": 312,
    "A100-PCIE-40GB": 312,
    "A100 80GB PCIe": 312,
    # "A10 data sheet", and "A10G data sheet" for the GPUs of AWS g5, whose products are slower.
    "A10": 125,
    "A10G": 70,
    # "L4" and "L40S data sheet".
    "L4": 121,
    "L40S": 362,
    # "H100 Tensor Core GPU data sheet"; the first is the SXM.
    "H100 80GB HBM3": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    # "H200 Tensor Core GPU data sheet".
    "H200": 989,
    "H200 NVL": 835,
    # "Blackwell architecture data sheet", for a GPU of an HGX B200.
    "B200": 2250,
    # Appendix A of the GA102 and Ada architecture whitepapers. Sums in float16 would be twice as fast.
    "GeForce RTX 3090": 71,
    "GeForce RTX 4090": 165.2,
}


def peak_flops(device: torch.device) -> float | None:
    """The most FLOP/s that a device can do in bfloat16 products; None for a CPU or a GPU not known here."""
    return peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_of(name: str) -> float | None:
    """The peak of a GPU in FLOP/s by the name that `torch.cuda.get_device_name` gives; None if not known.

    The whole name counts, because those of different GPUs begin alike, and so does that of a part of one
    ("NVIDIA A100-SXM4-40GB MIG 1g.5gb").
    """
    peak = PEAKS.get(name.removeprefix("NVIDIA "))
    return None if peak is None else peak * 1e12
