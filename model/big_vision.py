"""Read the `.npz` checkpoints of the reference implementation (google-research/big_vision)."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.clippo import Clippo
from model.tower import TowerConfig


def load_big_vision(path: str | Path) -> Clippo:
    """Load a CLIPPO `.npz` checkpoint, with or without the optimizer's state beside the parameters.

    The sizes are read off the arrays' shapes. Nothing is unpickled.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no `.npz`, or its arrays are not those of a CLIPPO; the first three that are
            missing, unknown or of another shape are named.
    """
    try:
        arrays = read_parameters(path)
        config = infer_config(arrays)
        state = convert(arrays, config)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a CLIPPO checkpoint: {error}") from error
    model = Clippo(config)
    model.load_state_dict(state)
    return model


def read_parameters(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays under `params/`, that prefix cut off; a file without the prefix holds parameters alone."""
    file = np.load(path, allow_pickle=False)
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise ValueError("it holds a single array")
    with file:
        prefix = "params/" if any(name.startswith("params/") for name in file.files) else ""
        return {name.removeprefix(prefix): file[name] for name in file.files if name.startswith(prefix)}


def infer_config(arrays: dict[str, np.ndarray]) -> TowerConfig:
    try:
        patch_size = arrays["img/embedding/kernel"].shape[0]
        width, heads, _ = arrays["img/MAPHead_0/MultiHeadDotProductAttention_0/query/kernel"].shape
        return TowerConfig(
            width=width,
            depth=sum(name.endswith("/LayerNorm_1/scale") for name in arrays),
            mlp_dim=arrays["img/MAPHead_0/MlpBlock_0/Dense_0/kernel"].shape[1],
            heads=heads,
            patch_size=patch_size,
            image_size=patch_size * math.isqrt(arrays["img/pos_embedding"].shape[1]),
            out_dim=arrays["img/head/kernel"].shape[1],
        )
    except KeyError as error:
        raise ValueError(f"it has no array {error}") from error
    except IndexError as error:
        raise ValueError("its kernels have too few dimensions") from error


def convert(arrays: dict[str, np.ndarray], config: TowerConfig) -> dict[str, Tensor]:
    """Rename and transpose the reference's arrays into the state of a `Clippo`.

    The reference multiplies from the right (kernels are in x out), keeps the heads as an axis of their own,
    stores q, k and v apart, and lays patches out as height, width, channel.
    """
    D, H, P, M, E = config.width, config.heads, config.patch_size, config.mlp_dim, config.out_dim
    unread = dict(arrays)
    problems: list[str] = []

    def take(name: str, *shape: int) -> Tensor:
        array = unread.pop(name, None)
        if array is None or array.shape != shape or array.dtype != np.float32:
            found = "nothing" if array is None else f"{array.dtype} {array.shape}"
            problems.append(f"{name}: expected float32 {shape}, found {found}")
            array = np.zeros(shape, np.float32)
        return torch.from_numpy(array)

    state: dict[str, Tensor] = {}

    def linear(ours: str, theirs: str, fan_in: int, fan_out: int) -> None:
        state[f"{ours}.weight"] = take(f"{theirs}/kernel", fan_in, fan_out).T
        state[f"{ours}.bias"] = take(f"{theirs}/bias", fan_out)

    def layer_norm(ours: str, theirs: str) -> None:
        state[f"{ours}.weight"] = take(f"{theirs}/scale", D)
        state[f"{ours}.bias"] = take(f"{theirs}/bias", D)

    def mlp(ours: str, theirs: str) -> None:
        linear(f"{ours}.fc1", f"{theirs}/Dense_0", D, M)
        linear(f"{ours}.fc2", f"{theirs}/Dense_1", M, D)

    def projections(ours: str, theirs: str, *names: str) -> None:
        kernels = [take(f"{theirs}/{name}/kernel", D, H, D // H) for name in names]
        biases = [take(f"{theirs}/{name}/bias", H, D // H) for name in names]
        state[f"{ours}.weight"] = torch.cat([kernel.reshape(D, D).T for kernel in kernels])
        state[f"{ours}.bias"] = torch.cat([bias.reshape(D) for bias in biases])

    def out_projection(ours: str, theirs: str) -> None:
        state[f"{ours}.weight"] = take(f"{theirs}/out/kernel", H, D // H, D).reshape(D, D).T
        state[f"{ours}.bias"] = take(f"{theirs}/out/bias", D)

    state["log_scale"] = take("t", 1)[0]
    state["tower.patch_weight"] = take("img/embedding/kernel", P, P, 3, D).permute(3, 2, 0, 1)
    state["tower.patch_bias"] = take("img/embedding/bias", D)
    state["tower.pos_embed"] = take("img/pos_embedding", 1, config.num_patches, D)
    for i in range(config.depth):
        ours, theirs = f"tower.blocks.{i}", f"img/Transformer/encoderblock_{i}"
        layer_norm(f"{ours}.norm1", f"{theirs}/LayerNorm_0")
        projections(f"{ours}.attn.qkv", f"{theirs}/MultiHeadDotProductAttention_0", "query", "key", "value")
        out_projection(f"{ours}.attn.proj", f"{theirs}/MultiHeadDotProductAttention_0")
        layer_norm(f"{ours}.norm2", f"{theirs}/LayerNorm_1")
        mlp(f"{ours}.mlp", f"{theirs}/MlpBlock_0")
    layer_norm("tower.norm", "img/Transformer/encoder_norm")
    state["tower.pool.probe"] = take("img/MAPHead_0/probe", 1, 1, D)
    projections("tower.pool.q", "img/MAPHead_0/MultiHeadDotProductAttention_0", "query")
    projections("tower.pool.kv", "img/MAPHead_0/MultiHeadDotProductAttention_0", "key", "value")
    out_projection("tower.pool.proj", "img/MAPHead_0/MultiHeadDotProductAttention_0")
    layer_norm("tower.pool.norm", "img/MAPHead_0/LayerNorm_0")
    mlp("tower.pool.mlp", "img/MAPHead_0/MlpBlock_0")
    linear("tower.head", "img/head", D, E)

    problems += [f"{name}: not a part of a CLIPPO" for name in unread]
    if problems:
        raise ValueError(f"{len(problems)} arrays do not fit. {'; '.join(problems[:3])}")
    return state
