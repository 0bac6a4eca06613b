"""Differentiable operations for vision transformers and contrastive training.

Every op has a reference implementation in plain PyTorch, which defines the op and is its fast path on CPUs.
`clippo_kernels.dispatch` describes how an implementation is chosen.
"""

from .attention import (
    attention_pool,
    attention_pool_varlen,
    flash_attention,
    flash_attention_qkvpacked,
    flash_attention_varlen,
)
from .contrastive import cached_contrastive_step, contrastive_loss, sigmoid_loss
from .patch_embed import patch_embed, patch_embed_select

__all__ = [
    "attention_pool",
    "attention_pool_varlen",
    "cached_contrastive_step",
    "contrastive_loss",
    "flash_attention",
    "flash_attention_qkvpacked",
    "flash_attention_varlen",
    "patch_embed",
    "patch_embed_select",
    "sigmoid_loss",
]

__version__ = "0.1.0"
