"""Prompts: sentences around the name of a class, and the embeddings of classes that are made of them.

The sets of prompts here have words of their own. Those of published figures are read from the user's files.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from clippo.errors import UserError
from clippo.files import read_lines
from clippo.model import Clippo

__all__ = ["canonical", "class_embeddings", "read_prompts"]

SETS_FILE = "prompts.json"
PLACES = re.compile(r"\{c?\}")  # of the class name; CLIP_benchmark writes {c}
TEXTS = 4096  # that are embedded at a time
NORM_EPS = 1e-8  # as of the published evaluation


def read_prompts(which: str) -> list[str]:
    """The prompts of a set, with {} in the place of the class name.

    Args:
        which: "class_name_only", "short" (8) or "long" (81); a text file of prompts, one a line, as
            `zeroshot_classification_templates.txt` of CLIP_benchmark; or its JSON file of prompts by data
            set, `templates.json#imagenet1k`. In files {c} is the place as well.

    Raises:
        UserError: there is no such set or file, or it holds no prompts.
    """
    own: dict[str, list[str]] = json.loads(files(__package__).joinpath(SETS_FILE).read_text("utf-8"))
    if which in own:
        return own[which]
    path, _, data_set = which.partition("#")
    if not Path(path).is_file():
        raise UserError(f"prompts must be {', '.join(own)} or a file, got {which!r}")
    prompts = of_json(path, data_set) if path.endswith(".json") else read_lines(path)
    prompts = [PLACES.sub("{}", prompt.strip()) for prompt in prompts if prompt.strip()]
    if not prompts:
        raise UserError(f"{which} holds no prompts")
    for prompt in prompts:
        if "{}" not in prompt:
            raise UserError(
                f"{which}: a prompt must have {{c}} in the place of the class, got {prompt[:80]!r}"
            )
    return prompts


def of_json(path: str, data_set: str) -> list[str]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or data_set not in content:
        known = ", ".join(content) if isinstance(content, dict) else "none"
        raise UserError(f"{path} has prompts of {known}: name one, as in {path}#imagenet1k; got {data_set!r}")
    prompts = content[data_set]
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        raise UserError(f"{path}#{data_set} must be a list of strings, got {str(prompts)[:80]}")
    return prompts


def canonical(text: str, *, keep: str) -> str:
    """A text in lower case without ASCII punctuation, as the published evaluation has it.

    Args:
        text: a class name or prompt. An underscore becomes a space.
        keep: punctuation that stays where it is whole: "{}" of prompts, "," of class names.
    """
    parts = text.replace("_", " ").split(keep)
    bare = keep.join(part.translate(str.maketrans("", "", string.punctuation)) for part in parts)
    return " ".join(bare.lower().split())


def class_embeddings(model: Clippo, names: Sequence[str], prompts: Sequence[str]) -> Tensor:
    """The mean embedding of the prompts about each class, of unit length: (C, E) float64, on the CPU."""
    texts = [prompt.replace("{}", name) for name in names for prompt in prompts]
    parts = [model.encode_text(texts[i : i + TEXTS]).cpu().double() for i in range(0, len(texts), TEXTS)]
    means = torch.cat(parts).unflatten(0, (len(names), len(prompts))).mean(1)
    out: Tensor = means / (torch.linalg.vector_norm(means, dim=1, keepdim=True) + NORM_EPS)
    return out
