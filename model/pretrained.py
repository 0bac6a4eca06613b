"""Folders that hold a model: `config.json`, `model.safetensors` and `renderer.json`."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from clippo.model.tower import TowerConfig

if TYPE_CHECKING:
    from clippo.model.clippo import Clippo, TextRenderer

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
RENDERER_FILE = "renderer.json"  # what drew the text that the model has learned to read


def save(model: Clippo, folder: str | Path) -> None:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    description = model.renderer_description
    if model.renderer_in_use is not None:
        description = getattr(model.renderer_in_use, "description", None)
    write(folder / WEIGHTS_FILE, lambda path: save_file(model.state_dict(), path))
    write(folder / CONFIG_FILE, lambda path: write_json(path, asdict(model.config)))
    if description is not None:
        write(folder / RENDERER_FILE, lambda path: write_json(path, description))
    else:
        (folder / RENDERER_FILE).unlink(missing_ok=True)  # of another model, which was here before


def write(path: Path, fill: Callable[[Path], object]) -> None:
    """Replace a file, whole or not at all."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    fill(unfinished)
    os.replace(unfinished, path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def load(
    cls: type[Clippo], source: str | Path, renderer: TextRenderer | None, revision: str | None
) -> Clippo:
    folder = Path(source)
    if not folder.is_dir() and is_hub_name(str(source)):
        folder = download(str(source), revision)
    elif revision is not None:
        raise ValueError(f"revision is for names on the Hub, and {source} is a folder")
    config_path, weights_path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    try:
        config = TowerConfig(**json.loads(config_path.read_text()))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{config_path} is not the configuration of a Clippo: {error}") from error
    with torch.device("meta"):
        model = cls(config, renderer)
    try:
        # Shapes come from the header alone, so a mismatch is found before anything large is allocated.
        with safe_open(weights_path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            check_shapes(found, model.state_dict(), weights_path, config_path)
            model = model.to_empty(device="cpu")
            with torch.no_grad():
                for name, parameter in model.state_dict().items():
                    parameter.copy_(file.get_tensor(name))
    except SafetensorError as error:
        raise ValueError(f"{weights_path} is not a whole safetensors file: {error}") from error
    if (folder / RENDERER_FILE).is_file():
        description = read_description(folder / RENDERER_FILE)
        if renderer is not None:
            warn_of_another_renderer(description, renderer)
        else:
            model.renderer_description = description
            model.background = description.get("options", {}).get("background", model.background)
    return model


def check_shapes(
    found: dict[str, tuple[int, ...]],
    expected: Mapping[str, Tensor],
    weights_path: Path,
    config_path: Path,
) -> None:
    shapes = {name: tuple(value.shape) for name, value in expected.items()}
    if differing := [name for name in shapes | found if shapes.get(name) != found.get(name)]:
        listed = "; ".join(
            f"{name}: expected {shapes.get(name, 'nothing')}, found {found.get(name, 'nothing')}"
            for name in differing[:3]
        )
        raise ValueError(
            f"{weights_path} does not fit {config_path}: {len(differing)} tensors differ. {listed}"
        )


def is_hub_name(source: str) -> bool:
    """ "owner/name" and nothing else: neither a path from here nor one with more parts."""
    parts = source.split("/")
    return len(parts) == 2 and all(part and not part.startswith((".", "~")) for part in parts)


def download(name: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError(
            f"{name} is no folder here, and a name on the Hugging Face Hub needs huggingface_hub: "
            "pip install 'clippo-kernels[hub]'"
        ) from error
    files = [CONFIG_FILE, WEIGHTS_FILE, RENDERER_FILE]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=files))
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise FileNotFoundError(
            f"{name} is no folder here, and not to be had from the Hub: {reason}"
        ) from error


def read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} does not describe a renderer: {error}") from error
    if not isinstance(description, dict) or not isinstance(description.get("options", {}), dict):
        raise ValueError(f"{path} does not describe a renderer")
    return description


def described_renderer(description: dict[str, Any]) -> TextRenderer:
    """A renderer of the kind and options described, from the fonts of this machine."""
    from clippo.renderer import from_description  # which needs Skia and fonts: for strings alone

    renderer: TextRenderer = from_description(description)
    warn_of_another_renderer(description, renderer)
    return renderer


def warn_of_another_renderer(description: dict[str, Any], renderer: TextRenderer) -> None:
    """Warn if a renderer is not the one described; say nothing where it does not describe itself."""
    current = getattr(renderer, "description", None)
    if current is None:
        return
    before, now = flat(description), flat(json.loads(json.dumps(current)))
    differing = [
        f"{key} was {before.get(key, 'absent')}, is {now.get(key, 'absent')}"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key)
    ]
    if differing:
        warnings.warn(
            f"this model was trained with text that was drawn differently: {'; '.join(differing)}",
            stacklevel=4,
        )


def flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"fonts": {"a": 1}}` -> `{"fonts.a": 1}`."""
    out: dict[str, Any] = {}
    for key, value in fields.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out
