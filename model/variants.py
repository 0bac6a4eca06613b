"""Models by name: the variants of the papers, and the checkpoints that were published."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clippo.model.checkpoints.big_vision import load_big_vision
from clippo.model.clippo import Clippo, ClippoConfig
from clippo.model.text_input import RenderedTextConfig, TextRenderer

__all__ = ["PUBLISHED", "create_model", "list_models", "named_config"]

# width, depth, mlp_dim, num_heads; the names are those of the ViT papers, So400m is from arXiv 2305.13035.
VARIANTS = {
    "mu": (32, 1, 128, 2),
    "ti": (192, 12, 768, 3),
    "s": (384, 12, 1536, 6),
    "m": (512, 12, 2048, 8),
    "b": (768, 12, 3072, 12),
    "l": (1024, 24, 4096, 16),
    "so400m": (1152, 27, 4304, 16),
    "h": (1280, 32, 5120, 16),
}
PATCH_SIZES = (8, 14, 16, 32)

SEARCH_VARIABLE = "CLIPPO_MODEL_PATH"  # folders that are searched for published files
ORIGIN = "gs://big_vision/clippo"


@dataclass(frozen=True)
class Published:
    """A checkpoint that the authors of CLIPPO published: a B/16 tower at 224 px.

    Attributes:
        data: what it was trained on; C4 stands for pairs of neighbouring sentences.
        steps: of training, in thousands.
        initialized_from: "scratch", or the weights that training started from.
        results: in percent, as its authors report them: ImageNet-1k with ten shots and zero-shot, COCO
            retrieval at rank 1 image->text and text->image, and the mean score on GLUE.
    """

    data: str
    steps: int
    initialized_from: str
    results: Mapping[str, float]


def results(*values: float | None) -> dict[str, float]:
    names = ("imagenet_10_shot", "imagenet_zero_shot", "coco_image_to_text", "coco_text_to_image", "glue")
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}


I21K = "ImageNet-21k classification"
PUBLISHED = {
    "clippo_b16_yfcc100m": Published(
        "YFCC-100M", 250, "scratch", results(38.2, 43.4, 34.7, 19.7, 58.6)
    ),
    "clippo_b16_yfcc100m_i21k_init": Published(
        "YFCC-100M", 250, I21K, results(44.7, 47.4, 36.1, 21.3, 60.7)
    ),
    "clippo_b16_yfcc100m_i21k_init_25c4": Published(
        "YFCC-100M, 25 % C4", 333, I21K, results(43.8, 44.8, 33.3, 19.4, 69.7)
    ),
    "clippo_b16_yfcc100m_i21k_init_50c4": Published(
        "YFCC-100M, 50 % C4", 500, I21K, results(41.2, 42.0, 31.4, 17.8, 75.2)
    ),
    "clippo_b16_yfcc100m_i21k_init_75c4": Published(
        "YFCC-100M, 75 % C4", 500, I21K, results(34.5, 33.4, 26.6, 14.6, 77.6)
    ),
    "clippo_b16_100c4": Published("C4", 250, "scratch", results(None, None, None, None, 78.4)),
}  # fmt: skip


def list_models() -> list[str]:
    """The names that `create_model` takes: variants ("clippo-b16"), then published checkpoints."""
    variants = [f"clippo-{variant}{patch_size}" for variant in VARIANTS for patch_size in PATCH_SIZES]
    return [*variants, *PUBLISHED]


def create_model(
    name: str,
    *,
    weights: str | Path | None = None,
    renderer: TextRenderer | None = None,
    image_size: int = 224,
    text_tokens: Literal["all", "inked"] = "all",
    **overrides: Any,
) -> Clippo:
    """Create a CLIPPO by name: a variant, new or with given weights, or a published checkpoint.

    Args:
        name: one of `list_models()`.
        weights: a `.npz` of big_vision, or a source for `Clippo.from_pretrained`. A published checkpoint is
            looked for under its file name, "NAME.npz", in the folders of CLIPPO_MODEL_PATH and in the current
            one. A variant is initialised at random.
        renderer: draws strings; the published one by default.
        image_size: side of the images in px. The position embedding of a `.npz` is resampled to it.
        text_tokens: patches of a rendered text that the tower reads; see `RenderedTextConfig`.
        overrides: other fields of `ClippoConfig`, such as `embed_dim` (768 by default).

    Raises:
        ValueError: an unknown name; weights of other sizes than asked for.
        TypeError: an override that is not a field of `ClippoConfig`.
        FileNotFoundError: the weights are not there.
    """
    if name not in list_models():
        raise ValueError(f"name must be one of {', '.join(list_models())}; got {name!r}")
    fields = {"image_size": image_size, "text": RenderedTextConfig(tokens=text_tokens), **overrides}
    config = named_config("clippo-b16" if name in PUBLISHED else name, **fields)
    if weights is None and name in PUBLISHED:
        weights = find_published(name)
    if weights is None:
        return Clippo(config, renderer)
    if str(weights).endswith(".npz"):
        model = load_big_vision(weights, renderer=renderer, image_size=image_size, text_tokens=text_tokens)
    else:
        model = Clippo.from_pretrained(weights, renderer)
    if model.config != config:
        raise ValueError(f"{weights} is not a {name} of these sizes: it is {model.config}, not {config}")
    return model


def named_config(name: str, **fields: Any) -> ClippoConfig:
    """Configuration of a variant. Published embeddings have 768 features, whatever the width.

    Args:
        name: of a variant, "clippo-" with its size and patch size.
        fields: of `ClippoConfig`, where they are to differ.

    Raises:
        ValueError: there is no such variant, or sizes do not fit.
    """
    match = re.fullmatch(rf"clippo-([a-z0-9]+?)({'|'.join(map(str, PATCH_SIZES))})", name)
    if match is None or match[1] not in VARIANTS:
        raise ValueError(f"name must be one of {', '.join(list_models())}; got {name!r}")
    width, depth, mlp_dim, num_heads = VARIANTS[match[1]]
    sizes = {"width": width, "depth": depth, "mlp_dim": mlp_dim, "num_heads": num_heads}
    patches = {"patch_size": int(match[2]), "image_size": 224, "embed_dim": 768}
    return ClippoConfig(**{**sizes, **patches, **fields})


def find_published(name: str) -> Path:
    """Find the file of a published checkpoint."""
    folders = [*filter(None, os.environ.get(SEARCH_VARIABLE, "").split(os.pathsep)), "."]
    for folder in folders:
        path = Path(folder).expanduser() / f"{name}.npz"
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{name}.npz is in none of the folders {', '.join(folders)}: fetch it from {ORIGIN}/{name}.npz, and "
        f"name its folder in {SEARCH_VARIABLE}"
    )
