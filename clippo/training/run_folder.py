"""The folder of a training run.

    config.json                  what was asked for
    metrics.jsonl                one line every few steps
    checkpoints/step-001500/     config.json, model.safetensors and renderer.json (a folder of
                                 `Clippo.save_pretrained`), and state.pt (the optimizer's state, and the step)
    results.json, retrieval.png  the evaluation at the end

A checkpoint appears whole or not at all: it is written beside its place, flushed to the disk and renamed. The
one before it is removed only then.
"""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import torch

from clippo.data.emoji import EmojiDataset
from clippo.errors import UserError
from clippo.model import Clippo, ClippoConfig, RenderedTextConfig, load_big_vision
from clippo.model.configs import flat, from_dict, to_dict
from clippo.model.files import atomic_path, write_text
from clippo.model.text_input import TextRenderer
from clippo.renderer import UnifontRenderer
from clippo.training.config import TrainConfig


class RunFolder:
    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.metrics_file = self.path / "metrics.jsonl"
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
                    f"{self.path} holds a run already: add --resume to go on, or choose another --out"
                )
            before, now = flat(to_dict(self.config())), flat(to_dict(config))
            if differing := [key for key in now if before.get(key) != now[key]]:
                key = differing[0]
                raise UserError(
                    f"{self.path} holds a run of another configuration: {key} is {before.get(key)} there and "
                    f"{now[key]} here" + (f" (and {len(differing) - 1} more differ)" if differing[1:] else "")
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
        """The configuration of the run.

        Raises:
            UserError: the folder holds no run, or one whose configuration cannot be read.
        """
        if not self.config_file.is_file():
            raise UserError(f"{self.path} is not the folder of a run: it has no config.json")
        try:
            return from_dict(TrainConfig, json.loads(self.config_file.read_text()))
        except (ValueError, TypeError) as error:
            raise UserError(f"{self.config_file} is not the configuration of a run: {error}") from error

    def newest_checkpoint(self) -> Path | None:
        """Folder of the checkpoint of the latest step, None where there is none."""
        # A name with anything but digits is no checkpoint of ours.
        found = [path for path in self.checkpoints.glob("step-*") if path.name[5:].isdecimal()]
        return max(found, key=lambda path: int(path.name[5:]), default=None)

    def save_checkpoint(self, step: int, model: Clippo, optimizer: torch.optim.Optimizer) -> None:
        """Write the state after `step` steps, then remove the checkpoints before it."""
        final = self.checkpoints / f"step-{step:06d}"
        self.checkpoints.mkdir(exist_ok=True)
        with atomic_path(final) as unfinished:
            model.save_pretrained(unfinished)
            torch.save({"step": step, "optimizer": optimizer.state_dict()}, unfinished / "state.pt")
        for path in self.checkpoints.glob("step-*"):
            if path != final:
                shutil.rmtree(path)

    def load_checkpoint(self, model: Clippo, optimizer: torch.optim.Optimizer) -> int:
        """Restore the newest checkpoint into a model and its optimizer.

        Returns:
            The step that it was written after; 0, and nothing is restored, where there is no checkpoint.

        Raises:
            UserError: the checkpoint is of a tower of other sizes, or cannot be read.
        """
        folder = self.newest_checkpoint()
        if folder is None:
            return 0
        model.load_state_dict(load_model(folder, model.config, None).state_dict())
        try:
            state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
            optimizer.load_state_dict(state["optimizer"])
            return state["step"]
        except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError, OSError) as error:
            raise UserError(f"cannot read {folder / 'state.pt'}: {first_line(error)}") from error

    def load(self) -> tuple[Clippo, EmojiDataset]:
        """The model of the newest checkpoint, ready to use, and the run's data set.

        Raises:
            UserError: the folder holds no run, or one without a checkpoint, or what it holds cannot be read.
        """
        config = self.config()
        model = self.load_model()
        return model, EmojiDataset(config.data, UnifontRenderer(config.model.image_size), seed=config.seed)

    def load_model(self) -> Clippo:
        """The model of the newest checkpoint, ready to use.

        Raises:
            UserError: as of `load`.
        """
        config = self.config()
        checkpoint = self.newest_checkpoint()
        if checkpoint is None:
            raise UserError(f"{self.path} has no checkpoint yet")
        is_rendered = isinstance(config.model.text, RenderedTextConfig)
        renderer = UnifontRenderer(config.model.image_size) if is_rendered else None
        return load_model(checkpoint, config.model, renderer).eval()

    def append_metrics(self, metrics: dict[str, float]) -> None:
        with self.metrics_file.open("a") as file:
            file.write(json.dumps(metrics) + "\n")

    def drop_metrics_after(self, step: int) -> None:
        """Forget the lines that a run wrote between its last checkpoint and its end."""
        if self.metrics_file.exists():
            lines = self.metrics_file.read_text().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]  # the last may have been cut off
            write_text(self.metrics_file, "".join(line for line in whole if json.loads(line)["step"] <= step))


def load_any(source: str) -> Clippo:
    """The model of a run, of a folder of `Clippo.save_pretrained`, or of a `.npz` of the reference.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    run = RunFolder(source)
    if run.checkpoints.is_dir():
        return run.load_model()
    try:
        return load_big_vision(source) if source.endswith(".npz") else Clippo.from_pretrained(source)
    except (ValueError, OSError, ImportError) as error:
        raise UserError(f"cannot read a model from {source}: {first_line(error)}") from error


def load_model(checkpoint: Path, config: ClippoConfig, renderer: TextRenderer | None) -> Clippo:
    try:
        model = Clippo.from_pretrained(checkpoint, renderer)
    except (ValueError, OSError) as error:
        raise UserError(f"cannot read the checkpoint {checkpoint}: {first_line(error)}") from error
    if model.config != config:
        raise UserError(f"{checkpoint} is of another configuration: {model.config}, not {config}")
    return model


def first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
