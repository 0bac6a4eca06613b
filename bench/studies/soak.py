"""Trains, draws text, indexes pictures and serves the page, for an hour, and watches what they hold.

    python -m clippo.bench.studies.soak                 one hour; or `make soak`
    python -m clippo.bench.studies.soak --minutes 5

Four parts run at once, each a process with those that it starts: a training with its evaluations and
checkpoints; a pool that draws random Unicode; an index of a folder of pictures that come and go; and the page
of `clippo demo`, which is asked for texts and pictures all the time. Memory, open files and processes of each
part are read twice a minute, from what Linux tells in /proc.

Memory that a part shares with another is divided between them. A part is flat if what it holds in the last
quarter of the time is at most 5 % and a little, 16 MiB, 4 files or no process, above the second quarter: the
median of its memory, and the most files and processes, because workers come and go.
The figures go to bench/results, the plot to docs/img/soak.png. The program ends with 1 if a part is not flat,
or has died.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from PIL import Image
from tqdm import tqdm

from clippo.bench.report import RESULTS, write
from clippo.bench.studies.demo import WORDS, serving
from clippo.bench.studies.fuzz_render import texts_of
from clippo.results import ROOT, Row, provenance

__all__ = ["held_by", "is_flat", "main"]

SAMPLES_A_MINUTE = 2
PICTURES = 200
MORE_SHARE, MORE = 0.05, {"mib": 16, "files": 4, "processes": 0}
Parts = dict[str, subprocess.Popen[Any] | BaseProcess]
HELD = ("mib", "files", "processes")
TRAINING = [
    "--steps", "1000000", "--batch-size", "32", "--eval-every", "200", "--checkpoint-every", "200",
    "--data.languages", "en", "--model.depth", "2",
]  # fmt: skip


def keep_drawing() -> None:
    from clippo.renderer import ParagraphRenderer
    from clippo.renderer.pool import RenderPool

    with RenderPool(ParagraphRenderer(224), workers=1) as pool:
        for pixels in pool.map(texts_of(0, batch) for batch in count()):
            assert pixels.ndim == 3


def keep_indexing(folder: Path) -> None:
    """Bring an index up to date with a folder, a tenth of whose pictures is replaced before each time."""
    from clippo.index import PictureIndex, build_index
    from clippo.training.run_folder import load_model, with_renderer

    model = with_renderer(load_model("clippo-dictionary"))
    photos, out = folder / "photos", folder / "photos.idx"
    photos.mkdir()
    numbers = count()
    for end in count(PICTURES, PICTURES // 10):
        for number in numbers:
            if number == end:
                break
            colours = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
            Image.fromarray(colours).resize((320, 240)).save(photos / f"{number}.jpg")
            (photos / f"{number - PICTURES}.jpg").unlink(missing_ok=True)
        build_index(model, str(photos), out, name="clippo-dictionary", workers=1)
        with closing(PictureIndex.open(out)) as index:
            index.search(model.encode_text(["red"]), 10)


def keep_asking(address: str, ended: threading.Event) -> None:
    """Type words into the page and post pictures, until the event is set."""
    picture = ROOT / "docs" / "img" / "gallery.png"
    with httpx2.Client(base_url=address, timeout=60) as client:
        for number in count():
            word = WORDS[number % len(WORDS)]
            for length in range(1, len(word) + 1):
                if ended.is_set():
                    return
                client.get("/api/text", params={"text": word[:length]}).raise_for_status()
            client.post("/api/picture", content=picture.read_bytes()).raise_for_status()


def family(pid: int) -> Iterator[int]:
    """A process, and all below it."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from family(int(child))


def held_by(pid: int) -> dict[str, float]:
    """Memory, open files and number of the processes of a part."""
    kib = files = processes = 0
    for member in list(family(pid)):
        with suppress(OSError):  # it has ended meanwhile
            smaps = Path(f"/proc/{member}/smaps_rollup").read_text()
            kib += next(int(line.split()[1]) for line in smaps.splitlines() if line.startswith("Pss:"))
            files += len(os.listdir(f"/proc/{member}/fd"))
            processes += 1
    return dict(zip(HELD, (round(kib / 1024, 1), files, processes), strict=True))


def growth(rows: list[Row], name: str, what: str) -> tuple[float, float]:
    """The amounts that a part held in the second and in the last quarter of the time."""
    values = [row[what] for row in rows if row["name"] == name]
    quarter, of = len(values) // 4, statistics.median if what == "mib" else max
    return of(values[quarter : 2 * quarter]), of(values[-quarter:])


def is_flat(rows: list[Row], name: str, what: str) -> bool:
    before, after = growth(rows, name, what)
    return after <= before * (1 + MORE_SHARE) + MORE[what]


def watch(parts: Parts, minutes: float) -> list[Row]:
    """Sample all parts at even intervals; a part that ends is an error."""
    rows: list[Row] = []
    begin = time.monotonic()
    for sample in tqdm(range(round(minutes * SAMPLES_A_MINUTE)), unit="sample"):
        time.sleep(max(0.0, begin + 60 * (sample + 1) / SAMPLES_A_MINUTE - time.monotonic()))
        for name, part in parts.items():
            ended = part.poll() if isinstance(part, subprocess.Popen) else part.exitcode
            if ended is not None:
                raise RuntimeError(f"{name} has ended with {ended} after {sample} samples")
            assert part.pid is not None
            rows.append({"name": name, "minute": (sample + 1) / SAMPLES_A_MINUTE} | held_by(part.pid))
    return rows


def draw(rows: list[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), dpi=150, layout="constrained", sharex=True)
    for axis, what, label in zip(axes, HELD, ("memory, MiB", "open files", "processes"), strict=True):
        for name in dict.fromkeys(row["name"] for row in rows):
            own = [row for row in rows if row["name"] == name]
            axis.plot([row["minute"] for row in own], [row[what] for row in own], label=name, linewidth=1)
        axis.set(xlabel="minutes", ylabel=label, ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[-1].legend(frameon=False)
    figure.savefig(path)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m clippo.bench.studies.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "img" / "soak.png")
    arguments = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"  # of what is started; our own bar has read it before
    folder = Path(tempfile.mkdtemp())
    spawn = multiprocessing.get_context("spawn")
    drawing = spawn.Process(target=keep_drawing)
    indexing = spawn.Process(target=keep_indexing, args=(folder,))
    log = (folder / "training.log").open("w")
    training = subprocess.Popen(
        [sys.executable, "-m", "clippo", "train", "emoji", "--out", str(folder / "run"), *TRAINING],
        stdout=log, stderr=log,
    )  # fmt: skip
    drawing.start()
    indexing.start()
    ended = threading.Event()
    try:
        with serving("clippo-dictionary", None) as (page, address):
            asking = threading.Thread(target=keep_asking, args=(address, ended))
            asking.start()
            try:
                parts: Parts = {"training": training, "drawing": drawing, "index": indexing, "page": page}
                rows = watch(parts, arguments.minutes)
                if not asking.is_alive():
                    raise RuntimeError("the page has answered with an error")
            finally:
                ended.set()
                asking.join()
        training.send_signal(signal.SIGTERM)
        training.wait()
    except RuntimeError as error:
        print(error, (folder / "training.log").read_text()[-2000:], sep="\n", file=sys.stderr)
        return 1
    finally:
        for part in (drawing, indexing, training):
            part.terminate()
        shutil.rmtree(folder, ignore_errors=True)

    draw(rows, arguments.plot)
    flat = True
    for name in parts:
        for what in HELD:
            before, after = growth(rows, name, what)
            flat &= is_flat(rows, name, what)
            verdict = "flat" if is_flat(rows, name, what) else "GROWS"
            print(f"{name:10}{what:11}{before:10,.1f} {after:10,.1f}  {verdict}")
    path = write(RESULTS, provenance(minutes=arguments.minutes), rows, "-soak")
    print(f"written to {path} and {arguments.plot}")
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
