"""Checkpoints: the files of a step, written by one process or by all, and checked before they are restored.

    config.json, renderer.json,      a folder of `Clippo.save_pretrained`, with the mean of the weights, if
    model.safetensors, manifest.json the run keeps one
    state.pt                         the step, the state of the optimizer and of the loss, checksums of the
                                     data and the renderer, and the weights, if the first are their mean
    state/                           in place of state.pt, if the parameters are sharded: a file of each
                                     process with its part of the weights, their mean and the state of the
                                     optimizer, and a manifest.json with the rest

Sharded state is written by `torch.distributed.checkpoint` in the background. It can be restored by another
number of processes.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from clippo.errors import DamagedCheckpointError, UserError, first_line, printable
from clippo.files import check_file, check_manifest
from clippo.model import Clippo
from clippo.model.checkpoints.safetensors import is_finite
from clippo.training.state import TrainState

__all__ = ["STATE_FOLDER", "about", "read_checkpoint", "restore", "step_of", "write"]

STATE_FILE, STATE_FOLDER = "state.pt", "state"


def write(folder: Path, step: int, state: TrainState, fingerprints: Mapping[str, str]) -> None:
    """Write the files of a checkpoint into a folder that exists.

    Raises:
        OSError, RuntimeError: a file cannot be written.
    """
    content = {**about(step, state, fingerprints), "optimizer": state.optimizer.state_dict()}
    content["loss"] = state.loss.state_dict()
    if state.average is not None:
        content["weights"] = state.model.state_dict()
    torch.save(content, folder / STATE_FILE)
    state.used.save_pretrained(folder)  # whose manifest covers all files of the folder


def about(step: int, state: TrainState, fingerprints: Mapping[str, str]) -> dict[str, Any]:
    """What describes a checkpoint beside its tensors.

    `fingerprints` are checksums of what the run depends on beside its configuration, such as the data.
    """
    taken = next(iter(state.optimizer.state.values()))["step"]  # fewer than `step` if some were skipped
    return {
        "step": step,
        "skipped": step - int(taken),
        "left_out": state.left_out,
        "fingerprints": dict(fingerprints),
    }


def restore(folder: Path, state: TrainState, fingerprints: Mapping[str, str]) -> int:
    """Restore a checkpoint and return its step. If the parameters are sharded, all processes must call this.

    Raises:
        DamagedCheckpointError: it cannot be read. The state is as it was.
        UserError: it is of another model, of a run on other data or with another renderer, or was written
            with another `parallel`.
    """
    is_sharded = (folder / STATE_FOLDER).is_dir()
    if is_sharded != state.is_sharded:
        there, here = ("fsdp", "ddp") if is_sharded else ("ddp", "fsdp")
        raise UserError(f"{folder} was written with parallel {there}, and cannot go on with parallel {here}")
    if is_sharded:
        from clippo.training import sharded  # torch.distributed.checkpoint takes half a second to import

        fill_state(state.optimizer)
        content = sharded.described(folder / STATE_FOLDER, state, step_of(folder))
    else:
        content = checked_whole(folder, state)
    then = content.get("fingerprints", fingerprints)  # earlier versions wrote none
    if differing := [name for name in fingerprints if then.get(name) != fingerprints[name]]:
        raise UserError(
            f"the {' and the '.join(differing)} are not what {folder.parents[1]} was trained with, for "
            "instance because of another font, package or folder; a run cannot go on with them"
        )
    if is_sharded:
        sharded.load(folder / STATE_FOLDER, state)
    else:
        state.optimizer.load_state_dict(content["optimizer"])
        state.loss.load_state_dict(content["loss"])
        state.model.load_state_dict(content["weights"])
        if state.average is not None:
            state.used.load_state_dict(content["used"])
    state.left_out = content.get("left_out", 0)
    if state.average is not None:
        state.average.n_averaged.fill_(step_of(folder))
    return step_of(folder)


def checked_whole(folder: Path, state: TrainState) -> dict[str, Any]:
    """Read a checkpoint of one process and check that it fits the state.

    Raises:
        DamagedCheckpointError: it cannot be read.
        UserError: it is of another model.
    """
    saved = read_checkpoint(folder)
    if saved.config != state.model.config:
        raise UserError(f"{folder} is of another configuration: {saved.config}, not {state.model.config}")
    file = folder / STATE_FILE
    try:
        check_manifest(file)
        check_file(file)
        content: dict[str, Any] = torch.load(file, weights_only=True, map_location="cpu")
        if content["step"] != step_of(folder):
            raise ValueError(f"it is of step {printable(repr(content['step']))}")
        taken = step_of(folder) - content.get("skipped", 0)
        content["optimizer"] = checked_optimizer_state(content["optimizer"], state.optimizer, taken)
        check_tensors("loss", content["loss"], state.loss.state_dict())
        content["used"] = saved.state_dict()
        if state.average is None:
            content["weights"] = content["used"]
        check_tensors("weights", content["weights"], state.model.state_dict())
    except UNREADABLE as error:
        raise DamagedCheckpointError(f"cannot read {file}: {first_line(error)}") from error
    return content


def read_checkpoint(folder: Path) -> Clippo:
    try:
        return Clippo.from_pretrained(folder)
    except (ValueError, OSError) as error:
        raise DamagedCheckpointError(f"cannot read the checkpoint {folder}: {first_line(error)}") from error


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name[5:])


# Errors that reading a damaged or forged state.pt raises.
UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    EOFError, OSError,
)  # fmt: skip


def checked_optimizer_state(found: Any, optimizer: torch.optim.Optimizer, step: int) -> dict[str, Any]:
    """Check the state of an optimizer from a file against the one that it has after a step.

    PyTorch compares nothing but the numbers of parameters, and a fused step with moments of other shapes
    writes outside of its memory. Learning rates, decays and so on are those of the new optimizer.

    Raises:
        ValueError: the tensors are not those of the parameters, not finite, or not those of this step.
    """
    own = state_after_a_step(optimizer)
    groups = [group["params"] for group in own["param_groups"]]
    if [group["params"] for group in found["param_groups"]] != groups:
        raise ValueError("the optimizer has other parameters")
    if found["state"].keys() != own["state"].keys():
        raise ValueError("the optimizer has no state for some parameters")
    state = {}
    for index, expected in own["state"].items():
        values, name = found["state"][index], f"optimizer.{index}"
        check_tensors(name, values, expected)
        if "step" in expected and values["step"] != step:
            raise ValueError(f"{name}.step must be {step}, got {values['step'].item()}")
        if "exp_avg_sq" in expected and (values["exp_avg_sq"] < 0).any():
            raise ValueError(f"{name}.exp_avg_sq is a mean of squares and holds negative values")
        # With strides of its own: those of the file may repeat an element.
        state[index] = {key: value.clone().contiguous() for key, value in values.items()}
    return {"state": state, "param_groups": own["param_groups"]}


def state_after_a_step(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of a new optimizer after a step that changes no weight, for its names, shapes and dtypes."""
    fill_state(optimizer)
    state = optimizer.state_dict()
    optimizer.state.clear()
    return state


def fill_state(optimizer: torch.optim.Optimizer) -> None:
    """Make the state of a new optimizer by a step that changes no weight."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.found_inf = torch.ones((), device=parameters[0].device)  # type: ignore[attr-defined]
    optimizer.step()
    optimizer.zero_grad()


def check_tensors(name: str, found: Mapping[str, Any], expected: Mapping[str, torch.Tensor]) -> None:
    """Check that tensors have the names, shapes and dtypes that are expected, and finite values.

    Raises:
        ValueError: something differs; the message names it.
    """
    if found.keys() != expected.keys():
        names = ", ".join(printable(str(key)) for key in found)
        raise ValueError(f"{name} must hold {', '.join(expected) or 'nothing'}, got {names or 'nothing'}")
    for key, own in expected.items():
        value = found[key]
        if not isinstance(value, torch.Tensor) or (value.shape, value.dtype) != (own.shape, own.dtype):
            got = (
                f"{value.dtype} {tuple(value.shape)}"
                if isinstance(value, torch.Tensor)
                else printable(repr(value))
            )
            raise ValueError(f"{name}.{key} must be {own.dtype} {tuple(own.shape)}, got {got}")
        if not is_finite(value):
            raise ValueError(f"{name}.{key} holds values that are not finite")
