"""Study of `clippo demo`: pictures of the page for the docs, its delay at each key, and fifty users at once.

    python -m clippo.bench.studies.demo                                   the model of the package
    python -m clippo.bench.studies.demo photos.idx --model runs/photos    one's own

It needs Chromium (apt-get install chromium). The delay is from the event of a key to the first frame after
all pictures are decoded, by the clock of the browser, with the index and with 10,000 made-up pictures. The
users are clients of HTTP: each types words, a key every 300 ms or as soon as the answer to the last one is
there, and fetches the thumbnails that it has not seen.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx2
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, ViewportSize, sync_playwright

from clippo.bench.report import RESULTS, write
from clippo.index import PictureIndex, build_index
from clippo.results import ROOT, Row, provenance
from clippo.training.run_folder import load_model, with_renderer

__all__ = ["WORDS", "chromium", "serving"]

WORDS = ["strawberry", "perro", "Schmetterling", "собака", "فراولة", "कुत्ता", "草莓", "いちご", "딸기", "🐕"]
KEY_S = 0.3
USERS = 50
SIZE: ViewportSize = {"width": 1100, "height": 820}

MEASURE = """() => {
    let pressed = 0;
    window.delays = [];
    const pictures = document.querySelector("#pictures");
    document.addEventListener("keydown", (event) => { pressed = event.timeStamp; }, true);
    new MutationObserver(() => {
        if (pictures.getAttribute("aria-busy") === "false")
            requestAnimationFrame(() => window.delays.push(performance.now() - pressed));
    }).observe(pictures, { attributeFilter: ["aria-busy"] });
}"""


@contextmanager
def serving(index: str | Path, model: str | Path | None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `clippo demo` on a free port, and give the process and the address that it prints."""
    command = [sys.executable, "-m", "clippo", "demo", str(index), "--port", "0"]
    command += [] if model is None else ["--model", str(model)]
    # A shell that runs us in the background has Ctrl-C ignored, also by what we start.
    hears = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hears
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(process.stderr.read())
        yield process, line.split()[0]
    finally:
        process.kill()
        process.communicate()


@contextmanager
def chromium() -> Iterator[Browser | None]:
    """The Chromium of this machine; None if there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        yield None
        return
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # which root cannot have
        browser = playwright.chromium.launch(executable_path=path, args=sandbox)
        yield browser
        browser.close()


def take_pictures(browser: Browser, address: str, thumbnail: bytes, folder: Path) -> list[Path]:
    """Write pictures of the page: a text, a picture in the dark on a narrow screen, and the map."""
    page = browser.new_page(viewport=SIZE, locale="en")
    page.goto(address)
    page.locator("#text").fill("فراولة")
    page.wait_for_selector("#pictures[aria-busy=false] li")
    written = [save(page, folder / "demo_text.webp")]
    page.locator("#map summary").click()
    page.locator("#map-text", has_text="pictures (").wait_for(timeout=120_000)
    page.locator("#map canvas").press("ArrowRight")
    page.locator("#map").scroll_into_view_if_needed()
    written.append(save(page, folder / "demo_map.webp"))
    page = browser.new_page(viewport={"width": 400, "height": 860}, color_scheme="dark", locale="en")
    page.goto(address)
    page.locator("#languages option").first.wait_for(state="attached")
    page.locator("#languages").evaluate(
        "(s) => [...s.options].forEach((o) => { o.selected = ['en', 'ar', 'hi', 'zh'].includes(o.value); })"
    )
    file: FilePayload = {"name": "picture.webp", "mimeType": "image/webp", "buffer": thumbnail}
    page.locator("#file").set_input_files(files=[file])
    page.locator("#words dt").first.wait_for(timeout=120_000)
    page.wait_for_selector("#pictures[aria-busy=false] li")
    written.append(save(page, folder / "demo_picture.webp"))
    return written


def save(page: Page, path: Path) -> Path:
    Image.open(io.BytesIO(page.screenshot())).save(path, quality=80, method=6)
    return path


def measure_keys(browser: Browser, address: str) -> Row:
    """Delays from a key to its pictures, in ms, of all keys but those of the first word."""
    page = browser.new_page(viewport=SIZE)
    page.goto(address)
    page.evaluate(MEASURE)
    for number, word in enumerate(WORDS[:3] * 3):
        for letter in word:
            page.keyboard.press(letter)
            page.wait_for_timeout(1000 * KEY_S)
            page.wait_for_selector("#pictures[aria-busy=false] li")
        if number == 0:
            page.evaluate("window.delays.length = 0")
        page.locator("#text").fill("")
    return {"name": "key to pictures", "unit": "ms"} | percentiles(page.evaluate("window.delays"))


async def measure_users(address: str, seconds: float, pid: int) -> Row:
    """Times of the answers to many users in ms, answers by their status, and the server's memory."""
    times: list[float] = []
    statuses: Counter[str] = Counter()
    memory: list[float] = []
    end = time.monotonic() + seconds

    async def use(number: int) -> None:
        rng, seen = random.Random(number), set[str]()
        async with httpx2.AsyncClient(base_url=address, timeout=60) as client:
            while time.monotonic() < end:
                word = rng.choice(WORDS)
                for length in range(1, len(word) + 1):
                    begin = time.monotonic()
                    response = await client.get("/api/text", params={"text": word[:length]})
                    times.append(1000 * (time.monotonic() - begin))
                    statuses[str(response.status_code)] += 1
                    for picture in response.json().get("pictures", []):
                        if picture["thumbnail"] not in seen:
                            seen.add(picture["thumbnail"])
                            statuses[str((await client.get(picture["thumbnail"])).status_code)] += 1
                    await asyncio.sleep(max(0.0, begin + KEY_S - time.monotonic()))

    async def watch() -> None:
        while time.monotonic() < end:
            memory.append(resident_mib(pid))
            await asyncio.sleep(seconds / 12)

    await asyncio.gather(watch(), *(use(number) for number in range(USERS)))
    about = {"name": f"{USERS} users", "unit": "ms", "seconds": seconds, "statuses": dict(statuses)}
    return about | percentiles(times) | {"resident_mib": [round(mib) for mib in memory]}


def resident_mib(pid: int) -> float:
    """Resident memory of a process, in MiB; Linux alone tells it."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def percentiles(values: list[float]) -> Row:
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    found = {"p50": cuts[49], "p90": cuts[89], "p99": cuts[98], "max": max(values)}
    return {"count": len(values)} | {name: round(value, 1) for name, value in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m clippo.bench.studies.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("index", nargs="?", default="clippo-dictionary")
    parser.add_argument("--model", help="what the index was made with, where that has moved")
    parser.add_argument("--pictures", type=int, default=10_000, help="of the index that is searched")
    parser.add_argument("--seconds", type=float, default=60, help="that the users type")
    parser.add_argument("--img", type=Path, default=ROOT / "docs" / "img", help="folder of the pictures")
    arguments = parser.parse_args()

    index = PictureIndex.open(arguments.index)
    name = arguments.model or index.about.model
    with tempfile.TemporaryDirectory() as folder:
        made_up = Path(folder) / "made-up.idx"
        model = with_renderer(load_model(name))
        build_index(model, f"made-up:?count={arguments.pictures}", made_up, name=name)
        with serving(index.path, name) as (_, address), chromium() as browser:
            if browser is None:
                print("there is no Chromium: apt-get install chromium", file=sys.stderr)
                return 2
            thumbnail = index.thumbnail(int(index.ids[len(index) // 2]))
            for path in take_pictures(browser, address, thumbnail, arguments.img):
                print(path)
            rows = [measure_keys(browser, address) | {"pictures": len(index)}]
        with serving(made_up, name) as (process, address):
            with chromium() as browser:
                assert browser is not None
                measured = [measure_keys(browser, address)]
            measured.append(asyncio.run(measure_users(address, arguments.seconds, process.pid)))
    rows += [row | {"pictures": arguments.pictures} for row in measured]
    for row in rows:
        print(row)
    print(f"written to {write(RESULTS, provenance(load_average=os.getloadavg()), rows, '-demo')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
