"""Reading, decoding and ordering of pictures on one core, and the peers that do the same.

    apt-get install mate-backgrounds; pip install webdataset simplejpeg
    pytest bench/suites/bench_data.py

The pictures are crops of 640 x 480 px of photographs of nature, as JPEG of quality 90. "read" gives the bytes
and the caption of each of 20,000 pairs in two tars in random order, from the page cache. "decode" ends at
224 x 224 px. "loader" gives batches of 64 with a random part of each picture and its rendered caption.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clippo.data import decode as decoder
from clippo.data.convert import add_member
from clippo.data.order import ShuffledOrder, permuted
from clippo.data.speed import rates_of_workers
from clippo.data.transform import SquashConfig
from clippo.data.webdataset import TarsConfig

WALLPAPERS = Path("/usr/share/backgrounds/mate/nature")
CROPS, PAIRS_PER_TAR = 200, 10_000
SIZE = 224

pytestmark = pytest.mark.usefixtures("one_thread")


@cache
def crops() -> list[bytes]:
    """Encoded pictures, the same each time."""
    files = sorted(WALLPAPERS.glob("*.jpg"))
    if not files:
        pytest.skip(f"there are no wallpapers in {WALLPAPERS}: apt-get install mate-backgrounds")
    rng, found = np.random.default_rng(0), []
    for number in range(CROPS):
        with Image.open(files[number % len(files)]) as image:
            x, y = int(rng.integers(image.width - 640)), int(rng.integers(image.height - 480))
            out = io.BytesIO()
            image.convert("RGB").crop((x, y, x + 640, y + 480)).save(out, "JPEG", quality=90)
            found.append(out.getvalue())
    return found


def record(benchmark: Any, name: str, count: int) -> None:
    seconds = benchmark.stats["median"]
    benchmark.extra_info.update(name=name, median_us=seconds * 1e6, per_s=round(count / seconds))


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("tars")
    for number in range(2):
        with tarfile.open(root / f"{number}.tar", "w") as tar:
            for pair in range(PAIRS_PER_TAR):
                key = f"{number}-{pair:05}"
                for suffix, content in (("jpg", crops()[pair % CROPS]), ("txt", f"wallpaper {key}".encode())):
                    add_member(tar, f"{key}.{suffix}", content)
    return f"{root}/{{0..1}}.tar"


@pytest.mark.parametrize("name", ["clippo", "webdataset"])
def test_read(benchmark: Any, tars: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if name == "clippo":
        source = TarsConfig(path=tars, held_out=0.0).build("train")
        order = ShuffledOrder(len(source), 100)
        assert len(source) == 2 * PAIRS_PER_TAR

        def read() -> int:
            steps = range(len(source) // 100)
            return sum(len(source[index].image or b"") for step in steps for index in order(step).tolist())
    else:
        webdataset = pytest.importorskip("webdataset")
        dataset = (
            webdataset.WebDataset(tars, shardshuffle=2, empty_check=False)
            .shuffle(1000)
            .to_tuple("jpg", "txt")
        )

        def read() -> int:
            return sum(len(image) for image, _ in dataset)

    assert read() == 2 * PAIRS_PER_TAR // CROPS * sum(map(len, crops()))
    benchmark.group = "read"
    benchmark.pedantic(read, rounds=7, warmup_rounds=1)
    record(benchmark, name, 2 * PAIRS_PER_TAR)


def pillow(encoded: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def squashed(resize: Any, *, half_decode: bool = False) -> Callable[[bytes], np.ndarray]:
    transform = SquashConfig(resize=resize, half_decode=half_decode).build(SIZE)
    return lambda encoded: transform(decoder.decode(encoded, at_least=transform.decode_at_least))


DECODERS = {
    "clippo": (squashed("bicubic"), False),
    "clippo, with simplejpeg": (squashed("bicubic"), True),
    "clippo, decoded at half size": (squashed("bicubic", half_decode=True), False),
    "clippo, decoded at half size, with simplejpeg": (squashed("bicubic", half_decode=True), True),
    "clippo, published resize": (squashed("bilinear"), False),
    "clippo, published resize, with simplejpeg": (squashed("bilinear"), True),
    "pillow": (pillow, False),
}


@pytest.mark.parametrize("name", DECODERS)
def test_decode(benchmark: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, is_fast = DECODERS[name]
    if is_fast:
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr(decoder, "simplejpeg", None)
    benchmark.group = "decode"
    benchmark.pedantic(lambda: [function(encoded) for encoded in crops()], rounds=9, warmup_rounds=1)
    record(benchmark, name, CROPS)
    differences = [np.abs(function(one).astype(np.int16) - pillow(one)) for one in crops()]
    benchmark.extra_info.update(difference=round(float(np.mean(differences)), 2))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_loader(
    benchmark: Any, tars: str, workers: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the workers
    source, transform = TarsConfig(path=tars, held_out=0.0).build("train"), SquashConfig(min_area=0.5)
    found: list[float] = []

    def measure() -> None:
        rates = rates_of_workers(source, transform, SIZE, batch_size=64, workers=[workers], count=60)
        found.append(rates[workers])

    benchmark.group = "loader"
    benchmark.pedantic(measure, rounds=3)
    best = max(found)
    benchmark.extra_info.update(name=f"clippo, {workers} workers", median_us=1e6 / best, per_s=round(best))


@pytest.mark.parametrize("size", [10**6, 4 * 10**8])
def test_order(benchmark: Any, size: int) -> None:
    positions = np.arange(4096)
    benchmark.group = "order"
    benchmark.pedantic(permuted, (positions, size, 0, "bench"), rounds=50, warmup_rounds=5)
    record(benchmark, f"clippo, of {size:,}", len(positions))
