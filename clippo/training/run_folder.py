"""The folder of a training run.

    config.json                  the configuration
    metrics.jsonl                a line every few steps
    evaluations.jsonl            a line an evaluation
    checkpoints/step-001500/     config.json, model.safetensors and renderer.json (a folder of
                                 `Clippo.save_pretrained`), and state.pt (the step, and the state of the
                                 optimizer and of the loss)
    results.json, *.png          the evaluation at the end

A checkpoint appears whole or not at all. The one before it is removed only then.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from clippo.errors import UserError
from clippo.files import atomic_path, write_text
from clippo.model import Clippo, load_big_vision
from clippo.model.configs import flat, from_dict, to_dict
from clippo.training.config import TrainConfig
from clippo.training.losses import Loss

__all__ = ["RunFolder", "load_model"]


class RunFolder:
    """A folder of a run, which need not exist yet."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.evaluations_file = self.path / "evaluations.jsonl"
        self.checkpoints = self.path / "checkpoints"

    def create(self, config: TrainConfig, *, resume: bool) -> None:
        """Make the folder ready for a run of `config`, without touching anything that is there.

        Raises:
            UserError: it cannot be written; it holds a run and `resume` is False; it holds a run of another
                configuration; it holds something that is not a run.
        """
        if self.config_file.exists():
            if not resume:
                raise UserError(
                    f"{self.path} holds a run already: add --resume to continue it, or choose another --out"
                )
            before, now = flat(to_dict(self.config())), flat(to_dict(config))
            if differing := [key for key in {**before, **now} if before.get(key) != now.get(key)]:
                key = differing[0]
                raise UserError(
                    f"{self.path} holds a run of another configuration: {key} is {before.get(key)} there and "
                    f"{now.get(key)} here"
                    + (f" (and {len(differing) - 1} more differ)" if differing[1:] else "")
                )
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if any(self.path.iterdir()):
                raise UserError(f"{self.path} is not empty and holds no run; choose another --out")
            write_text(self.config_file, json.dumps(to_dict(config), indent=2) + "\n")
        except OSError as error:
            raise UserError(f"cannot write into {self.path}: {error.strerror}") from error

    def config(self) -> TrainConfig:
        """Read the configuration of the run.

        Raises:
            UserError: the folder holds no run, or one whose configuration cannot be read.
        """
        if not self.config_file.is_file():
            raise UserError(f"{self.path} is not the folder of a run: it has no config.json")
        try:
            content = json.loads(self.config_file.read_text())
            if isinstance(content, dict) and "clip_norm" in content:
                raise ValueError(
                    "it was written by version 0.1.0. The model of such a run can be loaded and exported, "
                    "but the run cannot be resumed"
                )
            return from_dict(TrainConfig, content)
        except (ValueError, TypeError) as error:
            raise UserError(f"{self.config_file} is not the configuration of a run: {error}") from error

    def newest_checkpoint(self) -> Path | None:
        """The folder of the checkpoint of the latest step, None where there is none."""
        # A name with anything but digits is not that of a checkpoint.
        found = [path for path in self.checkpoints.glob("step-*") if path.name[5:].isdecimal()]
        return max(found, key=lambda path: int(path.name[5:]), default=None)

    def save_checkpoint(self, step: int, model: Clippo, loss: Loss, optimizer: torch.optim.Optimizer) -> None:
        """Write the state after `step` steps, then remove the checkpoints before it."""
        final = self.checkpoints / f"step-{step:06d}"
        self.checkpoints.mkdir(exist_ok=True)
        state = {"step": step, "optimizer": optimizer.state_dict(), "loss": loss.state_dict()}
        with atomic_path(final) as unfinished:
            model.save_pretrained(unfinished)
            torch.save(state, unfinished / "state.pt")
        for path in self.checkpoints.glob("step-*"):
            if path != final:
                shutil.rmtree(path)

    def load_checkpoint(self, model: Clippo, loss: Loss, optimizer: torch.optim.Optimizer) -> int:
        """Restore the newest checkpoint into a model, its loss and its optimizer.

        Returns:
            The step that it was written after; 0, and nothing is restored, where there is no checkpoint.

        Raises:
            UserError: the checkpoint is of a model of other sizes, or cannot be read.
        """
        folder = self.newest_checkpoint()
        if folder is None:
            return 0
        saved = read_checkpoint(folder)
        if saved.config != model.config:
            raise UserError(f"{folder} is of another configuration: {saved.config}, not {model.config}")
        model.load_state_dict(saved.state_dict())
        try:
            state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
            optimizer.load_state_dict(state["optimizer"])
            loss.load_state_dict(state["loss"])
            return int(state["step"])
        except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError, OSError) as error:
            raise UserError(f"cannot read {folder / 'state.pt'}: {first_line(error)}") from error

    def load_model(self) -> Clippo:
        """Read the model of the newest checkpoint, ready to use.

        Raises:
            UserError: the folder holds no run, or one without a checkpoint, or what it holds cannot be read.
        """
        if not self.config_file.is_file():
            raise UserError(f"{self.path} is not the folder of a run: it has no config.json")
        checkpoint = self.newest_checkpoint()
        if checkpoint is None:
            raise UserError(f"{self.path} has no checkpoint yet")
        return read_checkpoint(checkpoint).eval()

    def append_metrics(self, metrics: Mapping[str, float]) -> None:
        append_line(self.metrics_file, metrics)

    def append_evaluation(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep the rows of an evaluation after `step` steps."""
        own = {f"{row['evaluator']}/{row['metric']}": row["value"] for row in rows}
        append_line(self.evaluations_file, {"step": step, **own})

    def drop_metrics_after(self, step: int) -> None:
        """Remove the lines that a run wrote between its last checkpoint and its end."""
        for file in (self.metrics_file, self.evaluations_file):
            if file.exists():
                lines = file.read_text().splitlines(keepends=True)
                whole = [line for line in lines if line.endswith("\n")]  # the last may have been cut off
                write_text(file, "".join(line for line in whole if json.loads(line)["step"] <= step))


def load_model(source: str | Path) -> Clippo:
    """Read the model of a run, of a folder of `Clippo.save_pretrained`, or of a `.npz` of big_vision.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    run = RunFolder(source)
    if run.checkpoints.is_dir():
        return run.load_model()
    try:
        is_npz = str(source).endswith(".npz")
        return (load_big_vision(source) if is_npz else Clippo.from_pretrained(source)).eval()
    except (ValueError, OSError, ImportError) as error:
        raise UserError(f"cannot read a model from {source}: {first_line(error)}") from error


def read_checkpoint(folder: Path) -> Clippo:
    try:
        return Clippo.from_pretrained(folder)
    except (ValueError, OSError) as error:
        raise UserError(f"cannot read the checkpoint {folder}: {first_line(error)}") from error


def append_line(file: Path, content: Mapping[str, Any]) -> None:
    with file.open("a") as lines:
        lines.write(json.dumps(content) + "\n")


def first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
