"""Signals that ask a run to end: it then finishes its step, saves a checkpoint and says how to go on."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

__all__ = ["StopRequest", "Stopped"]

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


class Stopped(KeyboardInterrupt):
    """A run ended because a signal asked for it.

    Attributes:
        signal: number of the signal.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.signal = number


class StopRequest:
    """Context that collects the first signal that asks the process to end; a second one ends it at once.

    Signals reach the main thread alone: in other threads nothing is collected.

    Attributes:
        signal: number of the signal, 0 while none has come.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in STOPPING:
                number = getattr(signal, name)
                if signal.getsignal(number) != signal.SIG_IGN:  # as SIGHUP is under nohup
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self.close()

    def close(self) -> None:
        """Give the signals back to whom they went before."""
        while self._before:
            signal.signal(*self._before.popitem())

    def __exit__(self, *_: object) -> None:
        self.close()
