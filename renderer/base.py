"""Base classes of the renderers, which turn strings into uint8 images and a report."""

import hashlib
import json
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from clippo.renderer.report import Outcome, RenderReport, make_report

__all__ = [
    "Renderer",
    "RendererConfig",
    "blocks",
    "checked_fonts",
    "checked_integer",
    "checked_path",
    "checked_texts",
    "hashes",
]

STRINGS_PER_BLOCK = 64  # few enough that a block's index arrays stay in the CPU's cache


@dataclass(frozen=True, kw_only=True)
class RendererConfig(ABC):
    """Options of a renderer, without the size of its images. The subclasses are the choices.

    Creating one checks its values and needs no fonts.
    """

    name: ClassVar[str]

    @abstractmethod
    def build(self, size: int) -> "Renderer":
        """Make a renderer of images with this height and width in px, with the fonts of this machine."""

    def _check_integers(self, **limits: tuple[int, int | None]) -> None:
        for name, (low, high) in limits.items():
            self._set(name, checked_integer(name, getattr(self, name), low, high))

    def _set(self, name: str, value: Any) -> None:
        """Replace a value by its normal form, while the configuration is being created."""
        object.__setattr__(self, name, value)


class Renderer(ABC):
    """Turns batches of strings into batches of grey images.

    A renderer caches its glyphs, so it should be reused. Pickling and copying keep only its configuration.
    Threads that share a renderer take turns.

    Attributes:
        size: height and width of the images in px, or the two of them.
        config: the options; each is an attribute of the renderer as well.
        num_cut: strings drawn so far that did not fit into their images.
    """

    Config: ClassVar[type[RendererConfig]]
    config: RendererConfig
    size: Any
    background: int
    ink: int

    def __init__(self, size: Any, options: dict[str, Any]) -> None:
        config = self.Config(**options)
        vars(self).update(vars(config), config=config, size=size)
        self._num_cut = 0
        self._lock = threading.Lock()

    def __setattr__(self, name: str, value: Any) -> None:
        # Glyphs that were drawn with the old options are cached.
        if not name.startswith("_"):
            raise AttributeError(
                f"{name} of a renderer cannot be changed: make another {type(self).__name__}"
            )
        super().__setattr__(name, value)

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """Make a renderer of the size and options of a `description`."""
        return cls(**description.get("options", {}))

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images, px."""

    @property
    @abstractmethod
    def row_height(self) -> int:
        """Distance from one line of text to the next, px."""

    @property
    @abstractmethod
    def description(self) -> dict[str, Any]:
        """Everything that the pixels depend on, as JSON values: font hashes, versions and options."""

    @property
    def num_cut(self) -> int:
        return self._num_cut

    @property
    def fingerprint(self) -> str:
        """SHA-256 of `description`, in hexadecimal: renderers that share it draw the same pixels."""
        return hashlib.sha256(json.dumps(self.description, sort_keys=True).encode()).hexdigest()

    def __call__(self, texts: Sequence[str], out: np.ndarray | None = None) -> np.ndarray:
        """Draw a batch of strings.

        Args:
            texts: B strings.
            out: C-contiguous uint8 array (B, height, width) to draw into, such as one that is pinned or
                shared between processes.

        Returns:
            `out`, or a new uint8 array (B, height, width), C-contiguous.

        Raises:
            TypeError: `texts` is not a sequence of strings, or `out` is not a uint8 array.
            ValueError: `out` has another shape, or is not contiguous or not writable.
        """
        return self._draw_all(checked_texts(texts), out, None)

    def render(
        self, texts: Sequence[str], out: np.ndarray | None = None, *, patch_size: int = 16
    ) -> tuple[np.ndarray, RenderReport]:
        """Draw a batch of strings, and say what could not be drawn and which patches hold ink.

        Args:
            texts, out: as of a call.
            patch_size: side of the patches of the report, px; must divide the height and the width.

        Returns:
            The images, as of a call, and the report.

        Raises:
            TypeError, ValueError: as of a call, or `patch_size` does not divide the image.
        """
        texts = checked_texts(texts)
        patch_size = checked_integer("patch_size", patch_size, 1)
        height, width = self.image_shape
        if height % patch_size or width % patch_size:
            raise ValueError(f"patch_size must divide the image, {height} x {width} px, got {patch_size}")
        outcomes: list[Outcome] = []
        out = self._draw_all(texts, out, outcomes)
        with self._lock:
            return out, make_report(texts, outcomes, self._has_glyph, out, self.background, patch_size)

    def with_height(self, height: int) -> "Renderer":
        """Return a renderer that lays text out for images of `height` px, if this one adapts to the height.

        Most layouts do not depend on the height: then it is this renderer, whose images the caller cuts.
        """
        return self

    def _draw_all(
        self, texts: Sequence[str], out: np.ndarray | None, outcomes: list[Outcome] | None
    ) -> np.ndarray:
        out = output(out, (len(texts), *self.image_shape))
        for block in blocks(len(texts)):
            with self._lock:
                self._num_cut += self._draw(list(texts[block]), out[block], outcomes, block.start)
        return out

    @abstractmethod
    def _draw(self, texts: list[str], out_BYX: np.ndarray, outcomes: list[Outcome] | None, start: int) -> int:
        """Draw a block of a batch, which begins at string `start`, and append one outcome for each string.

        Returns:
            The number of strings that do not fit.
        """

    @abstractmethod
    def _has_glyph(self, code_point_C: np.ndarray) -> np.ndarray:
        """(C,) bool."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and (self.size, self.config) == (other.size, other.config)

    def __hash__(self) -> int:
        return hash((type(self), self.size, self.config))

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in asdict(self.config).items())
        return f"{type(self).__name__}({self.size}{options})"

    def __getstate__(self) -> dict[str, Any]:
        return {"size": self.size, **vars(self.config)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def blocks(count: int, size: int = STRINGS_PER_BLOCK) -> Iterator[slice]:
    """Divide so many strings into blocks that are drawn at a time."""
    for start in range(0, count, size):
        yield slice(start, start + size)


def checked_integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if value < low or (high is not None and value > high):
        expected = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be {expected}, not {value}")
    return int(value)


def checked_path(name: str, value: Any) -> str:
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path, not {value!r}")
    return os.fspath(value)


def checked_fonts(fonts: Any) -> tuple[str, ...]:
    if isinstance(fonts, str | bytes) or not isinstance(fonts, Sequence) or not fonts:
        raise TypeError(f"fonts must be a sequence of file names, not {fonts!r}")
    return tuple(checked_path(f"fonts[{i}]", font) for i, font in enumerate(fonts))


def checked_texts(texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, str | bytes):
        raise TypeError(f"texts must be a sequence of str, not one {type(texts).__name__}: pass [text]")
    if not isinstance(texts, Sequence):
        raise TypeError(f"texts must be a sequence of str, not {type(texts).__name__}")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(
                f"texts must be a sequence of str, but texts[{position}] is {type(text).__name__}"
            )
    return texts


def output(out: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """`out` if it is fit to draw into, or a new array."""
    if out is None:
        return np.empty(shape, np.uint8)
    if not isinstance(out, np.ndarray) or out.dtype != np.uint8:
        raise TypeError(
            f"out must be a numpy array of uint8, not {getattr(out, 'dtype', type(out).__name__)}"
        )
    if out.shape != shape or not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError(
            f"out must be C-contiguous, writable and of shape {shape}, not of shape {out.shape} "
            f"with strides {out.strides}{'' if out.flags.writeable else ', read-only'}"
        )
    return out


@cache
def sha256_of_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hashes(paths: Iterable[Path]) -> list[dict[str, str]]:
    """Names and SHA-256 of font files, in the order given: two may have one name, and the first one wins."""
    return [{"file": path.name, "sha256": sha256_of_file(path)} for path in paths]
