"""The part of a checkpoint that is sharded: each process writes and reads what it holds.

The files are written by `torch.distributed.checkpoint` as safetensors, in the background, and can be read by
another number of processes. Nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import async_save

from clippo.errors import DamagedCheckpointError, first_line, printable
from clippo.files import MANIFEST_FILE, check_file, check_manifest, write_manifest
from clippo.training.state import TrainState, named_parameters

__all__ = ["begin", "described", "finish", "load"]


def begin(folder: Path, state: TrainState, group: dist.ProcessGroup) -> Future[Any]:
    """Copy the state and begin to write it. All processes must call this.

    Args:
        folder: the same on all processes.
        state: may change when this has returned.
        group: the processes, for nothing else, because they exchange through it in the background.

    Returns:
        What to give to `finish`.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    written = async_save(tensors_of(state), storage_writer=writer, process_group=group)
    assert isinstance(written, Future)
    return written


def finish(written: Future[Any], folder: Path, about: Mapping[str, Any] | None) -> None:
    """Wait until all processes have written their files.

    Args:
        written: from `begin`.
        folder: of the files.
        about: what else describes the checkpoint. The main process writes it, with the checksums of all
            files.

    Raises:
        OSError: one of them could not write.
    """
    try:
        written.result()
    except CheckpointException as error:
        reasons = [str(reason) for reason, _ in error.failures.values()]
        raise OSError(reasons[0] if reasons else str(error)) from error
    if about is not None:
        write_manifest(folder, **about)


def described(folder: Path, state: TrainState, step: int) -> dict[str, Any]:
    """Read what describes a checkpoint, and check its files. All processes must call this and find the same.

    Each process compares the checksums of some of the files.

    Raises:
        DamagedCheckpointError: they are not those that were written, or not those of such a state and step.
    """
    content: dict[str, Any] = {}
    problem = ""
    try:
        check_file(folder / MANIFEST_FILE)
        content = json.loads((folder / MANIFEST_FILE).read_text())
        if content["step"] != step:
            raise ValueError(f"it is of step {printable(repr(content['step']))}")
        for name in sorted(content["sha256"])[dist.get_rank() :: dist.get_world_size()]:
            check_manifest(folder / name)
        found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
        there = {name: tuple(getattr(value, "size", ())) for name, value in found.items()}
        here = {name: tuple(value.shape) for name, value in tensors_of(state).items()}
        for name in {**there, **here}:
            if there.get(name) != here.get(name):
                raise ValueError(f"{name} has shape {there.get(name)} there and {here.get(name)} here")
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
        SafetensorError,
    ) as error:
        problem = first_line(error)
    problems: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    if any(problems):
        raise DamagedCheckpointError(f"cannot read {folder}: {next(filter(None, problems))}")
    return content


def load(folder: Path, state: TrainState) -> None:
    """Read the files into the state. All processes must call this, after `described`."""
    load_tensors(tensors_of(state), storage_reader=HuggingFaceStorageReader(str(folder)))


def tensors_of(state: TrainState) -> dict[str, Tensor]:
    """All tensors of a state by name."""
    named = named_parameters(state.pairs)
    tensors = {f"weights.{name}": parameter.detach() for name, parameter in named}
    for name, parameter in named:
        values = state.optimizer.state.get(parameter, {})
        tensors |= {f"optimizer.{name}.{key}": value for key, value in values.items()}
    if state.average is not None:
        tensors |= {f"average.{name}": value.detach() for name, value in state.used.named_parameters()}
    return tensors
