"""Draws random Unicode, and checks that no string fails, takes long, or comes out differently elsewhere.

    python -m clippo.bench.studies.fuzz_render                      200,000 strings
    python -m clippo.bench.studies.fuzz_render --count 5000 --seed 1 --renderer aligned

Strings are of up to 1,000 code points of all planes, assigned or not, with surrogates; of single scripts; and
made of what breaks text layout: hundreds of combining marks, directional overrides, joiners, line ends. Every
one is drawn by a renderer at 224 px and timed alone; then all of them again, in another process,
with a renderer that has seen nothing, in batches. A string that took more than 5 ms is timed again, up to
three times, by a renderer that has not seen it, because another program may have had the processor.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import random
import sys
import time

import numpy as np
from tqdm import tqdm

from clippo.renderer import Renderer, renderer_configs

__all__ = ["main", "texts_of"]

SIZE = 224
BATCH = 250
LIMIT_MS = 5.0
WARM_UP = "Tables are made for the first long string. " * 10
HOSTILE = (
    "e\u0301\u0489\u0e33\u202e\u202d\u2066\u2067\u2068\u2069\u202c\u200d\u200c\u200f\u2028\n\r\t \x00"
    "\x1b\ufeff\ufe0f\U0001f469\U0001f3fd\U0001f1e9\u0915\u094d\u0937\u093f\ud55c\u1100\u0627\u0628\ud83d\udc00"
)


def random_text(rng: random.Random) -> str:
    length = int(rng.choice((4, 40, 200, 1000)) * rng.random())
    kind = rng.randrange(6)
    if kind == 0:
        return "".join(chr(rng.randrange(0x110000)) for _ in range(length))
    if kind == 1:
        return "".join(chr(rng.randrange(0x3000)) for _ in range(length))
    if kind == 2:
        start = rng.randrange(0, 0x1F000, 0x80)
        return "".join(chr(start + rng.randrange(0x80)) for _ in range(length))
    if kind == 3:
        return "".join(rng.choice(HOSTILE) for _ in range(length))
    if kind == 4:
        return "".join(chr(rng.randrange(97, 123)) + chr(rng.randrange(0x300, 0x370)) * rng.randrange(500)
                       for _ in range(1 + length // 100))  # fmt: skip
    words = (chr(rng.randrange(0x20, 0x700)) * rng.randrange(1, 9) for _ in range(length // 4))
    return rng.choice(HOSTILE).join(words)


def texts_of(seed: int, batch: int) -> list[str]:
    rng = random.Random(f"{seed} {batch}")
    return [random_text(rng) for _ in range(BATCH)]


def digest_of_all(renderer: str, seed: int, batches: int) -> str:
    """Of all pixels, drawn in batches by a new renderer."""
    render, digest = renderer_configs()[renderer]().build(SIZE), hashlib.sha256()
    for batch in range(batches):
        digest.update(render(texts_of(seed, batch)).tobytes())
    return digest.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m clippo.bench.studies.fuzz_render",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--count", type=int, default=200_000, help="strings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--renderer", choices=renderer_configs(), default="paragraph")
    arguments = parser.parse_args()
    config = renderer_configs()[arguments.renderer]()
    batches = -(-arguments.count // BATCH)

    render, digest = config.build(SIZE), hashlib.sha256()
    out = np.empty((1, SIZE, SIZE), np.uint8)
    slowest_ms, slowest = 0.0, ""

    def milliseconds(render: Renderer, text: str) -> float:
        start = time.perf_counter()
        render([text], out=out)
        return 1e3 * (time.perf_counter() - start)

    render([WARM_UP], out=out)
    for batch in tqdm(range(batches), unit_scale=BATCH, unit="string"):
        for text in texts_of(arguments.seed, batch):
            took = milliseconds(render, text)
            digest.update(out.tobytes())
            for _ in range(3):
                if took > LIMIT_MS:
                    again = config.build(SIZE)
                    again([WARM_UP], out=out)
                    took = min(took, milliseconds(again, text))
            if took > slowest_ms:
                slowest_ms, slowest = took, text
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        same = pool.apply(digest_of_all, (arguments.renderer, arguments.seed, batches)) == digest.hexdigest()
    print(f"{batches * BATCH:,} strings; the slowest took {slowest_ms:.2f} ms: {ascii(slowest)[:80]}")
    print(f"pixels of another process are {'the same' if same else 'DIFFERENT'}")
    return 0 if same and slowest_ms <= LIMIT_MS else 1


if __name__ == "__main__":
    sys.exit(main())
