"""Read and write the `.npz` checkpoints of big_vision (google-research/big_vision), the published code.

big_vision multiplies from the right (kernels are in x out), keeps the heads as an axis of their own,
stores q, k and v apart, and lays patches out as height, width, channel. `entries` maps its arrays to parts of
our tensors, for reading and for writing.
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
from errno import EINVAL
from math import isqrt, prod
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from torch import Tensor

from clippo.files import atomic_path, check_file
from clippo.model.checkpoints.names import unwrapped_name
from clippo.model.checkpoints.safetensors import is_finite
from clippo.model.clippo import Clippo, ClippoConfig
from clippo.model.layers import resample_pos_embed
from clippo.model.text_input import RenderedTextConfig, TextRenderer
from clippo.model.tower import TowerConfig

__all__ = ["load_big_vision", "load_vit", "published_views", "save_big_vision", "vit_sizes"]

DONT_LOAD = (
    "^head/",
    "^pre_logits/",
    "^MAPHead_0/",
    "^cls$",
)  # arrays of a classifier that a tower does not have

# Names in the ViTs of AugReg (arXiv 2106.10270), and the names in use since.
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
    """Load a CLIPPO `.npz` checkpoint, with or without the state of the optimizer.

    The sizes are inferred from the shapes of the arrays, and all shapes are checked before memory is
    allocated. Then the arrays are read one by one, so that peak memory is little more than the parameters.
    Nothing is unpickled.

    Args:
        path: the file; its blocks may be stacked, as big_vision's `scan` option leaves them.
        renderer: draws strings; the published one by default.
        image_size: side of the images of the model in px; that of the file by default. For another size, the
            position embedding is resampled, bilinearly with aligned corners.
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


def load_vit(model: Clippo, path: str | Path, *, dont_load: Sequence[str] = DONT_LOAD) -> set[str]:
    """Start the tower of a model from a ViT `.npz`, such as those of AugReg (arXiv 2106.10270).

    Both the names before and after 2020 are supported. A class token is dropped from the position embedding,
    which is then resampled to the image size of the model.

    Args:
        model: of the sizes of the ViT.
        path: the file.
        dont_load: regular expressions. Arrays whose present big_vision name matches one are neither read nor
            required, and the model keeps its own values.

    Returns:
        The names of the tensors that were loaded.

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
    return {entry.ours for entry in wanted}


def vit_sizes(path: str | Path) -> TowerConfig:
    """The sizes of a ViT `.npz` for `load_vit`; `embed_dim`, which it does not have, is its width.

    Raises:
        FileNotFoundError, ValueError: as of `load_big_vision`.
    """
    with arrays_of(path, "a ViT", prefixes=("params/", "opt/target/", "")) as arrays:
        arrays.rename(modern_name)
        shapes = arrays.shapes
        blocks = sum(bool(BLOCK.match(name)) and name.endswith("/LayerNorm_1/scale") for name in shapes)
        block = "Transformer/encoderblock_0"
        try:
            patch_size, width = shapes["embedding/kernel"][0], shapes["embedding/kernel"][3]
            return TowerConfig(
                width=width,
                depth=blocks,
                mlp_dim=shapes[f"{block}/MlpBlock_0/Dense_0/kernel"][1],
                num_heads=shapes[f"{block}/MultiHeadDotProductAttention_0/query/kernel"][1],
                patch_size=patch_size,
                image_size=patch_size * isqrt(shapes[POS_EMBED][1]),
                embed_dim=width,
            )
        except KeyError as error:
            raise ValueError(f"it has no array {error}") from error
        except IndexError as error:
            raise ValueError("its kernels have too few dimensions") from error


def save_big_vision(model: Clippo, path: str | Path, *, scan: bool = False) -> None:
    """Write the parameters of a model as big_vision would, under `params/`.

    The file appears whole or not at all.

    Args:
        model: of any dtype; written as float32.
        path: the file, "NAME.npz".
        scan: stack the blocks, as big_vision's `scan` option expects them.
    """
    state = {unwrapped_name(name): tensor for name, tensor in model.state_dict().items()}
    with atomic_path(path) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
        for name, array in big_vision_arrays(state, model.config, scan=scan):
            with archive.open(f"params/{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


# -- which array is which tensor


@dataclass(frozen=True)
class Entry:
    """One array of a big_vision checkpoint, and the parameter that it goes to.

    Attributes:
        theirs: name of the array, without prefix.
        shape: shape of the array.
        ours: name of the tensor in the state of a Clippo that holds the array.
        part: index among the equal parts of that tensor, and their number.
        kind: layout: "kernel" of a linear layer, "conv" kernel, or "same", which differs in shape alone.
    """

    theirs: str
    shape: tuple[int, ...]
    ours: str
    part: tuple[int, int] = (0, 1)
    kind: Literal["kernel", "conv", "same"] = "same"

    def to_ours(self, array: Tensor, like: Tensor) -> Tensor:
        """Convert an array to the layout and shape of `like`, a part of our tensor."""
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


def published_views(config: TowerConfig) -> dict[str, list[Callable[[Tensor], Tensor]]]:
    """Functions that give views of our parameters in the shapes of big_vision's arrays, by their names."""
    views: dict[str, list[Callable[[Tensor], Tensor]]] = {}
    for entry in entries(config):
        views.setdefault(entry.ours, []).append(lambda t, entry=entry: entry.to_theirs(entry.part_of(t)))  # type: ignore[misc]
    return views


def infer_config(arrays: Arrays) -> TowerConfig:
    """Infer the sizes of a tower from the shapes of its arrays."""
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
    """Raise a ValueError that names the first three arrays that are missing, unknown or of another shape."""
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
        # A stack is read layer by layer, because a whole stack is a third of the checkpoint.
        parts = arrays.layers(name) if name == stacked_name(layers[0].theirs) else iter([arrays.read(name)])
        for entry, array in zip(layers, parts, strict=True):
            target = entry.part_of(state[entry.ours])
            tensor = torch.from_numpy(array)
            if not is_finite(tensor):
                raise ValueError(f"{name} holds values that are not finite")
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
    """Name of the stack that holds an array: `.../encoderblock_3/x` is in `.../encoderblock/x`; or None."""
    match = BLOCK.match(name)
    return f"{match[1]}{match[3]}" if match else None


def modern_name(name: str) -> str:
    for pattern, replacement in OLD_NAMES:
        name = pattern.sub(replacement, name)
    return name


# -- the file


@dataclass(frozen=True)
class Member:
    """An array in an archive, which has not been read."""

    file: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Arrays:
    """The arrays of an open `.npz`. Shapes and dtypes are read at once, contents when they are needed.

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
        """Read all arrays once, compare them with their checksums, and check that they are finite."""
        if (broken := self._archive.testzip()) is not None:
            raise ValueError(f"{broken} is damaged")
        for name in self.members:
            if not is_finite(torch.from_numpy(self.read(name))):
                raise ValueError(f"{name} holds values that are not finite")

    def read(self, name: str) -> np.ndarray:
        with self._archive.open(self.members[name].file) as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))

    def layers(self, name: str) -> Iterator[np.ndarray]:
        """Read the parts of an array along its first axis, one at a time."""
        with self._archive.open(self.members[name].file) as file:
            (count, *shape), is_fortran, dtype = read_header(file)
            if is_fortran:
                yield from self.read(name)
                return
            for _ in range(count):
                content = bytearray(file.read(prod(shape) * dtype.itemsize))
                yield np.frombuffer(content, dtype).reshape(shape)


# The errors of zipfile, zlib and NumPy's header reader for damaged, encrypted or foreign files.
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
    """Open a `.npz`; every fault of the file becomes a ValueError that names it."""
    try:
        check_file(Path(path))
        with zipfile.ZipFile(path) as archive:
            yield Arrays(archive, prefixes)
    except (*BROKEN, OSError) as error:
        # zipfile seeks to where the file says, which may be before its beginning.
        if isinstance(error, OSError) and error.errno != EINVAL:
            raise
        raise ValueError(f"{path} cannot be read as {expected}: {error}") from error


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of a `.npy`: shape, whether in Fortran order, and dtype."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)
