"""The page in a real browser, and the program that serves it."""

import contextlib
import http.client
import io
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from playwright.sync_api import Error as PlaywrightError

from clippo.bench.studies.demo import chromium, serving
from clippo.demo.server import MAX_BODY
from tests.clippo.demo.conftest import NAMES, png

pytestmark = pytest.mark.slow

TIMEOUT_MS = 60_000  # for a machine with much else to do
ENGLISH = next(zip(*NAMES, strict=True))


@pytest.fixture(scope="module")
def address(model, index_file, tmp_path_factory) -> Iterator[str]:
    """The address that `clippo demo` prints; in the end Ctrl-C ends it as it does other verbs."""
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    with serving(index_file, folder) as (process, address):
        yield address
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=600)
        assert (process.returncode, out, errors) == (130, "", "clippo: interrupted\n")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        if browser is None:
            pytest.skip("there is no Chromium (apt-get install chromium)")
        yield browser


@pytest.fixture
def open_page(browser, address) -> Iterator[Callable[..., Page]]:
    """Opens the page. In the end nothing was asked of another host, and no error was written."""
    asked, errors, contexts = [], [], []

    def go(**options: Any) -> Page:
        contexts.append(context := browser.new_context(**{"locale": "en-GB"} | options))
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        return page

    yield go
    for context in contexts:
        context.close()
    assert {urlsplit(url).netloc for url in asked} == {urlsplit(address).netloc}
    # Chromium writes one for each answer that is an error; others would be of the policy or of the script.
    assert [
        error for error in errors if not re.match(r"Failed to load resource.* (413|415|503) ", error)
    ] == []


@pytest.fixture
def page(open_page) -> Page:
    return open_page()


def settle(page: Page) -> list[str]:
    """Wait until the pictures of the last query are shown, and give their names."""
    page.wait_for_selector("#pictures[aria-busy=false] li")
    assert page.evaluate("[...document.querySelectorAll('#pictures img')].every((img) => img.naturalWidth)")
    return page.locator("#pictures bdi").all_inner_texts()


def drop(page: Page, content: bytes) -> None:
    """Drop a file on the page, as from a file manager."""
    with page.expect_event("response", lambda response: "/api/picture" in response.url):
        page.evaluate(
            """(content) => {
                const data = new DataTransfer();
                data.items.add(new File([Uint8Array.from(content)], "dropped"));
                for (const kind of ["dragover", "drop"])
                    document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true }));
            }""",
            list(content),
        )


@pytest.mark.parametrize(
    ("text", "direction", "patches"),
    [
        ("strawberry", "ltr", 5),
        ("فراولة", "rtl", 3),
        ("कुत्ता", "ltr", 3),
        ("草莓", "ltr", 2),
        ("🐕", "ltr", 1),
    ],
)
def test_typing_finds_pictures_by_name(page, text, direction, patches):
    page.keyboard.type(text)  # the field has the focus
    names = settle(page)
    assert len(names) == 24
    of_language = next((names_in for names_in in zip(*NAMES, strict=True) if text in names_in), ENGLISH)
    assert set(names) <= set(of_language)
    assert page.evaluate("getComputedStyle(document.querySelector('#text')).direction") == direction
    label = page.locator("#reading canvas").get_attribute("aria-label")
    assert f"{patches} patch" in label


def test_without_a_text_there_are_no_pictures(page):
    page.keyboard.type("dog")
    settle(page)
    for _ in "dog":
        page.keyboard.press("Backspace")
    page.wait_for_selector("#pictures li", state="detached")
    assert page.locator("#hint").is_visible()
    assert page.locator("#reading").is_hidden()


def test_an_answer_that_comes_late_is_dropped(page):
    held = []
    page.route(re.compile(r"/api/text\?.*text=d$"), lambda route: held.append(route))
    page.keyboard.type("do")
    settle(page)
    for route in held:
        with contextlib.suppress(PlaywrightError):  # the page has given it up
            route.fulfill(json={"pictures": [], "reading": None, "cut": False})
    page.wait_for_timeout(200)
    assert len(held) == 1
    assert len(settle(page)) == 24


def test_a_dropped_picture_finds_pictures_and_words(open_page):
    page = open_page(locale="de-DE")
    drop(page, picture())
    names = settle(page)
    assert set(names) <= set(list(zip(*NAMES, strict=True))[1])
    assert "16 patches" in page.locator("#reading canvas").get_attribute("aria-label")
    assert page.locator("#words dt").all_inner_texts() == ["Deutsch", "Englisch"]
    page.get_by_label("Languages of the words").select_option(["hi"])
    expect(page.locator("#words dt")).to_have_text(["Hindi"])
    assert set(page.locator("#words bdi").all_inner_texts()) <= set(list(zip(*NAMES, strict=True))[4])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no picture", "the file cannot be read: not a picture in JPEG"),
        (png(64, 64)[:-25], "the file cannot be read"),
        (png(20_000, 15_000), "300000000 pixels"),
    ],
)
def test_a_picture_that_cannot_be_shown_gives_a_message_and_the_page_goes_on(page, content, message):
    page.keyboard.type("dog")
    settle(page)
    drop(page, content)
    expect(page.get_by_role("alert")).to_contain_text(message, timeout=TIMEOUT_MS)
    assert page.locator("#pictures li").count() == 0
    page.locator("#text").fill("cat")
    assert len(settle(page)) == 24
    assert page.get_by_role("alert").inner_text() == ""


def test_a_file_that_is_too_large_is_not_sent(page, tmp_path):
    (tmp_path / "large.png").write_bytes(bytes(MAX_BODY + 1))
    sent = []
    page.on("request", lambda request: sent.append(request.url))
    page.get_by_label("or for a picture").set_input_files(tmp_path / "large.png")
    expect(page.get_by_role("alert")).to_contain_text("at most 20 MB", timeout=TIMEOUT_MS)
    assert not [url for url in sent if "/api/" in url]


def test_the_page_works_by_keyboard_alone(page):
    page.keyboard.type("dog")
    settle(page)
    focus = "document.activeElement.id || document.activeElement.tagName"
    passed = [page.evaluate(focus)]
    for _ in range(3):
        page.keyboard.press("Tab")
        passed.append(page.evaluate(focus))
    assert passed == ["text", "file", "language", "SUMMARY"]
    page.keyboard.press("Enter")
    expect(page.locator("#map-text")).to_contain_text("64 pictures", timeout=TIMEOUT_MS)
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    first = page.locator("#map-point bdi").inner_text()
    assert first in ENGLISH
    for key in ("ArrowLeft", "ArrowLeft", "ArrowUp", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    assert page.locator("#map-point bdi").inner_text() in ENGLISH


def test_a_screen_reader_hears_what_was_found_once_typing_pauses(page):
    page.keyboard.type("dog")
    expect(page.get_by_role("status")).to_contain_text("24 pictures; most similar: ", timeout=TIMEOUT_MS)
    for label in ("Look for, in any script", "or for a picture like this one", "Names in"):
        assert page.get_by_label(label).count() == 1
    assert page.get_by_role("search").count() == 1
    assert page.locator("#pictures img:not([alt])").count() == 0


def test_names_in_a_chosen_language(page):
    page.keyboard.type("dog")
    settle(page)
    page.get_by_label("Names in").select_option("ar")
    page.wait_for_selector("#pictures bdi:lang(ar)")
    assert set(settle(page)) <= set(list(zip(*NAMES, strict=True))[3])


@pytest.mark.parametrize(("scheme", "darker"), [("dark", True), ("light", False)])
def test_dark_and_light(open_page, scheme, darker):
    page = open_page(color_scheme=scheme)
    page.keyboard.type("dog")
    settle(page)
    ground, ink = (
        page.evaluate(f"getComputedStyle(document.body).{name}.match(/\\d+/g).map(Number)")
        for name in ("backgroundColor", "color")
    )
    assert (sum(ground) < sum(ink)) is darker


def test_a_narrow_screen_needs_no_scrolling_to_the_side(open_page):
    page = open_page(viewport={"width": 320, "height": 640})
    drop(page, picture())
    settle(page)
    page.locator("summary").click()
    expect(page.locator("#map-text")).to_contain_text("64 pictures", timeout=TIMEOUT_MS)
    assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_the_policy_stops_scripts_that_get_into_the_page(browser, address):
    page = browser.new_page()
    violations: list[str] = []
    page.on("console", lambda message: violations.append(message.text))
    page.goto(address)
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.body.append(script, Object.assign(new Image(), { src: "http://127.0.0.2/leak" }));
        }"""
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.ran") is None
    assert sum("Content Security Policy" in violation for violation in violations) == 2
    page.close()


@pytest.mark.parametrize(
    "path",
    ["/static/../server.py", "/static/../../../etc/passwd", "/thumbnail/../../etc/passwd", "/../x", "//etc"],
)
def test_no_path_leaves_the_page(address, path):
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=10)
    connection.request("GET", path)  # as it is, where other clients would shorten it
    assert connection.getresponse().status == 404
    connection.close()


def picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (300, 200), "tomato").save(out, "JPEG")
    return out.getvalue()
