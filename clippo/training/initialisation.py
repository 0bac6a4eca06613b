"""The weights that a run begins with, where they are those of another model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from clippo.errors import UserError
from clippo.model import Clippo, ClippoConfig, RenderedTextConfig, load_vit
from clippo.model.configs import flat, to_dict
from clippo.model.layers import resample_pos_embed
from clippo.training.run_folder import load_model

__all__ = ["initialise"]


def initialise(model: Clippo, source: str) -> str:
    """Begin with the weights of another model.

    Of a model for images of another size, the position embedding is resampled, bilinearly with aligned
    corners. One that reads all patches of a text may go on with the inked ones.

    Args:
        model: gets the weights.
        source: a run, a folder of `save_pretrained`, "hf://owner/name", a CLIPPO `.npz` of big_vision, or a
            ViT `.npz` such as those of AugReg, of which the pooling and the head are not taken.

    Returns:
        A line that says how many tensors were loaded, and names those that were resampled or are new.

    Raises:
        UserError: it cannot be read, or has another architecture. The model is as it was.
    """
    try:
        other = load_model(source)
    except UserError as error:
        if not source.endswith(".npz"):
            raise
        return initialise_from_vit(model, source, error)
    check_alike(other.config, model.config, source)
    own, given = model.state_dict(), other.state_dict()
    resampled = [name for name in own if own[name].shape != given[name].shape]
    for name in resampled:
        given[name] = resample_pos_embed(given[name], own[name].shape[1])
    model.load_state_dict(given)
    return told(source, len(own), resampled=resampled)


def check_alike(theirs: ClippoConfig, ours: ClippoConfig, source: str) -> None:
    """Check that models differ in the size of their images and in which patches of a text they read alone.

    Raises:
        UserError: they differ in more.
    """
    if isinstance(theirs.text, RenderedTextConfig) and isinstance(ours.text, RenderedTextConfig):
        theirs = replace(theirs, text=ours.text)
    there, here = flat(to_dict(replace(theirs, image_size=ours.image_size))), flat(to_dict(ours))
    for name in {**there, **here}:
        if there.get(name) != here.get(name):
            raise UserError(
                f"the model of init_from, {source}, must have the configuration of the run: model.{name} is "
                f"{there.get(name)} there and {here.get(name)} here"
            )


def initialise_from_vit(model: Clippo, source: str, error: UserError) -> str:
    """Begin with the tower of a ViT; `error` says why the file is no CLIPPO."""
    try:
        loaded = load_vit(model, source)
    except (ValueError, OSError) as other:
        raise UserError(f"{error}; and {other}") from other
    return told(source, len(loaded), new=[name for name in model.state_dict() if name not in loaded])


def told(source: str, count: int, *, resampled: Sequence[str] = (), new: Sequence[str] = ()) -> str:
    line = f"weights of {source}: {count} tensors"
    line += f", of which {', '.join(resampled)} was resampled" if resampled else ""
    return line + (f"; {len(new)} are new: {', '.join(new)}" if new else "")
