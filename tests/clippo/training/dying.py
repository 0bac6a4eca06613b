"""Train again and again, and let the disk or the process fail at each call: `dying.py FOLDER OUT`.

The library of killer.c must be in LD_PRELOAD. The runs are below FOLDER, and OUT gets what happened, as JSON.
Each run is in a process of its own, forked from this one, so that nothing is imported twice.
"""

import ctypes
import dataclasses
import errno
import json
import os
import shutil
import sys
import traceback
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from clippo.data.emoji import EmojiConfig
from clippo.data.order import WeightedOrder
from clippo.errors import UserError
from clippo.model import ClippoConfig
from clippo.recipes import find_recipe
from clippo.training.config import TrainConfig
from clippo.training.run_folder import RunFolder
from clippo.training.trainer import train

# What happens at a call: the errno, or 0 for SIGKILL; whether it also happens at the later ones; and at how
# many calls it is tried at most.
WAYS = {
    "killed": (0, False, 60),
    "fails once": (errno.ENOSPC, False, 30),
    "full from then on": (errno.ENOSPC, True, 30),
    "read-only from then on": (errno.EROFS, True, 30),
}

# When calls count: whether the run is resumed, and the steps whose batches are asked for at the two ends;
# None is the beginning. The fourth step writes the checkpoint of step 4, and removes that of step 2.
WINDOWS = {"start": (False, None, 0), "save": (False, 3, 4), "resume": (True, None, 2)}

TIMED = ("pairs_per_s", "flops_per_s", "step_time", "data_time", "elapsed_s", "memory_bytes")
SINCE_THE_START = ("cut_texts", "rejected", "skipped_steps", "inked_share")  # of the process

killer = ctypes.CDLL(os.environ["LD_PRELOAD"])
killer.call.restype = ctypes.c_char_p


def tiny_config() -> TrainConfig:
    return dataclasses.replace(
        find_recipe("emoji")(),
        model=ClippoConfig(
            width=32, depth=1, mlp_dim=64, num_heads=2, patch_size=16, image_size=48, embed_dim=32
        ),
        data=EmojiConfig(languages=("en",)), evaluators={}, batch_size=4, steps=6, warmup_steps=2, workers=0,
        checkpoint_every=2, keep_checkpoints=1, log_every=1,
    )  # fmt: skip


def attempt(
    folder: Path, resume: bool, window: str | None = None, target: int = -1, way: str = "killed"
) -> Any:
    """Train in a process of its own. If it is killed, nothing is returned, and otherwise how it ended.

    Args:
        folder: of the run.
        resume: as of `train`.
        window: when calls count; never by default.
        target: the call of the window at which something happens.
        way: what happens.
    """
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiver)
        with os.fdopen(sender, "w") as pipe:
            json.dump(attempted(folder, resume, window, target, way), pipe)
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) == (not answer)
    return json.loads(answer) if answer else None


def attempted(folder: Path, resume: bool, window: str | None, target: int, way: str) -> dict[str, Any]:
    found: dict[str, Any] = {"first_step": None, "error": None, "calls": []}
    opening, closing = WINDOWS[window][1:] if window else (-1, -1)
    code, is_lasting, _ = WAYS[way]

    def at(step: int | None) -> None:
        if step == opening:
            killer.arm(str(folder).encode(), target, code, is_lasting)
        # A disk that is full or read-only stays so until the run ends.
        if step == closing and not (is_lasting and target >= 0):
            found["calls"] = [killer.call(number).decode() for number in range(killer.calls())]
            killer.arm(b"", -1, 0, False)

    batch, load = WeightedOrder.__call__, RunFolder.load_checkpoint

    def asked(self: WeightedOrder, step: int) -> Any:
        at(step)
        return batch(self, step)

    def loaded(*args: Any) -> int:
        found["first_step"] = load(*args)
        return found["first_step"]

    WeightedOrder.__call__, RunFolder.load_checkpoint = asked, loaded  # type: ignore[method-assign]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            at(None)
            train(tiny_config(), folder, resume=resume)
        except UserError as error:
            found["error"] = str(error)
        except BaseException:
            found["error"] = traceback.format_exc()
    killer.arm(b"", -1, 0, False)
    texts = [str(warning.message) for warning in caught]
    found["warnings"] = [text for text in texts if "the run goes on from" in text]  # of a damaged checkpoint
    return found


def contents(folder: Path) -> dict[str, Any]:
    """What is in the files of a run, but for times and what is counted from the start of the process.

    The same state is pickled to other bytes after it has been loaded, so that it is read here.
    """
    found = {}
    for path in folder.rglob("*"):
        if path.name == "state.pt":
            found[str(path.relative_to(folder))] = plain(torch.load(path))
        elif path.name == "manifest.json":
            manifest = json.loads(path.read_text())
            del manifest["sha256"]["state.pt"]
            found[str(path.relative_to(folder))] = manifest
        elif path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            ignored = {*TIMED, *SINCE_THE_START}
            found[path.name] = [{k: v for k, v in line.items() if k not in ignored} for line in lines]
        elif path.name != "curves.png":  # which shows the speed
            found[str(path.relative_to(folder))] = path.is_file() and path.read_bytes()
    return found


def plain(value: Any) -> Any:
    """A value with bytes in place of tensors, so that == compares bit for bit."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.numpy().tobytes()
    return value


Call = tuple[str, int, str]  # the window, the number in it, and the name with the path


def chosen(calls: list[Call], count: int) -> list[Call]:
    """At most so many calls: all renames and others evenly spread, of the same calls in a row the first."""
    distinct = [call for before, call in pairwise([("", 0, ""), *calls]) if call[2] != before[2]]
    others = [call for call in distinct if not call[2].startswith("rename")]
    room = min(len(others), count - (len(distinct) - len(others)))
    spread = {others[i * len(others) // room] for i in range(room)}
    return [call for call in distinct if call in spread or call not in others]


def main(folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # without its thread
    whole, begun, run = folder / "whole", folder / "begun", folder / "run"
    train(tiny_config(), whole)
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads cannot be forked"
    expected = contents(whole)

    calls: list[Call] = []
    for window, (is_resumed, *_) in WINDOWS.items():
        shutil.rmtree(run, ignore_errors=True)
        if is_resumed:
            shutil.copytree(begun, run)
        found = attempt(run, is_resumed, window)
        assert contents(run) == expected, found
        calls += [(window, number, call) for number, call in enumerate(found["calls"])]
        if window == "save":  # a run that was killed at the rename of its checkpoint
            last = max(n for w, n, call in calls if w == "save" and call.startswith("rename"))
            assert attempt(begun, False, window, last) is None

    outcomes = []
    for way in WAYS:
        for window, number, call in chosen(calls, WAYS[way][2]):
            shutil.rmtree(run, ignore_errors=True)
            if WINDOWS[window][0]:
                shutil.copytree(begun, run)
            ended = attempt(run, WINDOWS[window][0], window, number, way)
            resumed = attempt(run, True)
            after = contents(run) if resumed["error"] is None else {}
            differing = sorted(
                name for name in {**expected, **after} if expected.get(name) != after.get(name)
            )
            outcomes.append(
                {
                    "way": way, "window": window, "number": number, "call": call, "ended": ended,
                    "resumed": resumed, "differing": differing,
                }
            )  # fmt: skip
    out.write_text(json.dumps({"calls": calls, "outcomes": outcomes}, indent=1))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
