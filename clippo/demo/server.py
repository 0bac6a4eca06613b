"""The server of the page: a small JSON API over HTTP, for people who are not all trusted.

| | |
|---|---|
| `GET /` | the page; `/static/...` has its script and style |
| `GET /api/about` | the model, the number of pictures, and of the names in each language |
| `GET /api/text?text=` | the pictures most similar to a text |
| `POST /api/picture` | the pictures most similar to one, whose file is the body, and words for it |
| `GET /api/map?language=` | a plane with both modalities |
| `GET /thumbnail/{id}` | a picture of the index, small, as WebP |

Both searches take `top`, how many pictures to find, and `language`, of their names. The words for a picture
are in its `languages`, separated by commas. Answers are objects of JSON, described in `clippo.demo.answers`;
that of an error has one field, "error". The status is 400 for a wrong value, 413 for too large a picture, 415
for what is no picture, and 503 where as many requests as `MAX_IN_FLIGHT` or `MAX_PICTURES_IN_FLIGHT` wait.

No path from a request is ever opened: pictures go by their number in the index. The model runs in one thread,
one request at a time, and a request whose sender has left by its turn is dropped. Pictures are decoded in
another thread, at most one at a time, as each may take 400 MB.
"""

from __future__ import annotations

import asyncio
import socket
import webbrowser
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from torch import Tensor

from clippo.data.decode import TooLargeError
from clippo.demo.answers import Answers
from clippo.errors import UserError

__all__ = ["MAX_BODY", "MAX_IN_FLIGHT", "MAX_PICTURES_IN_FLIGHT", "MAX_TEXT", "listen", "make_app", "serve"]

MAX_BODY = 20 * 2**20  # bytes of a picture's file
MAX_TEXT = 500  # characters; with twelve bytes of an address for each, a request has less than 16 kB
MAX_TOP = 100
MAX_LANGUAGES = 8  # of the words for a picture
MAX_IN_FLIGHT = 64  # requests to the API; a small model answers as many in half a second
MAX_PICTURES_IN_FLIGHT = 8  # whose files are in memory
MAX_CACHED = 32  # languages whose names stay embedded; one has at most 5 MB at 256 features
BODY_SECONDS = 30  # to send a picture
NAMES_AT_A_TIME = 128  # that are embedded before other requests have their turn
STATIC = Path(__file__).with_name("static")

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",  # no other site may learn from an <img> what is indexed
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

T = TypeVar("T")


def make_app(answers: Answers, hosts: Sequence[str] = ("127.0.0.1", "localhost")) -> Starlette:
    """Make the ASGI application of the page.

    Args:
        answers: what the model and the index say.
        hosts: names under which the server may be called. A page of another site that has its own name
            resolved to this machine (DNS rebinding) is refused.
    """
    api = Api(answers)
    routes = [
        Route("/", page),
        Route("/api/about", api.about),
        Route("/api/text", api.text),
        Route("/api/picture", api.picture, methods=["POST"]),
        Route("/api/map", api.map),
        Route("/thumbnail/{id:int}", api.thumbnail),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    middleware = [
        Middleware(SecurityHeaders),
        Middleware(TrustedHostMiddleware, allowed_hosts=[*hosts], www_redirect=False),
        Middleware(InFlightLimit, path="/api/", limit=MAX_IN_FLIGHT),
        Middleware(InFlightLimit, path="/api/picture", limit=MAX_PICTURES_IN_FLIGHT),
    ]
    return Starlette(routes=routes, middleware=middleware, exception_handlers={HTTPException: refuse})


def listen(host: str, port: int) -> socket.socket:
    """Take a port, before the work of reading a model.

    Args:
        host: an IPv4 address or a name of this machine.
        port: 0 picks a free one.

    Raises:
        UserError: there is no such address, or another program has the port.
    """
    try:
        listening = socket.create_server((host, port))
        # asyncio sets this for sockets of its own alone. Without it the second of the two parts of an answer
        # waits up to 40 ms for the acknowledgement of the first.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot serve port {port} of {host}: {reason}; --port 0 picks a free port"
        ) from error


def serve(app: Starlette, listening: socket.socket, *, open_browser: bool) -> None:
    """Print the address of the page and serve it, until Ctrl-C raises KeyboardInterrupt.

    Args:
        app: from `make_app`.
        listening: from `listen`.
        open_browser: open the page in the browser.
    """
    host, port = listening.getsockname()
    address = f"http://{host}:{port}/"
    print(f"{address} shows the page until Ctrl-C", flush=True)
    if open_browser:
        webbrowser.open(address)  # its connection waits until the server takes it
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, lifespan="off", ws="none",
        proxy_headers=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listening])


async def page(request: Request) -> FileResponse:
    return FileResponse(STATIC / "index.html")


async def refuse(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


class Api:
    """The routes that ask the model or the index."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.turn = asyncio.Semaphore(1)  # of the model
        self.model_thread = ThreadPoolExecutor(1, "model")
        self.decoding_thread = ThreadPoolExecutor(1, "decoding")
        self.embedded_names: OrderedDict[str, asyncio.Task[tuple[list[str], Tensor]]] = OrderedDict()

    async def about(self, request: Request) -> JSONResponse:
        return JSONResponse(self.answers.about() | {"max_text": MAX_TEXT, "max_bytes": MAX_BODY})

    async def text(self, request: Request) -> JSONResponse:
        text = request.query_params.get("text", "")
        if not text.strip():
            raise HTTPException(400, "text is empty")
        if len(text) > MAX_TEXT:
            raise HTTPException(400, f"text must have at most {MAX_TEXT} characters, got {len(text):,}")
        arguments = text, top_of(request), self.language_of(request), preferred_languages(request)
        return JSONResponse(await self.ask_model(lambda: self.answers.find_by_text(*arguments), request))

    async def picture(self, request: Request) -> JSONResponse:
        top, language, preferred = top_of(request), self.language_of(request), preferred_languages(request)
        languages = [code for code in request.query_params.get("languages", "").split(",") if code]
        if len(languages) > MAX_LANGUAGES:
            raise HTTPException(400, f"languages must be at most {MAX_LANGUAGES}, got {len(languages)}")
        for code in languages:
            self.check_language("languages", code)
        body = await body_of(request)
        loop = asyncio.get_running_loop()
        try:
            pixels = await loop.run_in_executor(self.decoding_thread, self.answers.pixels, body)
        except TooLargeError as error:
            raise HTTPException(413, str(error)) from error
        except ValueError as error:
            raise HTTPException(415, f"the file cannot be read: {error}") from error
        answer, z = await self.ask_model(
            lambda: self.answers.find_by_picture(pixels, top, language, preferred), request
        )
        answer["words"] = {
            code: self.answers.words(z, *await self.names_in(code)) for code in dict.fromkeys(languages)
        }
        return JSONResponse(answer)

    async def map(self, request: Request) -> JSONResponse:
        language = self.language_of(request) or "und"
        names, embeddings = await self.names_in(language)
        answer = await self.ask_model(lambda: self.answers.map(language, names, embeddings), request)
        return JSONResponse(answer)

    async def thumbnail(self, request: Request) -> Response:
        """Send a thumbnail. It is read in 20 microseconds, less than the way to another thread takes."""
        try:
            content = self.answers.index.thumbnail(request.path_params["id"])
        except (KeyError, OverflowError) as error:
            raise HTTPException(404, f"there is no picture {request.path_params['id']}") from error
        # The address names the content.
        headers = {"Cache-Control": "private, max-age=86400, immutable"}
        return Response(content, media_type="image/webp", headers=headers)

    async def ask_model(self, ask: Callable[[], T], request: Request | None = None) -> T:
        """Run a function in the thread of the model, unless the sender of the request has left by then."""
        async with self.turn:
            if request is not None and await request.is_disconnected():
                raise HTTPException(499, "the request was given up")
            return await asyncio.get_running_loop().run_in_executor(self.model_thread, ask)

    async def names_in(self, language: str) -> tuple[list[str], Tensor]:
        """Names in a language and their embeddings, (N, D), which requests that come together share."""
        if language not in self.embedded_names:
            self.embedded_names[language] = asyncio.create_task(self.embed_names(language))
            if len(self.embedded_names) > MAX_CACHED:
                self.embedded_names.popitem(last=False)
        self.embedded_names.move_to_end(language)
        return await asyncio.shield(self.embedded_names[language])

    async def embed_names(self, language: str) -> tuple[list[str], Tensor]:
        names = self.answers.names_of(language)
        blocks = [names[i : i + NAMES_AT_A_TIME] for i in range(0, len(names), NAMES_AT_A_TIME)]
        model = self.answers.model
        parts = [await self.ask_model(partial(model.encode_text, block)) for block in blocks]
        return names, torch.cat(parts) if parts else torch.zeros(0, model.config.embed_dim)

    def language_of(self, request: Request) -> str | None:
        """The language that a request names; None if it leaves that to the server."""
        language = request.query_params.get("language")
        return None if not language else self.check_language("language", language)

    def check_language(self, name: str, language: str) -> str:
        if language not in self.answers.names:
            raise HTTPException(400, f"{name}: the index has no names in {language[:20]!r}")
        return language


def top_of(request: Request) -> int:
    given = request.query_params.get("top", "24")
    if not given.isascii() or not given.isdecimal() or not 1 <= int(given[:9]) <= MAX_TOP:
        raise HTTPException(400, f"top must be an integer from 1 to {MAX_TOP}, got {given[:20]!r}")
    return int(given)


def preferred_languages(request: Request) -> list[str]:
    """The languages of the reader, best first, as browsers list them; "en" too for "en-GB"."""
    listed = request.headers.get("accept-language", "").split(",")[:MAX_LANGUAGES]
    codes = [part.partition(";")[0].strip() for part in listed]
    return [*dict.fromkeys(code for full in codes for code in (full, full.partition("-")[0]))]


async def body_of(request: Request) -> bytes:
    """Read the body of a request, as far as it may go."""
    too_large = HTTPException(413, f"a picture's file may have at most {MAX_BODY:,} bytes")
    if int(request.headers.get("content-length", 0)) > MAX_BODY:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY:
                    raise too_large
    except TimeoutError as error:
        raise HTTPException(408, f"the picture did not arrive within {BODY_SECONDS} s") from error
    return bytes(body)


class SecurityHeaders:
    """Adds `HEADERS` to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, send_with_headers)


class InFlightLimit:
    """Refuses requests while others wait for their answers.

    Args:
        app: the application.
        path: the beginning of the paths that it counts.
        limit: how many requests may wait.
    """

    def __init__(self, app: ASGIApp, path: str, limit: int) -> None:
        self.app = app
        self.path = path
        self.limit = limit
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope.get("path", "").startswith(self.path):
            await self.app(scope, receive, send)
            return
        if self.in_flight >= self.limit:
            refusal = JSONResponse({"error": "too many requests at once"}, 503, {"Retry-After": "1"})
            await refusal(scope, receive, send)
            return
        self.in_flight += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.in_flight -= 1
