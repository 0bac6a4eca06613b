"""Signals that ask a run to save a checkpoint, and then to end or to go on."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any, Self

import torch

from clippo.training.parallel import DistributedContext

__all__ = ["Requests", "Stopped"]

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")
SAVING = "SIGUSR1"


class Stopped(KeyboardInterrupt):
    """A run ended because a signal asked for it.

    Attributes:
        signal: number of the signal.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.signal = number


class Requests:
    """Context that collects what asks a run for a checkpoint: signals, and the time since the last one.

    SIGUSR1 asks for a checkpoint alone; the first of the others asks the run to end, too. A second one of
    these ends the process at once. Signals reach the main thread alone: other threads collect nothing.

    Args:
        context: the processes of the run. A signal to any of them reaches all.
        checkpoint_minutes: the longest time between two checkpoints; 0 for any.

    Attributes:
        signal: number of the signal that asked the run to end, 0 while none has come.
    """

    def __init__(self, context: DistributedContext, checkpoint_minutes: float) -> None:
        self.context = context
        self.checkpoint_minutes = checkpoint_minutes
        self.signal = 0
        self._is_save_asked = False
        self._saved = time.perf_counter()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in (*STOPPING, SAVING):
                number = getattr(signal, name)
                if signal.getsignal(number) != signal.SIG_IGN:  # as SIGHUP is under nohup
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == getattr(signal, SAVING):
            self._is_save_asked = True
            return
        self.signal = number
        self.close()

    def after(self, step: int) -> tuple[bool, bool]:
        """Whether the run is to end after a step, and whether it is to save a checkpoint, on all processes.

        Several processes agree at every tenth step alone, because the host waits for it.
        """
        if self.context.world_size > 1 and step % 10:
            return False, False
        age_s = time.perf_counter() - self._saved
        is_due = 0 < 60 * self.checkpoint_minutes < age_s
        is_save_asked = self._is_save_asked or is_due
        if self.context.world_size > 1:
            asked = torch.tensor([self.signal, is_save_asked])
            self.signal, is_save_asked = self.context.maximum(asked).tolist()
        return self.signal > 0, self.signal > 0 or bool(is_save_asked)

    def saved(self) -> None:
        """Take note that a checkpoint has been saved."""
        self._is_save_asked, self._saved = False, time.perf_counter()

    def close(self) -> None:
        """Give the signals back to whom they went before."""
        while self._before:
            signal.signal(*self._before.popitem())

    def __exit__(self, *_: object) -> None:
        self.close()
