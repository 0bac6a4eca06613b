"""Differentiable operations for vision transformers and contrastive training.

Every op is defined by a few lines of PyTorch (`reference.py`) and has two implementations: in PyTorch
(`eager.py`, the fast path on CPUs) and in Triton (`kernels.py`). `clippo_kernels.dispatch` describes which
one runs.
"""

from ._checks import trusted_indices
from .attention import (
    attention_pool,
    attention_pool_varlen,
    flash_attention,
    flash_attention_qkvpacked,
    flash_attention_varlen,
)
from .contrastive import cached_contrastive_step, contrastive_loss, sigmoid_loss
from .flops import register_flop_formulas
from .modules import ContrastiveLoss, SigmoidLoss
from .patch_embed import patch_embed, patch_embed_select

__all__ = [
    "ContrastiveLoss",
    "SigmoidLoss",
    "attention_pool",
    "attention_pool_varlen",
    "cached_contrastive_step",
    "contrastive_loss",
    "flash_attention",
    "flash_attention_qkvpacked",
    "flash_attention_varlen",
    "patch_embed",
    "patch_embed_select",
    "register_flop_formulas",
    "sigmoid_loss",
    "trusted_indices",
]

__version__ = "0.1.0"
