"""Read and write the `.npz` checkpoints of big_vision (google-research/big_vision), the published code.

big_vision multiplies from the right (kernels are in x out), keeps the heads as an axis of their own,
stores q, k and v apart, and lays patches out as height, width, channel. `entries` is the one place that says
which of its arrays is which part of which tensor of ours; both directions follow it.
"""

from __future__ import annotations

import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isqrt, prod
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clippo.files import atomic_path
from clippo.model.clippo import Clippo, ClippoConfig
from clippo.model.text_input import RenderedTextConfig, TextRenderer
from clippo.model.tower import TowerConfig

DONT_LOAD = ("^head/", "^pre_logits/", "^MAPHead_0/", "^cls$")  # what a classifier has of its own

# What the ViTs of arXiv 2106.10270 (AugReg) call it, and what it is called since.
OLD_NAMES = (
    (re.compile(r"(encoderblock_\d+)/LayerNorm_2/"), r"\1/LayerNorm_1/"),
    (re.compile(r"/MultiHeadDotProductAttention_1/"), "/MultiHeadDotProductAttention_0/"),
    (re.compile(r"/MlpBlock_3/"), "/MlpBlock_0/"),
    (re.compile(r"^Transformer/posembed_input/pos_embedding$"), "pos_embedding"),
)
BLOCK = re.compile(r"^((?:img/)?Transformer/encoderblock)_(\d+)(/.*)$")
POS_EMBED = "pos_embedding"


def load_big_vision(
    path: str | Path,
    *,
    renderer: TextRenderer | None = None,
    image_size: int | None = None,
    text_tokens: Literal["all", "inked"] = "all",
) -> Clippo:
    """Load a CLIPPO `.npz` checkpoint, with or without the optimizer's state beside the parameters.

    The sizes are read off the arrays' shapes, and all are checked before any memory is taken. Then the arrays
    are read one after the other, so that the peak is little more than the parameters. Nothing is unpickled.

    Args:
        path: the file; its blocks may be stacked, as big_vision's `scan` option leaves them.
        renderer: draws strings; the published one by default.
        image_size: side of the images that the model will see, px; the file's by default. To another, the
            position embedding is resampled, bilinearly from corner to corner.
        text_tokens: see `RenderedTextConfig`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no `.npz`, or its arrays are not those of a CLIPPO; the first three that are
            missing, unknown or of another shape are named.
    """
    with arrays_of(path, "a CLIPPO checkpoint", prefixes=("params/", "opt/target/", "")) as arrays:
        own = infer_config(arrays)
        check(arrays, own, entries(own))
        sizes = replace(own, image_size=image_size or own.image_size)
        with torch.device("meta"):
            model = Clippo(ClippoConfig(**vars(sizes), text=RenderedTextConfig(tokens=text_tokens)), renderer)
        model = model.to_empty(device="cpu")
        copy(arrays, model, entries(own))
    return model


def load_vit(model: Clippo, path: str | Path, *, dont_load: Sequence[str] = DONT_LOAD) -> None:
    """Start the tower of a model from a ViT `.npz`, such as those of AugReg (arXiv 2106.10270).

    Names of before and after 2020 are known; a position embedding that begins with a class token loses it,
    and is resampled to the model's image size.

    Args:
        model: of the sizes of the ViT.
        path: the file.
        dont_load: regular expressions; what they find in the names of arrays, as big_vision names them
            today, is neither read from the file nor expected there, and stays as it is in the model.

    Raises:
        FileNotFoundError, ValueError: as of `load_big_vision`; the model is as it was.
    """
    skipped = re.compile("|".join(f"(?:{pattern})" for pattern in dont_load) or "(?!)")
    with arrays_of(path, "a ViT for this model", prefixes=("params/", "opt/target/", "")) as arrays:
        arrays.rename(modern_name)
        arrays.keep(lambda name: not skipped.search(name))
        shape = arrays.shapes.get(POS_EMBED, (1, 1, 1))
        positions = shape[1] if len(shape) == 3 else 0
        has_class_token = isqrt(positions) ** 2 != positions
        own = replace(
            model.config, image_size=model.config.patch_size * max(1, isqrt(positions - has_class_token))
        )
        wanted = [
            replace(entry, theirs=entry.theirs.removeprefix("img/"))
            for entry in entries(own)
            if entry.theirs.startswith("img/") and not skipped.search(entry.theirs.removeprefix("img/"))
        ]
        if has_class_token:
            width = own.width
            wanted = [
                replace(entry, shape=(1, positions, width)) if entry.theirs == POS_EMBED else entry
                for entry in wanted
            ]
        check(arrays, own, wanted)
        arrays.verify()  # before the first tensor is overwritten
        copy(arrays, model, wanted)


def save_big_vision(model: Clippo, path: str | Path, *, scan: bool = False) -> None:
    """Write the parameters of a model as big_vision would, under `params/`.

    The file appears whole or not at all.

    Args:
        model: of any dtype; written as float32.
        path: the file, "NAME.npz".
        scan: stack the blocks, as big_vision's `scan` option expects them.
    """
    with atomic_path(path) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
        for name, array in big_vision_arrays(model.state_dict(), model.config, scan=scan):
            with archive.open(f"params/{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


# -- which array is which tensor


@dataclass(frozen=True)
class Entry:
    """One array of a big_vision checkpoint, and the parameter that it goes to.

    Attributes:
        theirs: its name, without prefix.
        shape: its shape.
        ours: the tensor that it is, or is a part of, in the state of a Clippo.
        part: which of how many parts of equal height.
        kind: how it is laid out: a "kernel" of a linear layer, a "conv" kernel, or "same" but for its shape.
    """

    theirs: str
    shape: tuple[int, ...]
    ours: str
    part: tuple[int, int] = (0, 1)
    kind: Literal["kernel", "conv", "same"] = "same"

    def to_ours(self, array: Tensor, like: Tensor) -> Tensor:
        """The array in the shape of the part `like` of our tensor."""
        if self.kind == "kernel":
            return array.reshape(like.shape[1], like.shape[0]).T
        if self.kind == "conv":
            return array.permute(3, 2, 0, 1)
        return array.reshape(like.shape)

    def to_theirs(self, part: Tensor) -> Tensor:
        if self.kind == "kernel":
            part = part.T
        if self.kind == "conv":
            part = part.permute(2, 3, 1, 0)
        return part.reshape(self.shape)

    def part_of(self, tensor: Tensor) -> Tensor:
        index, count = self.part
        return tensor if count == 1 else tensor.chunk(count)[index]


def entries(config: TowerConfig) -> list[Entry]:
    """All arrays of a CLIPPO checkpoint."""
    D, H, P, M, E = config.width, config.num_heads, config.patch_size, config.mlp_dim, config.embed_dim
    found: list[Entry] = []

    def linear(ours: str, theirs: str, fan_in: int, fan_out: int) -> None:
        found.append(Entry(f"{theirs}/kernel", (fan_in, fan_out), f"{ours}.weight", kind="kernel"))
        found.append(Entry(f"{theirs}/bias", (fan_out,), f"{ours}.bias"))

    def layer_norm(ours: str, theirs: str) -> None:
        found.append(Entry(f"{theirs}/scale", (D,), f"{ours}.weight"))
        found.append(Entry(f"{theirs}/bias", (D,), f"{ours}.bias"))

    def mlp(ours: str, theirs: str) -> None:
        linear(f"{ours}.fc1", f"{theirs}/Dense_0", D, M)
        linear(f"{ours}.fc2", f"{theirs}/Dense_1", M, D)

    def projections(ours: str, theirs: str, *names: str) -> None:
        for i, name in enumerate(names):
            part, kernel, bias = (i, len(names)), (D, H, D // H), (H, D // H)
            found.append(Entry(f"{theirs}/{name}/kernel", kernel, f"{ours}.weight", part, "kernel"))
            found.append(Entry(f"{theirs}/{name}/bias", bias, f"{ours}.bias", part))

    def out_projection(ours: str, theirs: str) -> None:
        found.append(Entry(f"{theirs}/out/kernel", (H, D // H, D), f"{ours}.weight", kind="kernel"))
        found.append(Entry(f"{theirs}/out/bias", (D,), f"{ours}.bias"))

    found.append(Entry("t", (1,), "logit_scale"))
    found.append(Entry("img/embedding/kernel", (P, P, 3, D), "tower.patch_embed.weight", kind="conv"))
    found.append(Entry("img/embedding/bias", (D,), "tower.patch_embed.bias"))
    found.append(Entry(f"img/{POS_EMBED}", (1, config.num_patches, D), "tower.patch_embed.pos_embed"))
    for i in range(config.depth):
        ours, theirs = f"tower.encoder.blocks.{i}", f"img/Transformer/encoderblock_{i}"
        layer_norm(f"{ours}.norm1", f"{theirs}/LayerNorm_0")
        projections(f"{ours}.attn.qkv", f"{theirs}/MultiHeadDotProductAttention_0", "query", "key", "value")
        out_projection(f"{ours}.attn.proj", f"{theirs}/MultiHeadDotProductAttention_0")
        layer_norm(f"{ours}.norm2", f"{theirs}/LayerNorm_1")
        mlp(f"{ours}.mlp", f"{theirs}/MlpBlock_0")
    layer_norm("tower.encoder.norm", "img/Transformer/encoder_norm")
    found.append(Entry("img/MAPHead_0/probe", (1, 1, D), "tower.encoder.pool.probe"))
    projections("tower.encoder.pool.q", "img/MAPHead_0/MultiHeadDotProductAttention_0", "query")
    projections("tower.encoder.pool.kv", "img/MAPHead_0/MultiHeadDotProductAttention_0", "key", "value")
    out_projection("tower.encoder.pool.proj", "img/MAPHead_0/MultiHeadDotProductAttention_0")
    layer_norm("tower.encoder.pool.norm", "img/MAPHead_0/LayerNorm_0")
    mlp("tower.encoder.pool.mlp", "img/MAPHead_0/MlpBlock_0")
    linear("tower.encoder.head", "img/head", D, E)
    return found


def infer_config(arrays: Arrays) -> TowerConfig:
    """Sizes of the tower whose arrays these are, as far as their shapes tell."""
    shapes = arrays.shapes
    try:
        patch_size = shapes["img/embedding/kernel"][0]
        width, num_heads, _ = shapes["img/MAPHead_0/MultiHeadDotProductAttention_0/query/kernel"]
        stacked = shapes.get("img/Transformer/encoderblock/LayerNorm_1/scale")
        blocks = sum(bool(BLOCK.match(name)) and name.endswith("/LayerNorm_1/scale") for name in shapes)
        return TowerConfig(
            width=width,
            depth=stacked[0] if stacked else blocks,
            mlp_dim=shapes["img/MAPHead_0/MlpBlock_0/Dense_0/kernel"][1],
            num_heads=num_heads,
            patch_size=patch_size,
            image_size=patch_size * isqrt(shapes[f"img/{POS_EMBED}"][1]),
            embed_dim=shapes["img/head/kernel"][1],
        )
    except KeyError as error:
        raise ValueError(f"it has no array {error}") from error
    except IndexError as error:
        raise ValueError("its kernels have too few dimensions") from error


def check(arrays: Arrays, config: TowerConfig, wanted: Sequence[Entry]) -> None:
    """Raise a ValueError that names the first three arrays that are not as they should be."""
    problems: dict[str, str] = {}
    unread = set(arrays.members)
    for entry in wanted:
        name, shape = entry.theirs, entry.shape
        if (stacked := stacked_name(name)) in arrays.members:
            name, shape = stacked, (config.depth, *shape)
        unread.discard(name)
        found = arrays.members.get(name)
        if found is None:
            problems[name] = f"expected float32 {shape}, found nothing"
        elif (found.shape, found.dtype) != (shape, np.dtype(np.float32)):
            problems[name] = f"expected float32 {shape}, found {found.dtype} {found.shape}"
    problems |= {name: "not a part of it" for name in arrays.members if name in unread}
    if problems:
        listed = "; ".join(f"{name}: {problem}" for name, problem in list(problems.items())[:3])
        raise ValueError(f"{len(problems)} arrays do not fit. {listed}")


@torch.no_grad()
def copy(arrays: Arrays, model: Clippo, wanted: Sequence[Entry]) -> None:
    """Fill a model from arrays that have been checked."""
    state = model.state_dict()
    by_name: dict[str, list[Entry]] = {}
    for entry in wanted:
        stacked = stacked_name(entry.theirs)
        by_name.setdefault(stacked if stacked in arrays.members else entry.theirs, []).append(entry)
    for name, layers in by_name.items():
        # A stack is read a layer at a time, or it would be a third of all there is.
        parts = arrays.layers(name) if name == stacked_name(layers[0].theirs) else iter([arrays.read(name)])
        for entry, array in zip(layers, parts, strict=True):
            target = entry.part_of(state[entry.ours])
            tensor = torch.from_numpy(array)
            if entry.theirs.endswith(POS_EMBED):
                tensor = resample_pos_embed(tensor, target.shape[1])
            target.copy_(entry.to_ours(tensor, target))


def big_vision_arrays(
    state: Mapping[str, Tensor], config: TowerConfig, *, scan: bool = False
) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a checkpoint by name, from the tensors of a Clippo or from their gradients."""
    stacks: dict[str, list[Entry]] = {}

    def array_of(entry: Entry) -> np.ndarray:
        part = entry.part_of(state[entry.ours].detach())
        return np.asarray(entry.to_theirs(part).float().cpu().numpy())

    for entry in entries(config):
        stacked = stacked_name(entry.theirs)
        if scan and stacked is not None:
            stacks.setdefault(stacked, []).append(entry)
        else:
            yield entry.theirs, array_of(entry)
    for name, layers in stacks.items():
        yield name, np.stack([array_of(entry) for entry in layers])


def stacked_name(name: str) -> str | None:
    """`.../encoderblock_3/x` -> `.../encoderblock/x`, None for what is not in a block."""
    match = BLOCK.match(name)
    return f"{match[1]}{match[3]}" if match else None


def resample_pos_embed(pos_embed: Tensor, positions: int) -> Tensor:
    """(1, positions, D) of a square grid (1, N, D), with or without a class token before it.

    Bilinear with aligned corners, as big_vision resamples.
    """
    own = isqrt(pos_embed.shape[1])
    grid = pos_embed[:, pos_embed.shape[1] - own**2 :]
    if own**2 == positions:
        return grid
    # The reference computes in float64.
    grid_DYX = grid.double().reshape(1, own, own, -1).permute(0, 3, 1, 2)
    resampled = F.interpolate(grid_DYX, size=(isqrt(positions),) * 2, mode="bilinear", align_corners=True)
    return resampled.flatten(2).mT.to(pos_embed.dtype)


def modern_name(name: str) -> str:
    for pattern, replacement in OLD_NAMES:
        name = pattern.sub(replacement, name)
    return name


# -- the file


@dataclass(frozen=True)
class Member:
    """An array in an archive that is not read yet."""

    file: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Arrays:
    """The arrays of an open `.npz`: what they are at once, their content when it is asked for.

    Attributes:
        members: by name.
    """

    def __init__(self, archive: zipfile.ZipFile, prefixes: Sequence[str]) -> None:
        self._archive = archive
        files = [info.filename for info in archive.infolist() if info.filename.endswith(".npy")]
        prefix = next(p for p in prefixes if not p or any(name.startswith(p) for name in files))
        self.members: dict[str, Member] = {}
        for file in files:
            if not file.startswith(prefix):
                continue
            name = file.removeprefix(prefix).removesuffix(".npy")
            with archive.open(file) as content:
                shape, _, dtype = read_header(content)
            if dtype.hasobject:
                raise ValueError(f"{name} is a pickled object, which is not read")
            size, stored = prod(shape) * dtype.itemsize, archive.getinfo(file).file_size
            if stored < size:
                raise ValueError(f"{name} should take {size} bytes, and has {stored}")
            self.members[name] = Member(file, shape, dtype)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: member.shape for name, member in self.members.items()}

    def rename(self, new_name: Callable[[str], str]) -> None:
        self.members = {new_name(name): member for name, member in self.members.items()}

    def keep(self, is_kept: Callable[[str], bool]) -> None:
        self.members = {name: member for name, member in self.members.items() if is_kept(name)}

    def verify(self) -> None:
        """Read everything once, and compare it with its checksums."""
        if (broken := self._archive.testzip()) is not None:
            raise ValueError(f"{broken} is damaged")

    def read(self, name: str) -> np.ndarray:
        with self._archive.open(self.members[name].file) as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))

    def layers(self, name: str) -> Iterator[np.ndarray]:
        """The parts of an array along its first axis, one at a time."""
        with self._archive.open(self.members[name].file) as file:
            (count, *shape), is_fortran, dtype = read_header(file)
            if is_fortran:
                yield from self.read(name)
                return
            for _ in range(count):
                content = bytearray(file.read(prod(shape) * dtype.itemsize))
                yield np.frombuffer(content, dtype).reshape(shape)


# What zipfile, zlib and numpy's reader of headers raise on damaged, encrypted or foreign files.
BROKEN = (
    ValueError,
    EOFError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@contextmanager
def arrays_of(path: str | Path, expected: str, prefixes: Sequence[str]) -> Iterator[Arrays]:
    """Open a `.npz`; whatever turns out to be wrong with it is a ValueError that names the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield Arrays(archive, prefixes)
    except BROKEN as error:
        raise ValueError(f"{path} cannot be read as {expected}: {error}") from error


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and dtype of the `.npy` that a file goes on with."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)
