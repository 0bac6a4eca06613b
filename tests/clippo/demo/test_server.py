"""The server: what it answers, and what it refuses."""

import asyncio
import base64
import re
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from clippo.demo import server
from clippo.demo.answers import Answers
from clippo.demo.server import listen, make_app
from clippo.errors import UserError
from clippo.index import PictureIndex, build_index
from clippo.model import ByteTextConfig, Clippo
from tests.clippo.demo.conftest import COUNT, LANGUAGES, NAMES, png


@pytest.fixture
def client(answers) -> TestClient:
    return TestClient(make_app(answers), base_url="http://127.0.0.1:8000", headers={"accept-language": "en"})


def client_of(answers: Answers) -> httpx2.AsyncClient:
    """A client for many requests at once."""
    return httpx2.AsyncClient(
        transport=httpx2.ASGITransport(make_app(answers)), base_url="http://127.0.0.1:8000", timeout=30
    )


def test_about(client, answers):
    about = client.get("/api/about").json()
    assert about["model"] == "tiny"
    assert about["pictures"] == len(answers.index)
    assert about["languages"].keys() == set(LANGUAGES)
    assert about["max_text"] == server.MAX_TEXT


@pytest.mark.parametrize("text", ["dog", "كلب", "कुत्ता", "狗", "🐕", "\0", "a" * 500, "e\u0301", "../%00"])
def test_any_text_finds_pictures(client, answers, text):
    found = client.get("/api/text", params={"text": text, "top": 7}).json()
    assert len(found["pictures"]) == 7
    scores = [picture["score"] for picture in found["pictures"]]
    assert scores == sorted(scores, reverse=True)
    assert found["cut"] is (len(text) == 500)


def test_the_reading_is_what_the_model_reads(client, model):
    reading = client.get("/api/text", params={"text": "big dog"}).json()["reading"]
    pixels = np.frombuffer(base64.b64decode(reading["pixels"]), np.uint8).reshape(64, 64)
    np.testing.assert_array_equal(pixels, model.renderer(["big dog"])[0])
    assert reading["patches"] == [0, 1, 2, 3]  # "bi", "g ", "do", "g "


@pytest.mark.parametrize(
    ("text", "accepted", "language"),
    [
        ("Erdbeere", "en", "de"),
        ("strawberry", "de", "en"),
        ("كلب", "en", "ar"),
        ("कुत्ता", "en", "hi"),
        ("草", "en", "zh"),
        ("собака", "de", "de"),
        ("🐕", "es-MX;q=0.9", "es"),
        ("🐕", "xx", "en"),
    ],
)
def test_names_are_in_the_language_of_the_text(client, answers, monkeypatch, text, accepted, language):
    id = next(id for id, name in answers.names["en"].items() if name == "strawberry")
    [hit, *_] = answers.index.search(answers.model.encode_text(["x"]), 1)[0]
    monkeypatch.setattr(answers.index, "search", lambda z, top: [[type(hit)(id, 0.5)]])
    [picture] = client.get("/api/text", params={"text": text}, headers={"accept-language": accepted}).json()[
        "pictures"
    ]
    assert (picture["language"], picture["name"]) == (language, answers.names[language][id])


def test_a_language_can_be_chosen(client, answers):
    found = client.get("/api/text", params={"text": "dog", "language": "ar"}).json()["pictures"]
    assert [picture["name"] for picture in found] == [answers.names["ar"][picture["id"]] for picture in found]


def test_a_picture_finds_pictures_and_words(client, answers, model):
    thumbnail = answers.index.thumbnail(int(answers.index.ids[3]))
    found = client.post("/api/picture?languages=de,ar&top=7&language=hi", content=thumbnail).json()
    assert len(found["pictures"]) == 7
    assert {picture["language"] for picture in found["pictures"]} <= {"hi"}
    assert found["reading"]["channels"] == 3
    assert found["reading"]["patches"] == list(range(16))
    assert found["words"].keys() == {"de", "ar"}
    similarities = (
        model.encode_image(answers.pixels(thumbnail)[None]) @ model.encode_text(answers.names_of("de")).T
    )
    best = [answers.names_of("de")[i] for i in similarities[0].topk(5).indices]
    assert [word["text"] for word in found["words"]["de"]] == best


def test_names_are_embedded_once_and_not_kept_without_end(answers, monkeypatch):
    monkeypatch.setattr(server, "MAX_CACHED", 2)
    calls: list[int] = []
    encode = answers.model.encode_text
    monkeypatch.setattr(answers.model, "encode_text", lambda texts: calls.append(len(texts)) or encode(texts))

    async def ask() -> None:
        async with client_of(answers) as client:
            await asyncio.gather(*(client.get("/api/map?language=de") for _ in range(5)))
            assert sum(calls) == len(answers.names_of("de"))
            assert max(calls) <= server.NAMES_AT_A_TIME  # others have their turn in between
            for language in ("ar", "hi", "ar", "de"):
                await client.get(f"/api/map?language={language}")

    asyncio.run(ask())
    assert sum(calls) == sum(len(answers.names_of(language)) for language in ("de", "ar", "hi", "de"))


def test_the_map_has_both_modalities(client, answers, model):
    found = client.get("/api/map?language=en").json()
    assert (len(found["pictures"]), len(found["names"])) == (COUNT, len(NAMES))
    assert 0 < found["explained"] <= 1
    rows = [list(answers.index.ids).index(picture["id"]) for picture in found["pictures"]]
    names = [name["name"] for name in found["names"]]
    z = torch.cat([answers.index.embeddings[rows].float(), model.encode_text(names)])
    gap = torch.linalg.vector_norm(z[:COUNT].mean(0) - z[COUNT:].mean(0))
    assert found["gap"] == pytest.approx(float(gap), abs=1e-3)
    xy = torch.tensor([[point["x"], point["y"]] for point in found["pictures"] + found["names"]])
    variances = torch.linalg.svdvals(z - z.mean(0)) ** 2
    torch.testing.assert_close(xy.square().sum(0), variances[:2], rtol=1e-2, atol=1e-2)
    assert found["explained"] == pytest.approx(float(variances[:2].sum() / variances.sum()), abs=1e-2)


def test_thumbnails(client, answers):
    [picture] = client.get("/api/text?text=dog&top=1").json()["pictures"]
    thumbnail = client.get(picture["thumbnail"])
    assert thumbnail.content == answers.index.thumbnail(picture["id"])
    assert thumbnail.headers["content-type"] == "image/webp"
    assert "immutable" in thumbnail.headers["cache-control"]


@pytest.mark.parametrize(
    ("address", "status", "message"),
    [
        ("/api/text", 400, "text is empty"),
        ("/api/text?text=%20%0a", 400, "text is empty"),
        ("/api/text?text=" + "a" * 501, 400, "text must have at most 500 characters, got 501"),
        ("/api/text?text=a&top=0", 400, "top must be an integer from 1 to 100, got '0'"),
        ("/api/text?text=a&top=101", 400, "top must be"),
        ("/api/text?text=a&top=1e1", 400, "top must be"),
        ("/api/text?text=a&top=" + "9" * 5000, 400, "top must be"),
        ("/api/text?text=a&language=tlh", 400, "the index has no names in 'tlh'"),
        ("/api/map?language=tlh", 400, "the index has no names in 'tlh'"),
        ("/api/picture", 405, "Method Not Allowed"),
        ("/thumbnail/999999999", 404, "there is no picture 999999999"),
        ("/thumbnail/99999999999999999999999999", 404, "there is no picture"),
        ("/thumbnail/-1", 404, "Not Found"),
        ("/thumbnail/..%2f..%2fetc%2fpasswd", 404, "Not Found"),
        ("/static/..%2fserver.py", 404, "Not Found"),
        ("/static/%2e%2e/server.py", 404, "Not Found"),
        ("/static//etc/passwd", 404, "Not Found"),
        ("/static/", 404, "Not Found"),
        ("/clippo/demo/server.py", 404, "Not Found"),
    ],
)
def test_wrong_requests_are_refused(client, address, status, message):
    response = client.get(address)
    assert response.status_code == status
    assert message in response.json()["error"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 415, "an empty file"),
        (b"no picture", 415, "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "not a picture"),
        (png(64, 64)[:-25], 415, "cannot be read"),
        (png(12_000, 12_000), 413, "12000 x 12000 px, more than 134,217,728 pixels"),
        (png(20_000, 15_000), 413, "300000000 pixels"),
        (bytes(server.MAX_BODY + 1), 413, "at most 20,971,520 bytes"),
        (iter([bytes(2**20)] * 21), 413, "at most 20,971,520 bytes"),  # without a Content-Length
    ],
)
def test_what_is_no_picture_is_refused(client, body, status, message):
    response = client.post("/api/picture", content=body)
    assert response.status_code == status
    assert message in response.json()["error"]


def test_words_are_refused_in_unknown_or_too_many_languages(client):
    for languages, message in (("de,tlh", "no names in 'tlh'"), (",".join(["de"] * 9), "at most 8, got 9")):
        response = client.post(f"/api/picture?languages={languages}", content=b"")
        assert response.status_code == 400
        assert message in response.json()["error"]


def test_a_picture_that_does_not_arrive_is_given_up(answers, monkeypatch):
    monkeypatch.setattr(server, "BODY_SECONDS", 0.05)

    async def body() -> AsyncIterator[bytes]:
        yield b"\x89PNG"
        await asyncio.sleep(60)

    async def ask() -> int:
        async with client_of(answers) as client:
            return (await client.post("/api/picture", content=body())).status_code

    assert asyncio.run(ask()) == 408


@pytest.mark.parametrize(("path", "limit"), [("/api/text?text=a", 5), ("/api/picture", 3)])
def test_more_requests_than_the_limit_are_refused_at_once(answers, monkeypatch, path, limit):
    monkeypatch.setattr(server, "MAX_IN_FLIGHT", 5)
    monkeypatch.setattr(server, "MAX_PICTURES_IN_FLIGHT", 3)
    goes_on = threading.Event()
    search = answers.index.search
    monkeypatch.setattr(answers.index, "search", lambda *args: goes_on.wait(20) and search(*args))
    method, content = ("POST", png(8, 8)) if "picture" in path else ("GET", None)

    async def ask() -> None:
        async with client_of(answers) as client:
            waiting = [
                asyncio.create_task(client.request(method, path, content=content)) for _ in range(limit)
            ]
            await asyncio.sleep(0.1)
            refused = await client.request(method, path, content=content)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert (await client.get("/")).status_code == 200
            goes_on.set()
            assert {response.status_code for response in await asyncio.gather(*waiting)} == {200}
            assert (await client.request(method, path, content=content)).status_code == 200

    asyncio.run(ask())


def test_a_request_whose_sender_has_left_does_not_reach_the_model(answers, monkeypatch):
    app, asked = make_app(answers), []
    monkeypatch.setattr(answers, "find_by_text", lambda text, *rest: asked.append(text))
    scope = {
        "type": "http", "method": "GET", "path": "/api/text", "query_string": b"text=dog",
        "headers": [(b"host", b"localhost")],
    }  # fmt: skip
    statuses: list[int] = []

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        statuses.append(message.get("status", 0))

    asyncio.run(app(scope, receive, send))
    assert statuses[0] == 499
    assert asked == []


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""])
def test_other_names_of_the_server_are_refused(client, host):
    for address in ("/", "/api/about", "/thumbnail/1"):
        assert client.get(address, headers={"host": host}).status_code == 400


@pytest.mark.parametrize("address", ["/", "/static/app.js", "/api/text?text=a", "/api/text", "/missing"])
def test_every_answer_has_the_security_headers(client, address):
    headers = client.get(address).headers
    assert headers["content-security-policy"].startswith("default-src 'self';")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["referrer-policy"] == "no-referrer"


def test_the_page_has_no_inline_script_or_style_and_asks_no_other_host():
    for file in server.STATIC.iterdir():
        content = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in content
        assert not re.search(r"<style|style=|\bon[a-z]+=|<script(?![^>]*src=)", content)


def test_a_model_that_reads_bytes_shows_no_reading(model, source, tmp_path):
    torch.manual_seed(0)
    reader = Clippo(replace(model.config, text=ByteTextConfig()))
    reader.init_weights()
    build_index(reader.eval(), source, tmp_path / "pictures.idx")
    answers = Answers(reader, PictureIndex.open(tmp_path / "pictures.idx"))
    found = TestClient(make_app(answers), base_url="http://localhost").get("/api/text?text=red").json()
    assert found["reading"] is None
    assert len(found["pictures"]) == 24


def test_a_port_that_cannot_be_served_is_said_in_one_line():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        for host, number in (
            ("127.0.0.1", port),
            ("127.0.0.1", 70_000),
            ("192.0.2.1", 0),
            ("no such host", 0),
        ):
            message = f"cannot serve port {number} of {host}: .*--port 0 picks a free port"
            with pytest.raises(UserError, match=message):
                listen(host, number)
