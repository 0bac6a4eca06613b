"""The folder of a training run.

    config.json                  the configuration
    metrics.jsonl                a line every few steps
    evaluations.jsonl            a line an evaluation
    rejected.jsonl               a line for each example that could not be read, with the reason
    checkpoints/step-001500/     see `clippo.training.checkpoint`
    results.json, *.png          the evaluation at the end
    curves.png                   the learning curves
    tensorboard/, wandb/         what trackers keep, and wandb_id.txt, the id of the run at W&B
    embeddings.safetensors       the embeddings of `clippo search`

A checkpoint appears whole or not at all, and only then are older ones removed, as the configuration says. If
the newest is damaged, the run goes on from the one before. Copies under other names, such as `step-best`, are
left alone. One process at a time writes into a folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from clippo.data.transform import TransformConfig
from clippo.errors import DamagedCheckpointError, UserError, first_line
from clippo.files import UNFINISHED, atomic_path, check_file, remove, sha256, write_text
from clippo.model import Clippo, load_big_vision
from clippo.model.checkpoints.shipped import shipped_folder, shipped_models
from clippo.model.configs import flat, from_dict, to_dict
from clippo.model.text_input import RenderedText
from clippo.training import checkpoint
from clippo.training.checkpoint import STATE_FOLDER, read_checkpoint, restore, step_of
from clippo.training.config import TrainConfig
from clippo.training.state import TrainState

__all__ = ["RunFolder", "load_model", "trained_transform", "with_renderer"]

HUB = "hf://"
CHANGEABLE = (
    "steps", "log_every", "checkpoint_every", "checkpoint_minutes", "keep_checkpoints", "keep_every",
    "eval_every", "workers", "trackers",
)  # fmt: skip


class RunFolder:
    """A folder of a run, which need not exist yet."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.evaluations_file = self.path / "evaluations.jsonl"
        self.rejected_file = self.path / "rejected.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self._lock: int | None = None
        self._saving: Future[Any] | None = None
        self._background = ThreadPoolExecutor(1)  # writes sharded checkpoints
        self._group: dist.ProcessGroup | None = None  # exchanges what this takes
        self._keep_checkpoints, self._keep_every = 1, 0

    def create(self, config: TrainConfig, *, resume: bool) -> None:
        """Make the folder ready for a run of `config`, and keep other processes out until `release`.

        Nothing that is there is touched, but for the configuration of a run that is resumed with another
        length or other intervals.

        Raises:
            UserError: it cannot be written; it holds a run and `resume` is False; it holds a run of another
                configuration; it holds something that is not a run; another process is training in it.
        """
        self._acquire()
        self._keep_checkpoints, self._keep_every = config.keep_checkpoints, config.keep_every
        try:
            self._create(config, resume=resume)
        except OSError as error:
            self.release()
            raise UserError(f"cannot write into {self.path}: {error.strerror}") from error
        except BaseException:
            self.release()
            raise

    def _create(self, config: TrainConfig, *, resume: bool) -> None:
        if os.path.lexists(self.checkpoints) and not self.checkpoints.is_dir():
            raise UserError(f"{self.checkpoints} must be a folder; choose another --out")
        for file in (self.metrics_file, self.evaluations_file, self.rejected_file):
            if file.exists() and not file.is_file():
                raise UserError(f"{file} must be a file; choose another --out")
        if self.config_file.exists():
            if not resume:
                raise UserError(
                    f"{self.path} holds a run already: add --resume to continue it, or choose another --out"
                )
            before, now = flat(to_dict(self.config())), flat(to_dict(config))
            differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
            if fixed := [key for key in differing if key not in CHANGEABLE]:
                key = fixed[0]
                raise UserError(
                    f"{self.path} holds a run of another configuration: {key} is {before.get(key)} there and "
                    f"{now.get(key)} here" + (f" (and {len(fixed) - 1} more differ)" if fixed[1:] else "")
                )
            self.remove_old_checkpoints()
            if not differing:
                return
        elif any(not path.name.startswith(UNFINISHED) for path in self.path.iterdir()):
            raise UserError(f"{self.path} is not empty and holds no run; choose another --out")
        write_text(self.config_file, json.dumps(to_dict(config), indent=2) + "\n")

    def _acquire(self) -> None:
        """Lock the folder for this process; the system drops the lock when the process ends."""
        self.release()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise UserError(f"another process is training in {self.path}") from error
        except OSError as error:
            raise UserError(f"cannot write into {self.path}: {error.strerror}") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Context that makes the folder if it is missing, and keeps other processes out of it.

        Raises:
            UserError: it cannot be written, or another process is training in it.
        """
        self._acquire()
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Let other processes write into the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

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
        return max(self.own_checkpoints(), key=step_of, default=None)

    def own_checkpoints(self) -> list[Path]:
        """The folders that `save_checkpoint` wrote; others, such as `step-best`, are a user's copies."""
        return [path for path in self.checkpoints.glob("step-*") if path.name[5:].isdecimal()]

    def remove_old_checkpoints(self) -> None:
        """Remove the checkpoints that the run does not keep, and what killed processes have left."""
        for path in self.checkpoints.glob(f"{UNFINISHED}*"):
            remove(path)
        for path in sorted(self.own_checkpoints(), key=step_of)[: -self._keep_checkpoints]:
            if not self._keep_every or step_of(path) % self._keep_every:
                remove(path)

    def save_checkpoint(self, step: int, state: TrainState, fingerprints: Mapping[str, str]) -> None:
        """Write the state after `step` steps, then remove the checkpoints that the run does not keep.

        The main process calls this; if the parameters are sharded, all call it, and the files are written in
        the background. The next checkpoint waits for them, and so does `wait`.

        Args:
            step: the number of steps taken.
            state: what is kept.
            fingerprints: checksums of what the run depends on beside its configuration, such as the data.

        Raises:
            UserError: it cannot be written, or the one before could not be written in the background; older
                ones are still there.
        """
        self.wait()
        final = self.checkpoints / f"step-{step:06d}"
        if state.is_sharded:
            self._saving = self._save_sharded(final, step, state, fingerprints)
            return
        with self._writing(final) as unfinished:
            checkpoint.write(unfinished, step, state, fingerprints)

    def _save_sharded(
        self, final: Path, step: int, state: TrainState, fingerprints: Mapping[str, str]
    ) -> Future[Any]:
        """Begin to write a sharded checkpoint; the future ends when all of it is there."""
        from clippo.training import sharded  # torch.distributed.checkpoint takes half a second to import

        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        unfinished = final.with_name(UNFINISHED + final.name)
        is_main = dist.get_rank() == 0
        with ExitStack() as stack:
            if is_main:
                stack.enter_context(self._writing(final))
            dist.barrier(self._group)  # the folder is there
            state.used.save_pretrained(unfinished)
            written = sharded.begin(unfinished / STATE_FOLDER, state, self._group)
            about = checkpoint.about(step, state, fingerprints) if is_main else None
            later = stack.pop_all()

        def finish() -> None:
            with later:
                sharded.finish(written, unfinished / STATE_FOLDER, about)

        return self._background.submit(finish)

    @contextmanager
    def _writing(self, final: Path) -> Iterator[Path]:
        """Give the folder to write a checkpoint into, and put it into its place in the end."""
        try:
            self.checkpoints.mkdir(exist_ok=True)
            remove(final)  # there is none, or a damaged one that the run did not go on from
            with atomic_path(final) as unfinished:
                unfinished.mkdir()
                yield unfinished
            self.remove_old_checkpoints()
        except (OSError, RuntimeError) as error:
            reason = first_line(error)
            if not isinstance(error, OSError):  # torch.save says "unexpected pos" if the disk is full
                free = shutil.disk_usage(self.path).free / 2**20
                reason = f"the disk has {free:,.0f} MiB left, and PyTorch says {reason}"
            raise UserError(f"cannot write the checkpoint {final}: {reason}") from error

    def wait(self) -> None:
        """Wait for the checkpoint that is written in the background, if there is one.

        Raises:
            UserError: it could not be written.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            try:
                saving.result()
            except OSError as error:  # of another process; the main one has said where
                raise UserError(f"cannot write a checkpoint into {self.checkpoints}: {error}") from error

    def load_checkpoint(self, state: TrainState, fingerprints: Mapping[str, str]) -> int:
        """Restore the newest checkpoint. If the parameters are sharded, all processes must call this.

        If it is damaged, a warning says so, and the one before is restored.

        Returns:
            The step that it was written after; 0, and nothing is restored, where there is no checkpoint.

        Raises:
            UserError: the checkpoint is of a model of other sizes, or of a run on other data or with another
                renderer; all checkpoints are damaged or cannot be read.
        """
        damage: list[DamagedCheckpointError] = []
        for folder in sorted(self.own_checkpoints(), key=step_of, reverse=True):
            try:
                step = restore(folder, state, fingerprints)
            except DamagedCheckpointError as error:
                damage.append(error)
            else:
                for broken in damage:
                    warnings.warn(f"{broken}; the run goes on from {folder.name}", stacklevel=2)
                return step
        if damage:
            raise damage[0]
        return 0

    def load_model(self) -> Clippo:
        """Read the model of the newest checkpoint, ready to use.

        Raises:
            UserError: the folder holds no run, or one without a checkpoint, or what it holds cannot be read.
        """
        if not self.config_file.is_file():
            raise UserError(f"{self.path} is not the folder of a run: it has no config.json")
        newest = self.newest_checkpoint()
        if newest is None:
            raise UserError(f"{self.path} has no checkpoint yet")
        return read_checkpoint(newest).eval()

    def cached_embeddings(self, key: str, embed: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Embeddings by the newest checkpoint, from the file of an earlier call where it has the same key.

        Args:
            key: names what is embedded.
            embed: computes the embeddings.
        """
        newest = self.newest_checkpoint()
        assert newest is not None
        key = f"{sha256(newest / 'model.safetensors')} {key}"
        file = self.path / "embeddings.safetensors"
        with suppress(OSError, ValueError, SafetensorError):  # there is none yet, or it is damaged
            check_file(file)
            with safe_open(file, framework="pt") as kept:
                metadata = kept.metadata() or {}
                if metadata.get("key") == key:
                    found: torch.Tensor = kept.get_tensor("embeddings")
                    if metadata.get("sha256") == sha256_of(found):
                        return found
        embeddings = embed().contiguous()
        with suppress(OSError, SafetensorError), atomic_path(file) as unfinished:  # may be read-only
            metadata = {"key": key, "sha256": sha256_of(embeddings)}
            save_file({"embeddings": embeddings}, unfinished, metadata)
        return embeddings

    def append_metrics(self, metrics: Mapping[str, float]) -> None:
        append_line(self.metrics_file, metrics)

    def append_evaluation(self, step: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Keep the rows of an evaluation after `step` steps, and return them as "evaluator/metric": value."""
        own = {f"{row['evaluator']}/{row['metric']}": row["value"] for row in rows}
        append_line(self.evaluations_file, {"step": step, **own})
        return own

    def append_rejected(self, step: int, rejected: Sequence[tuple[str, str]]) -> None:
        """Keep the keys of examples that a step could not read, and the reasons. All ranks may call this."""
        for key, reason in rejected:
            append_line(self.rejected_file, {"step": step, "key": key, "reason": reason})

    def drop_metrics_after(self, step: int) -> None:
        """Remove the lines that a run wrote between its last checkpoint and its end.

        Raises:
            UserError: a file cannot be written.
        """
        for file in (self.metrics_file, self.evaluations_file, self.rejected_file):
            if file.exists():
                lines = file.read_text(errors="replace").splitlines()
                try:
                    write_text(file, "".join(f"{line}\n" for line in lines if step_of_line(line) <= step))
                except OSError as error:
                    raise UserError(f"cannot write into {file}: {error.strerror}") from error


def sha256_of(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().data).hexdigest()


def load_model(source: str | Path) -> Clippo:
    """Read the model of a run, a folder of `Clippo.save_pretrained`, a `.npz` of big_vision, or a name.

    Args:
        source: a path; the name of a model that comes with this package; or "hf://owner/name", whose prefix
            keeps a mistyped path from being sent to the Hub.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    on_hub = str(source).startswith(HUB)
    if not on_hub and not Path(source).exists() and shipped_folder(source) is None:
        raise UserError(
            f"cannot read a model from {source}: there is no such file or folder, and the models that come "
            f"with this package are {', '.join(shipped_models())}"
        )
    run = RunFolder(source)
    if run.checkpoints.is_dir():
        return run.load_model()
    try:
        is_npz = str(source).endswith(".npz")
        source = str(source).removeprefix(HUB)
        return (load_big_vision(source) if is_npz else Clippo.from_pretrained(source)).eval()
    except (ValueError, OSError, ImportError) as error:
        raise UserError(f"cannot read a model from {source}: {first_line(error)}") from error


def with_renderer(model: Clippo) -> Clippo:
    """Make the renderer of a model now, and not at its first text.

    Raises:
        UserError: the description that was saved with the model is not that of a renderer for it.
    """
    if isinstance(model.text_input, RenderedText):
        try:
            _ = model.renderer
        except ValueError as error:
            raise UserError(f"cannot draw text for this model: {error}") from error
    return model


def trained_transform(source: str | Path) -> TransformConfig | None:
    """The transform that a run was trained with; None where `source` is another model of `load_model`."""
    run = RunFolder(source)
    return run.config().transform if run.checkpoints.is_dir() else None


def step_of_line(line: str) -> float:
    """The step of a line of metrics; infinite for a line that is damaged, or was cut off by a crash."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return float("inf")


def append_line(file: Path, content: Mapping[str, Any]) -> None:
    try:
        with file.open("a") as lines:
            lines.write(json.dumps(content) + "\n")
    except OSError as error:
        raise UserError(f"cannot write into {file}: {error.strerror}") from error
