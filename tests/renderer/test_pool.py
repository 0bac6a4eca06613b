"""Rendering in several processes."""

import os
import signal
import subprocess
import sys
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
import pytest

from clippo.renderer import (
    AlignedRenderer,
    ParagraphRenderer,
    RenderPool,
    TextOverflowError,
    UnifontRenderer,
)

BATCHES = [[f"caption {i} of {n} кошка 猫 नमस्ते" for i in range(n)] for n in (7, 1, 0, 64, 3)]


@pytest.mark.parametrize("renderer", [AlignedRenderer(64), UnifontRenderer(64), ParagraphRenderer((32, 96))])
@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_order_and_bits_are_those_of_one_renderer(renderer, workers):
    with RenderPool(renderer, workers=workers, batch_size=64) as pool:
        found = [pixels.copy() for pixels in pool.map(BATCHES)]
        np.testing.assert_array_equal(pool(BATCHES[0]), renderer(BATCHES[0]))
    assert len(found) == len(BATCHES)
    for pixels, texts in zip(found, BATCHES, strict=True):
        np.testing.assert_array_equal(pixels, renderer(texts))


@pytest.fixture(scope="module")
def pool():
    with RenderPool(ParagraphRenderer(32, overflow="error"), workers=2, batch_size=8) as pool:
        yield pool


def test_batches_are_read_no_further_than_they_are_rendered(pool):
    read = []
    pixels = pool.map((read.append(i), ["a"])[1] for i in range(10))
    next(pixels)
    assert read == [0, 1]
    pixels.close()  # and the pool is as before
    assert pool(["a"]).shape == (1, 32, 32)


def test_errors_come_in_their_turn_and_leave_the_pool_usable(pool):
    rendered = pool.map([["a"], ["b"] * 9, ["c"]])
    next(rendered)
    with pytest.raises(ValueError, match="at most batch_size=8 strings, not 9"):
        next(rendered)
    with pytest.raises(TextOverflowError, match="does|takes"):
        pool(["too long " * 20])
    with pytest.raises(TypeError, match="texts"):
        pool("one string")
    np.testing.assert_array_equal(pool(["a"]), ParagraphRenderer(32)(["a"]))


def test_errors_that_nobody_waited_for_are_forgotten(pool):
    rendered = pool.map([["a"], ["too long " * 20], ["too long " * 20], ["b"]])
    next(rendered)
    rendered.close()
    np.testing.assert_array_equal(pool(["c"]), ParagraphRenderer(32)(["c"]))


def test_arrays_are_the_callers_own(pool):
    first, second = pool(["a"]), pool(["b"])
    assert (first != second).any()


def test_one_map_at_a_time(pool):
    running = pool.map([["a"], ["b"], ["c"], ["d"]])
    next(running)
    for other in (lambda: pool(["z"]), lambda: next(pool.map([["z"]]))):
        with pytest.raises(RuntimeError, match="rendering already: exhaust or close the other map first"):
            other()
    rest = [pixels.copy() for pixels in running]
    np.testing.assert_array_equal(np.concatenate(rest), ParagraphRenderer(32)(["b", "c", "d"]))
    assert pool(["z"]).shape == (1, 32, 32)


def test_a_fork_may_not_use_the_pool(pool, monkeypatch):
    monkeypatch.setattr("clippo.renderer.pool.os.getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="belongs to the process that made it"):
        pool(["a"])


def test_a_pool_that_is_dropped_ends_its_processes():
    pool = RenderPool(UnifontRenderer(64), workers=1, batch_size=4)
    pool(["a"])
    (process,), names = list(pool._processes), [memory.name for memory in pool._memory]
    del pool
    assert not process.is_alive()
    for name in names:
        with pytest.raises(FileNotFoundError):
            SharedMemory(name)


def test_death_of_a_worker_is_reported():
    with RenderPool(UnifontRenderer(64), workers=2, batch_size=8) as pool:
        pool(["a", "b"])
        os.kill(pool._processes[0].pid, signal.SIGKILL)
        pool._processes[0].join()
        with pytest.raises(RuntimeError, match="a worker of the pool died"):
            pool(["a", "b"])


def test_closed_pool_refuses():
    with RenderPool(UnifontRenderer(64), workers=1) as pool:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        pool(["a"])


@pytest.mark.parametrize("option", ["workers", "batch_size", "ahead"])
def test_bad_options_are_named(option):
    with pytest.raises(ValueError, match=f"{option} must be at least 1"):
        RenderPool(UnifontRenderer(64), **({"workers": 1} | {option: 0}))


def test_too_little_shared_memory_is_said_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr("clippo.renderer.pool.SHARED_MEMORY_FOLDER", tmp_path)
    with pytest.raises(OSError, match=r"MiB free, and batch_size=1000000000 needs .* --shm-size"):
        RenderPool(UnifontRenderer(64), workers=1, batch_size=10**9)


@pytest.mark.slow
@pytest.mark.parametrize("before_the_error", ["", "next(images)", "next(images); time.sleep(1)"])
def test_workers_of_a_run_that_ends_with_an_error_say_nothing(tmp_path, before_the_error):
    (tmp_path / "run.py").write_text(
        "import time\n"
        "from clippo.renderer import RenderPool, UnifontRenderer\n"
        "if __name__ == '__main__':\n"
        "    pool = RenderPool(UnifontRenderer(64), workers=2, batch_size=8)\n"
        "    images = pool.map([['a'] * 8] * 9)\n"
        f"    {before_the_error}\n"
        "    raise SystemExit('one line')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run(
        [sys.executable, tmp_path / "run.py"], env=environment, capture_output=True, text=True, check=False
    )
    assert run.stderr == "one line\n"
