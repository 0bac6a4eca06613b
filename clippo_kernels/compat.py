"""The ops under the names and signatures of other libraries, for models that are written for those.

- flash-attention: `flash_attn_func`, `flash_attn_qkvpacked_func`, `flash_attn_varlen_qkvpacked_func`
- open_clip: `ClipLoss`
- timm: `Attention`
- Hugging Face transformers: `attention_interface`, to be registered with `AttentionInterface`

What the ops do not compute raises NotImplementedError: dropout, masks, causal and sliding windows, soft caps,
slopes, and fewer heads of keys than of queries. Every result is deterministic.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from .attention import flash_attention, flash_attention_qkvpacked, flash_attention_varlen
from .contrastive import contrastive_loss

__all__ = [
    "Attention",
    "ClipLoss",
    "attention_interface",
    "flash_attn_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
]


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = True,
    return_attn_probs: bool = False,
) -> Tensor:
    """Compute `flash_attention` by the signature of flash-attention 2: (B, Nq, H, D).

    Args:
        q, k, v: (B, N, H, D), any floating dtype on any device; all with H heads.
        softmax_scale: factor of the logits, D ** -0.5 by default.
        deterministic: changes nothing, as all results are.

    Raises:
        NotImplementedError: an argument asks for more than softmax attention over all keys.
    """
    check_plain(dropout_p, causal, window_size, softcap, alibi_slopes, return_attn_probs)
    return flash_attention(q, k, v, scale=softmax_scale)


def flash_attn_qkvpacked_func(
    qkv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = True,
    return_attn_probs: bool = False,
) -> Tensor:
    """Compute `flash_attention_qkvpacked` of qkv (B, N, 3, H, D) by the signature of flash-attention 2.

    Arguments and errors are those of `flash_attn_func`.
    """
    check_plain(dropout_p, causal, window_size, softcap, alibi_slopes, return_attn_probs)
    return flash_attention_qkvpacked(qkv, scale=softmax_scale)


def flash_attn_varlen_qkvpacked_func(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = True,
    return_attn_probs: bool = False,
) -> Tensor:
    """Compute `flash_attention_varlen` of qkv (T, 3, H, D) by the signature of flash-attention 2.

    Other arguments and errors are those of `flash_attn_func`.
    """
    check_plain(dropout_p, causal, window_size, softcap, alibi_slopes, return_attn_probs)
    return flash_attention_varlen(qkv, cu_seqlens, max_seqlen, scale=softmax_scale)


def check_plain(
    dropout_p: float,
    causal: bool,
    window_size: tuple[int, int],
    softcap: float,
    alibi_slopes: Tensor | None,
    return_attn_probs: bool,
) -> None:
    refuse("dropout_p", dropout_p, dropout_p == 0)
    refuse("causal", causal, not causal)
    refuse("window_size", window_size, tuple(window_size) == (-1, -1))
    refuse("softcap", softcap, softcap == 0)
    refuse("alibi_slopes", "a tensor", alibi_slopes is None)
    refuse("return_attn_probs", return_attn_probs, not return_attn_probs)


def refuse(name: str, value: object, is_supported: bool) -> None:
    if not is_supported:
        raise NotImplementedError(f"{name} must be left at its default, which is all there is; got {value}")


class ClipLoss(nn.Module):
    """Loss of CLIP by the signature of open_clip's class, without a matrix of all logits.

    It takes what open_clip's `create_loss` and training loop pass. The gradient that DistributedDataParallel
    averages is the one of the global batch, as in open_clip with `gather_with_grad`; the value is the loss of
    the global batch too, also with `local_loss`.

    Args:
        local_loss, cache_labels, rank: change nothing.
        gather_with_grad: must be True if there are several ranks (`--gather-with-grad` of open_clip).
        world_size: number of ranks that share the batch; several take the default process group.

    Raises:
        NotImplementedError: `use_horovod`, or several ranks without `gather_with_grad`.
        ValueError: several ranks that are not those of the default process group.
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
    ) -> None:
        super().__init__()
        refuse("use_horovod", use_horovod, not use_horovod)
        if world_size > 1 and not gather_with_grad:
            raise NotImplementedError(
                f"gather_with_grad must be True with {world_size} ranks: gradients of the features of other "
                "ranks are never left out here"
            )
        ranks = dist.get_world_size() if dist.is_initialized() else 1
        if world_size > 1 and world_size != ranks:
            raise ValueError(
                f"world_size must be 1, or {ranks} as in the default process group, got {world_size}"
            )
        self.world_size = world_size

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Compute the loss of (B, D) features: a scalar, or a dict with the name `contrastive_loss`.

        `logit_bias` changes neither the loss nor a gradient, as a softmax does not see what it adds. Its own
        gradient is 0.
        """
        group = dist.group.WORLD if self.world_size > 1 else None
        loss = contrastive_loss(image_features, text_features, logit_scale, group=group)
        if logit_bias is not None:  # DistributedDataParallel waits for the gradient of every parameter
            loss = loss + 0 * logit_bias.sum()
        return {"contrastive_loss": loss} if output_dict else loss


class Attention(nn.Module):
    """Self-attention with the arguments, weights and names of timm's class.

    It loads a state dict of timm's, and a block of timm's takes it: `block.attn = Attention(dim, num_heads)`.

    Args:
        dim: channels of the tokens.
        num_heads: heads; they divide `dim`.
        qkv_bias, proj_bias: whether the two linear layers have a bias.
        attn_drop: must be 0.
        proj_drop: dropout of the output.

    Raises:
        ValueError: `num_heads` does not divide `dim`.
        NotImplementedError: `attn_drop` is not 0.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        proj_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads must divide dim = {dim}, got {num_heads}")
        refuse("attn_drop", attn_drop, attn_drop == 0)
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim, bias=proj_bias)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Attend among the N tokens of each sequence of x (B, N, dim)."""
        refuse("attn_mask", "a tensor", attn_mask is None)
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        out: Tensor = self.proj_drop(self.proj(flash_attention_qkvpacked(qkv).flatten(-2)))
        return out


def attention_interface(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention function for Hugging Face's models of vision, such as ViT, CLIP and SigLIP.

        transformers.AttentionInterface.register("clippo", attention_interface)
        model.set_attn_implementation("clippo")

    Args:
        module: layer that calls; its `is_causal` counts if the argument is None.
        query: (B, H, Nq, D).
        key, value: (B, H, Nk, D).
        attention_mask: must be None.
        scaling: factor of the logits, D ** -0.5 by default.
        dropout: must be 0.
        is_causal: must be False.

    Returns:
        (B, Nq, H, D), and None in place of the probabilities.

    Raises:
        NotImplementedError: a mask, dropout, a causal layer, or fewer heads of keys than of queries.
    """
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    refuse("attention_mask", "a tensor", attention_mask is None)
    refuse("dropout", dropout, dropout == 0)
    refuse("is_causal", causal, not causal)
    refuse("num_key_value_heads", key.shape[1], key.shape[1] == query.shape[1])
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    return flash_attention(q, k, v, scale=scaling), None
