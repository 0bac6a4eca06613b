"""CLIPPO: a tower, a temperature, and the two ways to feed them."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.tower import Tower, TowerConfig, named_config

TextRenderer = Callable[[Sequence[str]], np.ndarray]  # B strings -> (B, S, S) uint8

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
RENDERER_FILE = "renderer.json"  # what drew the text that the model has learned to read


class Clippo(nn.Module):
    """One tower for pictures and text, trained with a contrastive loss alone.

    Args:
        config: sizes of the tower.
        renderer: turns B strings into a (B, S, S) uint8 array, S = `config.image_size`, for instance a
            `renderer.UnifontRenderer`. Only needed by `encode_text` on strings.
    """

    def __init__(self, config: TowerConfig, renderer: TextRenderer | None = None) -> None:
        super().__init__()
        self.config = config
        self.renderer = renderer
        self.tower = Tower(config)
        # The logarithm is learned, so that the scale of the logits stays positive.
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    @property
    def logit_scale(self) -> Tensor:
        """The factor on cosine similarities, the inverse of the temperature."""
        return self.log_scale.exp()

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, out_dim) unit-length embeddings of images in any layout that `Tower.embed` takes."""
        return normalize(self.tower(images))

    def encode_text(self, texts: Sequence[str] | Tensor) -> Tensor:
        """(B, out_dim) unit-length embeddings of strings, or of text that is rendered already."""
        if not isinstance(texts, Tensor):
            if self.renderer is None:
                raise ValueError("texts are strings, but this Clippo was made without a renderer")
            texts = torch.from_numpy(self.renderer(texts)).to(self.log_scale.device)
        return normalize(self.tower(texts))

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Embed B images and B rendered texts in one pass through the tower.

        Photographs have three channels and text has one, so each is cut into patches on its own; from
        there on they are one batch of 2 B sequences.
        """
        tower = self.tower
        x_BND = torch.cat([tower.embed(images), tower.embed(texts)])
        z = normalize(tower.head(tower.pool(tower.encode(x_BND))))
        return z[: len(images)], z[len(images) :]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` into a folder, which is made if it is missing.

        If the model has a renderer that describes itself, `renderer.json` says what decides on its pixels.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_FILE).write_text(json.dumps(asdict(self.config), indent=2) + "\n")
        description = getattr(self.renderer, "description", None)
        if description is not None:
            (folder / RENDERER_FILE).write_text(json.dumps(description, indent=2) + "\n")
        save_file(self.state_dict(), folder / WEIGHTS_FILE)

    @classmethod
    def from_pretrained(cls, folder: str | Path, renderer: TextRenderer | None = None) -> Clippo:
        """Read what `save_pretrained` wrote.

        A model has learned to read one renderer's pixels. If `renderer` would draw others, a warning says
        what differs: fonts, versions or options.

        Raises:
            FileNotFoundError: the folder lacks the configuration or the weights.
            ValueError: the configuration or the weights are not those of a Clippo, or do not fit together.
        """
        folder = Path(folder)
        config_path, weights_path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
        try:
            config = TowerConfig(**json.loads(config_path.read_text()))
        except (TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{config_path} is not the configuration of a Clippo: {error}") from error
        try:
            # Shapes come from the header alone, so a mismatch is found before anything large is allocated.
            with safe_open(weights_path, framework="pt") as file:
                found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            last_block = f"tower.blocks.{config.depth - 1}.norm1.weight"
            if last_block not in found:
                raise ValueError(f"{weights_path} does not fit {config_path}: it has no {last_block}")
            with torch.device("meta"):
                expected = {name: tuple(value.shape) for name, value in cls(config).state_dict().items()}
            if differing := [k for k in expected | found if expected.get(k) != found.get(k)]:
                name = differing[0]
                raise ValueError(
                    f"{weights_path} does not fit {config_path}: {len(differing)} tensors differ; {name}: "
                    f"expected {expected.get(name)}, found {found.get(name)}"
                )
            weights = load_file(weights_path)
        except SafetensorError as error:
            raise ValueError(f"{weights_path} is not a whole safetensors file: {error}") from error
        model = cls(config, renderer)
        model.load_state_dict(weights)
        warn_of_another_renderer(folder / RENDERER_FILE, renderer)
        return model


def warn_of_another_renderer(path: Path, renderer: TextRenderer | None) -> None:
    """Warn if a renderer is not the one that `path` describes; say nothing where either is not known."""
    description = getattr(renderer, "description", None)
    if description is None or not path.is_file():
        return
    try:
        before = flat(json.loads(path.read_text()))
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ValueError(f"{path} does not describe a renderer: {error}") from error
    now = flat(json.loads(json.dumps(description)))
    differing = [
        f"{key} was {before.get(key, 'absent')}, is {now.get(key, 'absent')}"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key)
    ]
    if differing:
        warnings.warn(
            f"the model in {path.parent} was trained with text that was drawn differently: "
            + "; ".join(differing),
            stacklevel=3,
        )


def flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"fonts": {"a": 1}}` -> `{"fonts.a": 1}`."""
    out: dict[str, Any] = {}
    for key, value in fields.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


def normalize(z: Tensor) -> Tensor:
    # The published models add the epsilon to the norm instead of clamping it.
    return z / (torch.linalg.vector_norm(z.float(), dim=-1, keepdim=True) + 1e-8)


def create_model(name: str, *, image_size: int = 224, out_dim: int = 768) -> Clippo:
    """A freshly initialised CLIPPO by name; `list_models()` lists the names."""
    return Clippo(named_config(name, image_size=image_size, out_dim=out_dim))
