"""Reading and writing a B/16 of 357 MB, by the reference's file and by ours.

pytest bench/suites/bench_checkpoint.py
"""

from pathlib import Path
from typing import Any

import pytest

from clippo.model import Clippo, create_model, load_big_vision, save_big_vision


@pytest.fixture(scope="module")
def clippo() -> Clippo:
    return create_model("clippo-b16")


@pytest.mark.parametrize("kind", ["npz", "stacked npz", "safetensors"])
def test_load(benchmark: Any, clippo: Clippo, tmp_path: Path, kind: str) -> None:
    benchmark.group = "load B/16"
    if kind == "safetensors":
        clippo.save_pretrained(tmp_path)
        benchmark.pedantic(Clippo.from_pretrained, (tmp_path,), rounds=5, warmup_rounds=1)
    else:
        save_big_vision(clippo, tmp_path / "x.npz", scan=kind == "stacked npz")
        benchmark.pedantic(load_big_vision, (tmp_path / "x.npz",), rounds=5, warmup_rounds=1)
    keep(benchmark, kind)


def test_save(benchmark: Any, clippo: Clippo, tmp_path: Path) -> None:
    benchmark.group = "save B/16"
    benchmark.pedantic(save_big_vision, (clippo, tmp_path / "x.npz"), rounds=5, warmup_rounds=1)
    keep(benchmark, "npz")


def keep(benchmark: Any, name: str) -> None:
    benchmark.extra_info |= {"name": name, "median_us": 1e6 * benchmark.stats["median"]}
