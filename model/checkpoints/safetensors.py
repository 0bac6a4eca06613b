"""Folders that hold a model: `config.json`, `model.safetensors`, `renderer.json` and `manifest.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from clippo.errors import printable
from clippo.files import (
    MANIFEST_FILE,
    atomic_path,
    check_file,
    check_manifest,
    remove,
    write_manifest,
    write_text,
)
from clippo.model.checkpoints import version_0
from clippo.model.checkpoints.hub import download, is_hub_name
from clippo.model.checkpoints.names import unwrapped_name
from clippo.model.checkpoints.shipped import shipped_folder

__all__ = [
    "Config",
    "find_folder",
    "is_finite",
    "read_config",
    "read_description",
    "read_weights",
    "whole",
    "write_folder",
]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
RENDERER_FILE = "renderer.json"  # describes the renderer that the model was trained with

FLOATING = ("F64", "F32", "F16", "BF16")  # dtypes, as safetensors calls them

Config = TypeVar("Config")
Model = TypeVar("Model", bound=nn.Module)


def write_folder(
    folder: str | Path,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    renderer: Mapping[str, Any] | None,
) -> None:
    """Write a model into a folder, each file whole or not at all.

    If `fully_shard` has split the tensors, all ranks must call this, and rank 0 writes.

    Args:
        folder: made if it is missing.
        config: content of `config.json`.
        state: the tensors.
        renderer: description of the renderer, if the model has one.

    Raises:
        OSError: a file cannot be written.
    """
    # safetensors takes row-major tensors alone; a model may be in channels_last.
    tensors = {unwrapped_name(name): whole(tensor).contiguous() for name, tensor in state.items()}
    is_sharded = any(hasattr(tensor, "full_tensor") for tensor in state.values())
    if is_sharded and torch.distributed.get_rank() != 0:
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    remove(folder / MANIFEST_FILE)  # of another model, which was here before
    with atomic_path(folder / WEIGHTS_FILE) as path:
        try:
            save_file(tensors, path)
        except SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}") from error
        path.chmod(0o666 & ~umask())  # safetensors lets the owner alone read it
    write_json(folder / CONFIG_FILE, config)
    if renderer is not None:
        write_json(folder / RENDERER_FILE, renderer)
    else:
        remove(folder / RENDERER_FILE)  # of another model, which was here before
    write_manifest(folder)


def whole(tensor: Any) -> Tensor:
    """A tensor, or all parts of one that is spread over the ranks (a DTensor)."""
    out: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return out


def umask() -> int:
    """The permission bits that new files of this process lack."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def find_folder(source: str | Path, revision: str | None) -> Path:
    """The folder of a source: a path, the name of a model of this package, or "owner/name" on the Hub.

    Raises:
        FileNotFoundError, ImportError: as of `hub.download`.
        ValueError: a revision of a folder.
    """
    folder = Path(source)
    if not folder.is_dir() and (shipped := shipped_folder(source)) is not None:
        folder = shipped
    if not folder.is_dir() and is_hub_name(str(source)):
        return download(str(source), revision, [CONFIG_FILE, WEIGHTS_FILE, RENDERER_FILE, MANIFEST_FILE])
    if revision is not None:
        raise ValueError(f"revision is for names on the Hub, and {source} is a folder")
    return folder


def read_config(folder: Path, make: Callable[[Any], Config]) -> Config:
    """Read `config.json` with a function that makes a configuration from its content and checks it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or does not hold a configuration; the message names the file.
    """
    path = folder / CONFIG_FILE
    check_manifest(path)
    check_file(path)
    try:
        return make(version_0.upgraded_config(json.loads(path.read_text())))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not the configuration of a Clippo: {error}") from error


def read_weights(folder: Path, model: Model) -> Model:
    """Read `model.safetensors` into a model on the meta device.

    Shapes and dtypes come from the header alone, so that a mismatch is found before anything large is
    allocated. Floating tensors of another precision are converted.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, its tensors are not those of the model, or they are not finite numbers.
    """
    path = folder / WEIGHTS_FILE
    check_manifest(path)
    check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            unwrapped = {unwrapped_name(name): name for name in file.keys()}  # noqa: SIM118 - not a dict
            upgraded = version_0.upgraded_names(list(unwrapped))
            name_in_file = {name: unwrapped[old] for name, old in upgraded.items()}
            shapes = {
                name: version_0.upgraded_shape(unwrapped_name(old), tuple(file.get_slice(old).get_shape()))
                for name, old in name_in_file.items()
            }
            check_shapes(shapes, model.state_dict(), path, folder / CONFIG_FILE)
            dtypes = {name: file.get_slice(old).get_dtype() for name, old in name_in_file.items()}
            for name, dtype in dtypes.items():
                if dtype not in FLOATING:
                    raise ValueError(f"{path}: {name} must hold floating numbers, got {dtype}")
            weights = {}
            for name, parameter in model.state_dict().items():
                # A copy, as what safetensors returns may be the mapped file, which could be written anew.
                weight = file.get_tensor(name_in_file[name]).to(parameter.dtype, copy=True)
                if not is_finite(weight):
                    raise ValueError(f"{path}: {name} holds values that are not finite")
                weights[name] = weight.view_as(parameter)
        # `to_empty` would import half a second of torch.fx, for the layout of a tensor on the meta device.
        model.load_state_dict(weights, assign=True)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    return model


def is_finite(tensor: Tensor) -> bool:
    """Say whether all values are finite, in one pass and without a mask of the tensor's size."""
    return tensor.numel() == 0 or bool(torch.stack(tensor.aminmax()).isfinite().all())


def check_shapes(
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, Tensor],
    weights_path: Path,
    config_path: Path,
) -> None:
    shapes = {name: tuple(value.shape) for name, value in expected.items()}
    if differing := [name for name in {**shapes, **found} if shapes.get(name) != found.get(name)]:
        listed = "; ".join(
            f"{printable(name)}: expected {shapes.get(name, 'nothing')}, found {found.get(name, 'nothing')}"
            for name in differing[:3]
        )
        raise ValueError(
            f"{weights_path} does not fit {config_path}: {len(differing)} tensors differ. {listed}"
        )


def read_description(folder: Path) -> dict[str, Any] | None:
    """Read `renderer.json`, if it is there.

    Raises:
        ValueError: it is damaged, or does not describe a renderer.
    """
    path = folder / RENDERER_FILE
    check_manifest(path)
    if not path.exists():
        return None
    check_file(path)
    try:
        description = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} does not describe a renderer: {error}") from error
    if not isinstance(description, dict) or not isinstance(description.get("options", {}), dict):
        raise ValueError(f"{path} does not describe a renderer")
    return description
