"""Model folders of version 0.1.0, which named some fields and tensors otherwise.

They are recognised by a `config.json` without "text" and by a tensor `log_scale`, and converted when they are
read. Models of that version which read text as bytes have the tensors of their text under other names; they
were written for comparison alone and are refused by the check of shapes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

FIELDS = {"heads": "num_heads", "out_dim": "embed_dim"}
TENSORS = (
    (re.compile(r"^log_scale$"), "logit_scale"),
    (re.compile(r"^tower\.patch_(weight|bias)$"), r"tower.patch_embed.\1"),
    (re.compile(r"^tower\.pos_embed$"), "tower.patch_embed.pos_embed"),
    (re.compile(r"^tower\.(blocks|norm|pool|head)\."), r"tower.encoder.\1."),
)


def upgraded_config(content: Any) -> Any:
    """Content of a `config.json` of today, from one of either version."""
    if not isinstance(content, dict) or "text" in content or "heads" not in content:
        return content
    content = {FIELDS.get(name, name): value for name, value in content.items()}
    tokens = content.pop("text_tokens", "all")
    return {**content, "text": {"type": "rendered", "tokens": tokens}}


def upgraded_names(names: Sequence[str]) -> dict[str, str]:
    """Names of the tensors of today, and what each is called in a file of either version."""
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
    """The shape of a tensor of today: the temperature was a scalar."""
    return (1,) if name == "log_scale" and shape == () else shape
