"""Renderers by name, and from the description that a checkpoint keeps.

Both find the renderers of all modules of this package, so that a new one is one new module.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from clippo.renderer.base import Renderer, RendererConfig

__all__ = ["from_description", "renderer_configs"]


def import_renderers() -> None:
    """Import all modules of the package, so that every subclass exists."""
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


def renderer_configs() -> dict[str, type[RendererConfig]]:
    """The configurations of all renderers by name."""
    import_renderers()
    return {config.name: config for config in RendererConfig.__subclasses__()}


def all_renderers(parent: type[Renderer] = Renderer) -> dict[str, type[Renderer]]:
    """The classes below one, by name."""
    found = {child.__name__: child for child in parent.__subclasses__()}
    return found | {name: kind for child in found.values() for name, kind in all_renderers(child).items()}


def from_description(description: Mapping[str, Any]) -> Renderer:
    """Make a renderer of the kind and options of a `Renderer.description`, with the fonts of this machine.

    The description of the new renderer differs where fonts or versions differ.

    Raises:
        ValueError: not the description of a renderer, or one with options that it does not have.
        FontNotFoundError, SystemLibraryError: as of the renderers.
    """
    import_renderers()
    kind = str(description.get("renderer"))
    renderers = all_renderers()
    if kind not in renderers:
        raise ValueError(f"not the description of a renderer: {kind!r}")
    try:
        return renderers[kind].from_description(description)
    except TypeError as error:
        raise ValueError(f"not the options of a {kind}: {error}") from error
