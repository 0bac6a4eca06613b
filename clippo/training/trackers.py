"""Trackers: programs that show a run while it goes on, chosen by name. A new one is a class in this file.

A tracker gets the numbers of metrics.jsonl and evaluations.jsonl, which are written with or without it.
"""

from __future__ import annotations

import importlib
import json
import os
import uuid
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from clippo.errors import UserError, first_line
from clippo.files import write_text
from clippo.model.configs import choices

__all__ = ["Tracker", "Trackers", "check_packages", "check_trackers", "open_trackers"]

WANDB_PROJECT = "clippo"  # where WANDB_PROJECT names no other
WANDB_ID_FILE = "wandb_id.txt"
FLUSH_S = 10


class Tracker(ABC):
    """A program that shows the metrics of a run. The subclasses are the choices.

    Args:
        folder: of the run, into which the tracker writes.
        config: the configuration of the run, as `to_dict` gives it.
        first_step: steps that the run has behind it. What an earlier process logged after them is dropped.
    """

    name: ClassVar[str]
    module: ClassVar[str]  # which it needs, of a package that may be missing

    @abstractmethod
    def __init__(self, folder: Path, config: Mapping[str, Any], first_step: int) -> None: ...

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show metrics, by name, after `step` steps."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left."""


class TensorBoardTracker(Tracker):
    """Event files for TensorBoard in the folder `tensorboard` of the run: `tensorboard --logdir runs`."""

    name: ClassVar[str] = "tensorboard"
    module: ClassVar[str] = "torch.utils.tensorboard"

    def __init__(self, folder: Path, config: Mapping[str, Any], first_step: int) -> None:
        SummaryWriter = load_module(self).SummaryWriter
        # TensorBoard hides the events from purge_step on that earlier files hold.
        self.writer = SummaryWriter(folder / "tensorboard", purge_step=first_step + 1, flush_secs=FLUSH_S)
        if first_step == 0:
            lines = json.dumps(config, indent=2).splitlines()
            self.writer.add_text("config", "\n".join(f"    {line}" for line in lines), 0)  # code, in Markdown

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class WandbTracker(Tracker):
    """A run of Weights & Biases, whose files lie in the folder `wandb` of the run.

    The variables of W&B hold, such as WANDB_MODE, WANDB_PROJECT and WANDB_ENTITY. Without a key or a
    connection the run is kept offline, for `wandb sync`. A resumed run goes on under the same id. Of the
    steps that W&B has already it keeps the first values, which are the same on a CPU.
    """

    name: ClassVar[str] = "wandb"
    module: ClassVar[str] = "wandb"

    def __init__(self, folder: Path, config: Mapping[str, Any], first_step: int) -> None:
        wandb = load_module(self)
        options = {
            "project": os.environ.get("WANDB_PROJECT", WANDB_PROJECT),
            "name": folder.resolve().name,
            "id": wandb_id(folder),
            "resume": "allow",
            "dir": folder,
            "config": dict(config),
            "settings": wandb.Settings(console="off"),  # does not copy what the program prints
        }
        try:
            self.run = init_wandb(wandb, options)
        except wandb.Error as error:  # such as of WANDB_PROJECT
            raise UserError(f"W&B: {first_line(error)}") from error

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log(dict(metrics), step=step)

    def close(self) -> None:
        self.run.finish()


class Trackers:
    """The open trackers of a run."""

    def __init__(self) -> None:
        self.opened: list[Tracker] = []

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show metrics after `step` steps in all trackers.

        A name without a slash is a metric of training and stands under "train/". A tracker that fails, for
        instance because the disk is full, is closed with a warning, and the run goes on.
        """
        named = {
            key if "/" in key else f"train/{key}": value for key, value in metrics.items() if key != "step"
        }
        for tracker in [*self.opened]:
            try:
                tracker.log(step, named)
            except Exception as error:
                self.opened.remove(tracker)
                message = f"{tracker.name} failed at step {step} and gets no more: {first_line(error)}"
                warnings.warn(message, stacklevel=2)
                with suppress(Exception):
                    tracker.close()

    def close(self) -> None:
        """Close all trackers; one that fails gives a warning."""
        while self.opened:
            tracker = self.opened.pop()
            try:
                tracker.close()
            except Exception as error:
                warnings.warn(f"{tracker.name} failed at the end: {first_line(error)}", stacklevel=2)


@contextmanager
def open_trackers(
    names: Sequence[str], folder: Path, config: Mapping[str, Any], first_step: int
) -> Iterator[Trackers]:
    """Build the trackers of these names, and close them when the block ends; see `Tracker` for the rest.

    Raises:
        UserError: a package is missing.
    """
    trackers = Trackers()
    try:
        for name in names:
            trackers.opened.append(choices(Tracker)[name](folder, config, first_step))
        yield trackers
    finally:
        trackers.close()


def check_trackers(names: Sequence[str]) -> None:
    """Check the names of trackers.

    Raises:
        UserError: there is no such tracker, or a name is given twice.
    """
    for number, name in enumerate(names):
        if name not in choices(Tracker):
            raise UserError(f"trackers must be among {', '.join(choices(Tracker))}, got {name!r}")
        if name in names[:number]:
            raise UserError(f"trackers must differ, got {name!r} twice")


def check_packages(names: Sequence[str]) -> None:
    """Check that the packages of trackers can be imported, before a run makes its folder.

    Raises:
        UserError: one is missing.
    """
    for name in names:
        load_module(choices(Tracker)[name])


def load_module(tracker: Tracker | type[Tracker]) -> ModuleType:
    """Import the module that a tracker needs.

    Raises:
        UserError: its package is missing.
    """
    try:
        module = importlib.import_module(tracker.module)
        if module.__file__ is None:  # a folder of this name, such as W&B leaves, in place of the package
            raise ImportError(f"{next(iter(module.__path__))} is not the package")
    except ImportError as error:
        raise UserError(
            f"the tracker {tracker.name} needs a package that cannot be imported: "
            f"pip install 'clippo-kernels[track]' ({first_line(error)})"
        ) from error
    return module


def init_wandb(wandb: ModuleType, options: Mapping[str, Any]) -> Any:
    """Begin a run of W&B, offline if W&B cannot be reached."""
    try:
        return wandb.init(**options)
    except wandb.Error as error:
        run = wandb.init(**options, mode="offline")
        files = f"{options['dir']}/wandb/offline-run-*"
        warnings.warn(f"W&B: {first_line(error)} The run is kept for `wandb sync {files}`", stacklevel=2)
        return run


def wandb_id(folder: Path) -> str:
    """The id under which W&B knows the run of a folder, made at the first call and kept there."""
    file = folder / WANDB_ID_FILE
    if not file.exists():
        write_text(file, f"{uuid.uuid4().hex[:8]}\n")
    return file.read_text(encoding="utf-8").strip()
