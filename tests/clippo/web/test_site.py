"""The exported folder, in Node and in a browser: its embeddings are the model's, by which the page ranks."""

import base64
import io
import json
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clippo.bench.studies.demo import chromium
from clippo.cli import main
from clippo.data.base import Text
from clippo.index import build_index
from clippo.index.store import Entry
from clippo.model import ByteTextConfig, Clippo, RenderedTextConfig, create_model
from clippo.renderer import AlignedRenderer, UnifontRenderer
from clippo.web import WebPictures, export_web
from clippo.web.pictures import name_of
from tests.clippo.web.conftest import as_modules

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

TEXTS = [
    "",
    "a cat",
    "perro",
    "قطة",
    "हिन्दी",
    "草莓",
    "👩🏽‍🚀",
    "Größe, ÄRGER!",
    "a longer text that is cut " * 4,
]
NUM_PICTURES = 30


def picture(seed: int) -> Image.Image:
    """Four random colours, in squares of 45 x 30 px."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return Image.fromarray(colours.repeat(30, 0).repeat(45, 1))


def encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, lossless=True)
    return file.getvalue()


@pytest.fixture(scope="module")
def pictures(model) -> WebPictures:
    images = [picture(seed) for seed in range(NUM_PICTURES)]
    names = [f"Bild {seed}" for seed in range(NUM_PICTURES)]
    return WebPictures(names, [encoded(image, "webp") for image in images], model.encode_image(images))


@pytest.fixture(scope="module")
def site(node, model, pictures, tmp_path_factory) -> Path:
    """The folder; `node` puts npm where it is found."""
    folder = tmp_path_factory.mktemp("web") / "site"
    assert export_web(model, folder, pictures) < 1e-5
    return folder


@pytest.mark.slow
def test_embeddings(node, site, model, tmp_path):
    """Of texts in several scripts and of pictures, through WebAssembly."""
    folder = as_modules(Path(shutil.copytree(site, tmp_path / "site")))
    images = [picture(100), picture(101).resize((64, 64))]
    rgba = [base64.b64encode(image.convert("RGBA").tobytes()).decode() for image in images]
    inputs = {
        "texts": TEXTS,
        "pictures": [
            {"width": image.width, "height": image.height, "rgba": pixels}
            for image, pixels in zip(images, rgba, strict=True)
        ],
    }
    (tmp_path / "inputs.json").write_text(json.dumps(inputs))
    z = torch.tensor(json.loads(node("embed.mjs", folder, tmp_path / "inputs.json")))
    torch.testing.assert_close(z[: len(TEXTS)], model.encode_text(TEXTS), atol=1e-5, rtol=1e-5)
    # A grey level, by which resizing may differ, is 1/255 of the range.
    torch.testing.assert_close(z[len(TEXTS) :], model.encode_image(images), atol=2e-3, rtol=0)


@pytest.fixture(scope="module")
def address(site):
    """Of a server of files, like any other."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def browser_page(address):
    """The page, loaded. In the end it has asked nobody else for anything, and written no error."""
    asked, errors = [], []
    with chromium() as browser:
        if browser is None:
            pytest.skip("there is no Chromium (apt-get install chromium)")
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.locator("#query:enabled").wait_for()
        yield page
    assert not errors
    assert not [url for url in asked if not url.startswith((address, "blob:", "data:"))]


@pytest.mark.slow
def test_page(browser_page, model, pictures):
    """Typing ranks the pictures as the model does; so does a picture of one's own, after it is added."""
    page = browser_page

    def shown() -> list[str]:
        return page.locator("#results button span:first-of-type").all_text_contents()

    page.locator("#query").press_sequentially("perro")
    page.get_by_text("The 24 of 30 nearest").wait_for()
    score = pictures.embeddings @ model.encode_text(["perro"])[0]
    order = score.sort(descending=True)
    assert shown() == [pictures.names[i] for i in order.indices[:24]]
    assert page.locator(".similarity").first.text_content() == f"{order.values[0]:.3f}"
    thumbnail = page.locator("#results img").first
    assert thumbnail.evaluate("image => image.decode().then(() => image.naturalWidth)") == 90

    # The canvas shows what the renderer draws, enlarged four times, except for the frames of the patches.
    grey = page.locator("#reading").evaluate(
        """canvas => [...canvas.getContext("2d").getImageData(0, 0, 256, 256).data]
            .filter((_, i) => i % 4 === 0)"""
    )
    [drawn] = AlignedRenderer(64)(["perro"])
    is_inside = (np.arange(64) % 16 > 0) & (np.arange(64) % 16 < 15)
    np.testing.assert_array_equal(
        np.reshape(grey, (256, 256))[2::4, 2::4][is_inside][:, is_inside], drawn[is_inside][:, is_inside]
    )

    own, broken = encoded(picture(7), "png"), b"no picture"
    files = [{"name": name, "mimeType": "image/png", "buffer": content} for name, content in
             (("own.png", own), ("broken.png", broken))]  # fmt: skip
    page.locator("#own").set_input_files(files)
    page.get_by_text("No picture, or too large a one: broken.png").wait_for()
    page.locator("#query").fill("")
    page.locator("#query").fill("草莓")
    page.get_by_text("The 24 of 31 nearest").wait_for()
    page.locator("#results button").first.click()
    page.get_by_text("of 31 like").wait_for()
    assert page.locator(".similarity").first.text_content() == "1.000"


@pytest.mark.slow
def test_command(model, tmp_path, capsys):
    """With the pictures of an index; a folder that holds something is left as it is."""
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "pictures").mkdir()
    images = [picture(seed) for seed in range(3)]
    for number, image in enumerate(images):
        image.save(tmp_path / "pictures" / f"{number}.png")
    build_index(model, str(tmp_path / "pictures"), tmp_path / "x.idx")
    index = ["--index", str(tmp_path / "x.idx")]
    main(["export", str(tmp_path / "model"), "--web", str(tmp_path / "site"), *index])
    assert "differs by at most" in capsys.readouterr().out
    site = json.loads((tmp_path / "site" / "site.json").read_text())
    assert site == {"resize": "bicubic", "names": ["0.png", "1.png", "2.png"]}
    z = np.fromfile(tmp_path / "site" / "embeddings.bin", "<f4").reshape(3, -1)
    np.testing.assert_allclose(z, model.encode_image(images), atol=1e-3)  # of half precision
    with Image.open(tmp_path / "site" / "thumbnails" / "2.webp") as thumbnail:
        assert np.abs(np.asarray(thumbnail, int) - np.asarray(images[2], int)).mean() < 16
    with pytest.raises(SystemExit):
        main(["export", str(tmp_path / "model"), "--web", str(tmp_path / "site")])
    assert "is not an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("texts", "name"),
    [
        ([("de", "Hund"), ("en", "dog")], "dog"),
        ([("de", "Hund"), ("es", "perro")], "Hund"),
        ([(None, "my dog")], "my dog"),
        ([], "1.png"),
    ],
)
def test_names(texts, name):
    texts = tuple(Text(text, language) for language, text in texts)
    assert name_of(Entry(1, "", "a/1.png", None, "", None, 1, 1, texts)) == name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of --out and --web"),
        (["--out", "x.onnx", "--web", "x"], "give one of --out and --web"),
        (["--web", "x", "--texts"], "--texts goes with --out"),
        (["--out", "x.onnx", "--index", "x.idx"], "--index goes with --web"),
        (["--web", "none/x"], "there is no folder none"),
    ],
)
def test_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(["export", "none", *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "renderer", "message"),
    [
        (ByteTextConfig(), None, "the page draws text as AlignedRenderer does"),
        (
            RenderedTextConfig(tokens="inked"),
            UnifontRenderer(64),
            "the page draws text as AlignedRenderer does",
        ),
        (RenderedTextConfig(tokens="all"), AlignedRenderer(64), 'the model reads "all"'),
        (RenderedTextConfig(tokens="inked"), AlignedRenderer(64, align="cell"), "align='word'"),
    ],
)
def test_models_without_a_page(text, renderer, message, tmp_path):
    config = create_model("clippo-mu16", image_size=64, embed_dim=8, text=text).config
    with pytest.raises(ValueError, match=message):
        export_web(Clippo(config, renderer), tmp_path / "site")
    assert not (tmp_path / "site").exists()
