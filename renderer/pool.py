"""Rendering in several processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.shared_memory import SharedMemory
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, Self

import numpy as np

from clippo.renderer.base import Renderer, checked_integer, checked_texts

__all__ = ["RenderPool"]

SHARED_MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux keeps shared memory


class RenderPool:
    """Processes that render batches ahead, in order, with the same pixels as a single renderer.

    Every worker builds a renderer of the same configuration, and draws its share of each batch straight into
    memory that all processes share. Use it as a context manager, so that the processes end:

        with RenderPool(UnifontRenderer(224), workers=4) as pool:
            for pixels in pool.map(batches):  # of strings
                ...

    Args:
        renderer: the workers build renderers of its configuration.
        workers: processes.
        batch_size: the most strings in a batch.
        ahead: batches that may be rendered before they are asked for.

    Raises:
        TypeError, ValueError: an argument has the wrong type or is out of range.
        OSError: there is too little shared memory.
    """

    def __init__(self, renderer: Renderer, *, workers: int, batch_size: int = 256, ahead: int = 2):
        self._batch_size = checked_integer("batch_size", batch_size, 1)
        workers = checked_integer("workers", workers, 1)
        ahead = checked_integer("ahead", ahead, 1)
        self._shape = renderer.image_shape
        height, width = self._shape
        buffers = ahead + 1  # one is the caller's
        needed = buffers * batch_size * height * width
        if SHARED_MEMORY_FOLDER.is_dir() and (free := shutil.disk_usage(SHARED_MEMORY_FOLDER).free) < needed:
            # Writing to shared memory that the system cannot provide would end the process with SIGBUS.
            raise OSError(
                f"{SHARED_MEMORY_FOLDER} has {free / 2**20:.0f} MiB free, and batch_size={batch_size} needs "
                f"{needed / 2**20:.0f}: lower it, or give the container more (docker run --shm-size=1g)"
            )
        # Spawned, because a fork of a process in which torch has started its threads may hang.
        context = multiprocessing.get_context("spawn")
        self._memory = [SharedMemory(create=True, size=batch_size * height * width) for _ in range(buffers)]
        self._free = deque(range(buffers))
        self._owner = os.getpid()
        self._rendering = threading.Lock()  # held by the `map` that has begun
        self._processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []
        configuration, names = pickle.dumps(renderer), [memory.name for memory in self._memory]
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=run_worker, args=(theirs, configuration, names), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)
        self._pending: deque[tuple[int, int]] = deque()  # buffers that are being filled, and their strings
        # This also runs when the program ends without closing the pool, so that no shared memory is leaked.
        self._release = Finalize(self, release, (self._pipes, self._processes, self._memory), exitpriority=1)

    def map(self, batches: Iterable[Sequence[str]]) -> Generator[np.ndarray, None, None]:
        """Render batches in order, ahead of the caller.

        Args:
            batches: sequences of at most `batch_size` strings; read as far ahead as the pool renders.

        Yields:
            (B, height, width) uint8 arrays, in order. Each is a view of shared memory, which is overwritten
            once the next array is requested.

        Raises:
            TypeError, ValueError: a batch that the renderer refuses, when its turn comes.
            RuntimeError: a worker died, the pool is closed or belongs to another process, or it is rendering
                already: another `map` has begun and is neither exhausted nor closed.
        """
        if os.getpid() != self._owner:
            raise RuntimeError("the pool belongs to the process that made it, and this is a fork of it")
        if not self._rendering.acquire(blocking=False):
            raise RuntimeError("the pool is rendering already: exhaust or close the other map first")
        remaining = iter(batches)
        failure: Exception | None = None
        try:
            while True:
                while len(self._free) > 1 and failure is None:
                    try:
                        texts = checked_texts(next(remaining))
                        if len(texts) > self._batch_size:
                            limit = f"batch_size={self._batch_size}"
                            raise ValueError(f"texts must be at most {limit} strings, not {len(texts)}")
                    except Exception as error:  # raised below, after the batches before it
                        failure = error
                    else:
                        self._submit(texts)
                if self._pending:
                    buffer, count, errors = self._collect()
                    if errors:
                        raise errors[0]
                    yield np.ndarray((count, *self._shape), np.uint8, self._memory[buffer].buf)
                    self._free.append(buffer)
                elif isinstance(failure, StopIteration):
                    return
                elif failure is not None:
                    raise failure
        finally:
            failure = None  # its traceback refers to this frame, a cycle that would keep the pool alive
            while self._pending and self._processes:  # discard the batches that were rendered ahead
                self._collect()
            self._free = deque(range(len(self._memory)))
            self._rendering.release()

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Render one batch on all workers: (B, height, width) uint8, a new array. Raises as `map`."""
        images = self.map([texts])
        pixels = next(images).copy()
        images.close()
        return pixels

    def _submit(self, texts: Sequence[str]) -> None:
        """Send each worker its share of a batch."""
        if not self._pipes:
            raise RuntimeError("the pool is closed")
        buffer = self._free.popleft()
        bounds = np.linspace(0, len(texts), len(self._pipes) + 1).astype(int).tolist()
        with self._closing_if_a_worker_died():
            for pipe, start, stop in zip(self._pipes, bounds[:-1], bounds[1:], strict=True):
                pipe.send((buffer, start, list(texts[start:stop])))
        self._pending.append((buffer, len(texts)))

    def _collect(self) -> tuple[int, int, list[Exception]]:
        """Wait for the oldest batch: its buffer, its number of strings, and the errors of the workers."""
        buffer, count = self._pending.popleft()
        with self._closing_if_a_worker_died():
            answers = [pipe.recv() for pipe in self._pipes]
        return buffer, count, [answer for answer in answers if answer is not None]

    @contextlib.contextmanager
    def _closing_if_a_worker_died(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            self.close()
            raise RuntimeError("a worker of the pool died") from error

    def close(self) -> None:
        """End the processes and free the shared memory."""
        self._release()
        self._pending.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def release(pipes: list[Connection], processes: list[BaseProcess], memories: list[SharedMemory]) -> None:
    """End the processes of a pool, free its shared memory, and empty the lists."""
    for pipe in pipes:
        pipe.close()  # which ends the worker
    for process in processes:
        process.join(timeout=5)
        if process.is_alive():
            process.terminate()
    for memory in memories:
        with contextlib.suppress(
            BufferError
        ):  # an array still views the memory, which is unmapped together with that array
            memory.close()
        memory.unlink()
    for released in (pipes, processes, memories):
        released.clear()


def run_worker(pipe: Connection, configuration: bytes, names: list[str]) -> None:
    """Main loop of a worker: draw strings into shared memory until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the process that asked to handle
    renderer: Any = pickle.loads(configuration)  # noqa: S301 - from the process that started this one
    height, width = renderer.image_shape
    buffers = [SharedMemory(name) for name in names]
    while True:
        try:
            buffer, start, texts = pipe.recv()
        except (EOFError, OSError):  # the process that asked has closed the pipe, or has died
            return
        shape = (len(texts), height, width)
        out = np.ndarray(shape, np.uint8, buffers[buffer].buf, offset=start * height * width)
        answer = None
        try:
            renderer(texts, out=out)
        except Exception as error:  # whatever it is, the process that asked has to know
            answer = error
        try:
            pipe.send(answer)
        except OSError:  # the parent process no longer reads the pipe
            return
