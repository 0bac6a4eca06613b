"""Rendering captions in six kinds of text, against other ways to draw them; strings per second.

    pytest bench/suites/bench_render.py
    pytest bench/suites/bench_render.py -k English

"unseen": a renderer that has drawn 10,000 captions draws others. "repeated": it draws those again. One
thread; "packed": straight to the patches that hold ink. "processes" are RenderPools, and their rates include
what hands the images over. All images are 224 x 224 px. Peers get the easier task: none trims or reports, and
drawSimpleText and Pillow without raqm shape nothing and break lines after a fixed number of characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, features

from clippo.bench.captions import KINDS, captions
from clippo.renderer import (
    AlignedParagraphRenderer,
    AlignedRenderer,
    ParagraphRenderer,
    Renderer,
    RenderPool,
    UnifontRenderer,
    find_font,
    import_skia,
)

SIZE = 224
BATCH = 256
WARM_UP, UNSEEN, FOR_PEERS = 10_000, 4096, 512
UNIFONT = "unifont.otf"

Draw = Callable[[list[str], np.ndarray], Any]
RendererType = type[UnifontRenderer] | type[ParagraphRenderer]
RENDERERS = {
    kind.__name__: kind
    for kind in (UnifontRenderer, ParagraphRenderer, AlignedRenderer, AlignedParagraphRenderer)
}
NAMES = [*RENDERERS, "AlignedRenderer, packed", "AlignedParagraphRenderer, packed"]


@cache
def texts_of(kind: str) -> list[str]:
    try:
        return captions(kind, WARM_UP + UNSEEN)
    except FileNotFoundError as error:
        pytest.skip(str(error))


def batches(texts: list[str], size: int = BATCH) -> list[list[str]]:
    return [texts[i : i + size] for i in range(0, len(texts), size)]


def lines_of(text: str) -> Iterable[tuple[int, str]]:
    """Top in px, and text, of lines of 28 characters, as many half-width ones as fit into a row."""
    for row in range(min(SIZE // 16, -(-len(text) // 28))):
        yield 16 * row, text[28 * row : 28 * (row + 1)]


def pillow(engine: ImageFont.Layout) -> Draw:
    font = ImageFont.truetype(str(find_font(UNIFONT, package="fonts-unifont")), 16, layout_engine=engine)

    def draw_all(texts: list[str], out: np.ndarray) -> None:
        for i, text in enumerate(texts):
            image = Image.new("L", (SIZE, SIZE), 127)
            draw = ImageDraw.Draw(image)
            for y, line in lines_of(text):
                draw.text((0, y), line, fill=0, font=font)
            out[i] = np.asarray(image)

    return draw_all


def draw_simple_text() -> Draw:
    skia = import_skia()
    path = str(find_font(UNIFONT, package="fonts-unifont"))
    font = skia.Font(skia.FontMgr.New_Custom_Empty().makeFromFile(path), 16)
    paint = skia.Paint(Color=0xFF000000)

    def draw_all(texts: list[str], out: np.ndarray) -> None:
        out.fill(127)
        for i, text in enumerate(texts):
            canvas = skia.Canvas(out[i], skia.kGray_8_ColorType, skia.kOpaque_AlphaType)
            for y, line in lines_of(text):
                canvas.drawSimpleText(line, 0, y + 14, font, paint)

    return draw_all


def pango_cairo() -> Draw:
    cairo = pytest.importorskip("cairo", exc_type=ImportError)
    gi = pytest.importorskip("gi", exc_type=ImportError)
    try:
        gi.require_version("PangoCairo", "1.0")
        from gi.repository import Pango, PangoCairo
    except (ValueError, ImportError) as error:
        pytest.skip(f"PangoCairo cannot be imported: {error}")

    def draw_all(texts: list[str], out: np.ndarray) -> None:
        surface = cairo.ImageSurface(cairo.FORMAT_A8, SIZE, SIZE)
        context = cairo.Context(surface)
        layout = PangoCairo.create_layout(context)
        layout.set_font_description(Pango.FontDescription("Unifont 12"))
        layout.set_width(SIZE * Pango.SCALE)
        pixels = np.ndarray((SIZE, surface.get_stride()), np.uint8, surface.get_data())
        for i, text in enumerate(texts):
            pixels[:] = 0
            layout.set_text(text, -1)
            PangoCairo.show_layout(context, layout)
            surface.flush()
            np.subtract(127, pixels[:, :SIZE] // 2, out=out[i])

    return draw_all


PEERS: dict[str, Callable[[], Draw]] = {
    "Pillow": lambda: pillow(ImageFont.Layout.BASIC),
    "Pillow raqm": lambda: pillow(ImageFont.Layout.RAQM),
    "drawSimpleText": draw_simple_text,
    "PangoCairo": pango_cairo,
}


def measure(benchmark: Any, name: str, strings: int, draw_all: Callable[..., Any], setup: Any = None) -> None:
    """Time `draw_all`, which draws so many strings; `setup` makes its arguments anew for each round."""
    benchmark.pedantic(draw_all, setup=setup, rounds=5)
    seconds = benchmark.stats["median"]
    benchmark.extra_info.update(
        name=name, median_us=seconds * 1e6, strings=strings, strings_per_s=round(strings / seconds)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seen", ["unseen", "repeated"])
def test_renderer(benchmark: Any, kind: str, name: str, seen: str) -> None:
    texts = texts_of(kind)
    benchmark.group = f"{kind}, {seen}"
    out = np.empty((BATCH, SIZE, SIZE), np.uint8)

    def draw_all(renderer: Any, texts: list[str]) -> None:
        for batch in batches(texts):
            if name.endswith(", packed"):
                renderer.render_packed(batch)
            else:
                renderer(batch, out=out[: len(batch)])

    def used_renderer() -> tuple[tuple[Renderer, list[str]], dict[str, Any]]:
        renderer = RENDERERS[name.removesuffix(", packed")](SIZE)
        draw_all(renderer, texts[:WARM_UP])
        if seen == "repeated":
            draw_all(renderer, texts[WARM_UP:])
        return (renderer, texts[WARM_UP:]), {}

    measure(benchmark, name, UNSEEN, draw_all, used_renderer)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("peer", PEERS)
def test_peer(benchmark: Any, kind: str, peer: str) -> None:
    if peer == "Pillow raqm" and not features.check("raqm"):
        pytest.skip("Pillow was built without raqm")
    texts = texts_of(kind)[WARM_UP : WARM_UP + FOR_PEERS]
    benchmark.group = f"{kind}, unseen"
    draw = PEERS[peer]()
    out = np.empty((BATCH, SIZE, SIZE), np.uint8)
    draw(texts_of(kind)[:BATCH], out)

    def draw_all() -> None:
        for batch in batches(texts):
            draw(batch, out[: len(batch)])

    measure(benchmark, peer, len(texts), draw_all)


@pytest.mark.parametrize("kind", ["English", "Arabic", "Hindi"])
@pytest.mark.parametrize("renderer_type", [UnifontRenderer, ParagraphRenderer])
@pytest.mark.parametrize("workers", [1, 2])
def test_processes(benchmark: Any, kind: str, renderer_type: RendererType, workers: int) -> None:
    texts = texts_of(kind)
    benchmark.group = f"{kind}, processes"
    with RenderPool(renderer_type(SIZE), workers=workers, batch_size=2 * BATCH, ahead=3) as pool:

        def drain(images: Iterator[np.ndarray]) -> None:
            for _ in images:
                pass

        drain(pool.map(batches(texts, 2 * BATCH)))
        name = f"{renderer_type.__name__}, {workers} worker{'s'[: workers - 1]}"
        measure(benchmark, name, len(texts), lambda: drain(pool.map(batches(texts, 2 * BATCH))))
