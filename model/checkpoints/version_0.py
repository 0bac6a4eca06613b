"""Model folders of version 0.1.0, in which some fields and tensors had other names.

They are recognised by a `config.json` without "text" and by a tensor `log_scale`, and converted when they are
read. Byte models of that version, which were baselines, have other tensor names and are refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

__all__ = ["upgraded_config", "upgraded_names", "upgraded_shape"]

FIELDS = {"heads": "num_heads", "out_dim": "embed_dim"}
TENSORS = (
    (re.compile(r"^log_scale$"), "logit_scale"),
    (re.compile(r"^tower\.patch_(weight|bias)$"), r"tower.patch_embed.\1"),
    (re.compile(r"^tower\.pos_embed$"), "tower.patch_embed.pos_embed"),
    (re.compile(r"^tower\.(blocks|norm|pool|head)\."), r"tower.encoder.\1."),
)


def upgraded_config(content: Any) -> Any:
    """Convert the content of a `config.json` of either version to the present one."""
    if not isinstance(content, dict) or "text" in content or "heads" not in content:
        return content
    content = {FIELDS.get(name, name): value for name, value in content.items()}
    tokens = content.pop("text_tokens", "all")
    return {**content, "text": {"type": "rendered", "tokens": tokens}}


def upgraded_names(names: Sequence[str]) -> dict[str, str]:
    """Map the present names of tensors to their names in a file of either version."""
    if "log_scale" not in names:
        return {name: name for name in names}
    upgraded = {}
    for old in names:
        name = old
        for pattern, replacement in TENSORS:
            name = pattern.sub(replacement, name)
        upgraded[name] = old
    return upgraded


def upgraded_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Convert the shape of a tensor to the present one: the temperature was a scalar."""
    return (1,) if name == "log_scale" and shape == () else shape
