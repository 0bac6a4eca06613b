"""A renderer from the description of one, such as a checkpoint keeps."""

from collections.abc import Mapping
from typing import Any

from clippo.renderer.base import Renderer
from clippo.renderer.paragraph import ParagraphRenderer
from clippo.renderer.unifont import UnifontRenderer


def from_description(description: Mapping[str, Any]) -> Renderer:
    """A renderer of the kind and options that `Renderer.description` gave, with the fonts of this machine.

    Its own description differs where fonts or versions do.

    Raises:
        ValueError: no description of a renderer, or one with options that it does not have.
        FontNotFoundError, SystemLibraryError: as of the renderers.
    """
    kind, options = description.get("renderer"), dict(description.get("options", {}))
    try:
        if kind == "UnifontRenderer":
            return UnifontRenderer(**options)
        if kind == "ParagraphRenderer":
            return ParagraphRenderer(**options, fonts=list(description.get("fonts", {})))
    except TypeError as error:
        raise ValueError(f"not the options of a {kind}: {error}") from error
    raise ValueError(f"not the description of a renderer: {kind!r}")
