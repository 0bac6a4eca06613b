"""The rule by which a part of the soak is flat, and what is read of a process."""

import multiprocessing
import os
import time

import pytest

from clippo.bench.studies.soak import held_by, is_flat

pytestmark = pytest.mark.skipif(
    not os.path.isdir("/proc/self"), reason="Linux alone tells what processes hold"
)


def rows(mib, files):
    return [{"name": "part", "mib": m, "files": f} for m, f in zip(mib, files, strict=True)]


def test_a_part_may_grow_by_little():
    steady = rows([500, 90, 400, 401, 402, 400, 430, 432], [99, 97, 50, 70, 50, 70, 50, 74])
    assert is_flat(steady, "part", "mib")
    assert is_flat(steady, "part", "files")
    leaking = rows([100, 110, 120, 130, 140, 150, 160, 170], [50, 60, 70, 80, 90, 100, 110, 120])
    assert not is_flat(leaking, "part", "mib")
    assert not is_flat(leaking, "part", "files")


def test_children_are_counted():
    alone = held_by(os.getpid())
    child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    child.start()
    try:
        both = held_by(os.getpid())
    finally:
        child.kill()
        child.join()
    assert both["processes"] > alone["processes"]
    assert both["files"] > alone["files"]
    assert alone["mib"] > 20
