"""The HTTP side: routes, what a body may be, streams, and errors as JSON. It never waits for the model."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._json import loads
from ..text import TextToText
from .aligner import Aligner
from .batcher import Batcher, Done, Failed, Job, Pass, Token
from .offer import Offer, PreparedRequest
from .refusals import RefusalError, not_now, of_error, timed_out, too_large
from .server_metrics import ServerMetrics
from .server_settings import ServerSettings

_logger = logging.getLogger("encdec_eqx")

PAGE = Path(__file__).parent / "page"
_PATHS = ("/", "/generate", "/alignment", "/info", "/health", "/metrics")
_STOPPING_SECONDS = 2.0
_CHECKERS = 2
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"),
    (b"referrer-policy", b"no-referrer"),
)

Endpoint = Callable[[Request], Awaitable[Response]]


class Server:
    """What the routes share.

    Attributes:
        offer: what is served.
        metrics: the counters.
        aligner: what shows cross-attention.
        batcher: the queue.
        checkers: threads that tokenize and check requests.
        in_flight: requests that are being answered, those for `/health` and `/metrics` aside.
        stopping: whether new requests are refused.
        ended: whether the model's thread has ended, and not only been told to.
    """

    def __init__(self, offer: Offer, report: Callable[[str], None]):
        self.offer, self.metrics = offer, ServerMetrics()
        self.aligner = Aligner(offer)
        self.batcher = Batcher(offer, self.metrics, report, self.aligner.warm)
        # few, as they take the interpreter from the model's thread
        self.checkers = ThreadPoolExecutor(_CHECKERS, thread_name_prefix="encdec_eqx request")
        self.in_flight = 0
        self.stopping = self.ended = False

    async def drain(self) -> bool:
        """Refuse what is new and wait for what is in flight, as long as the settings allow; whether all of it ended."""
        self.stopping = True
        end = time.monotonic() + self.offer.settings.grace
        while self.in_flight and time.monotonic() < end:
            await asyncio.sleep(0.02)
        return not self.in_flight

    def check_open(self) -> None:
        """Refuse where no request can be served."""
        if self.stopping:
            raise not_now("the server is shutting down.")
        if self.batcher.failure is not None:
            raise not_now("the server could not be warmed up; its log says more.")
        if not self.batcher.warm.is_set():
            raise not_now("the server is warming up.")


def make_app(
    text_to_text: TextToText, settings: ServerSettings | None = None, *, report: Callable[[str], None] | None = None
) -> Starlette:
    """The ASGI application that serves a model.

    Its lifespan starts the model's thread, which first compiles all that is offered: until then, and after it has been
    told to stop, requests are answered with status 503.

    Args:
        text_to_text: the model and its tokenizers.
        settings: what is compiled, and the limits.
        report: is told a line for each shape that has been compiled; default the package's logger.

    Returns:
        A `starlette.applications.Starlette`, for uvicorn or another ASGI server; with one worker process.

    Raises:
        TypeError: the encoder does not read token ids, or a setting has the wrong type.
        ValueError: a setting does not fit the model.
    """
    settings = ServerSettings() if settings is None else settings
    offer = Offer(text_to_text, settings)
    server = Server(offer, _logger.info if report is None else report)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        server.batcher.start()
        yield
        server.stopping = True
        server.checkers.shutdown(wait=False, cancel_futures=True)
        server.ended = await run_in_threadpool(server.batcher.stop, _STOPPING_SECONDS)

    app = Starlette(
        routes=[
            Route("/generate", _answering(server, _generate), methods=["POST"]),
            Route("/alignment", _answering(server, _alignment), methods=["POST"]),
            Route("/info", _answering(server, _info), methods=["GET"]),
            Route("/health", _health, methods=["GET"]),
            Route("/metrics", _metrics, methods=["GET"]),
            Route("/", _page, methods=["GET"]),
            Mount("/static", StaticFiles(directory=PAGE)),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _failure},  # pyright: ignore[reportArgumentType]
        lifespan=lifespan,
    )
    app.state.server = server
    app.add_middleware(_Observed, server=server)
    return app


class _Observed:
    """Counts and times requests, and adds what every answer's head has."""

    def __init__(self, app: ASGIApp, server: Server):
        self._app, self._server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 500
        path = scope["path"] if scope["path"] in _PATHS else "other"
        counted = path not in ("/health", "/metrics")

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        self._server.in_flight += counted
        try:
            await self._app(scope, receive, observed)
        finally:
            self._server.in_flight -= counted
            self._server.metrics.requests.labels(path, str(status)).inc()
            self._server.metrics.seconds.labels(path).observe(time.perf_counter() - begin)


def _answering(server: Server, answer: Callable[[Server, Request], Awaitable[Response]]) -> Endpoint:
    """An endpoint whose errors are JSON, and which gives up in time."""

    async def endpoint(request: Request) -> Response:
        seconds = server.offer.settings.timeout
        try:
            async with asyncio.timeout(seconds):
                return await answer(server, request)
        except TimeoutError:
            return _refused(timed_out(seconds))
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as error:  # noqa: BLE001 (whatever it is, the client gets JSON)
            return _refused(_known(error))

    return endpoint


def _known(error: Exception) -> RefusalError:
    refusal = of_error(error)
    if refusal.status == 500:
        _logger.error("a request failed", exc_info=error)
    return refusal


def _refused(refusal: RefusalError) -> JSONResponse:
    return JSONResponse(refusal.body, refusal.status, refusal.headers)


async def _generate(server: Server, request: Request) -> Response:
    server.check_open()
    begin = time.monotonic()
    body = await _body(request, server.offer.settings.max_request_bytes)
    loop = asyncio.get_running_loop()
    prepared = await loop.run_in_executor(server.checkers, lambda: server.offer.prepare(_parsed(body)))
    events: asyncio.Queue[Token | Done | Failed] = asyncio.Queue()
    job = Job(prepared, lambda event: loop.call_soon_threadsafe(events.put_nowait, event) and None)
    server.batcher.submit(job)
    if prepared.streams:
        left = server.offer.settings.timeout - (time.monotonic() - begin)
        stream = _events(job, events, max(left, 0.0), server.offer.settings.timeout)
        return StreamingResponse(
            stream, media_type="text/event-stream", headers={"cache-control": "no-store", "x-accel-buffering": "no"}
        )
    return await _answer(job, events, request)


async def _alignment(server: Server, request: Request) -> Response:
    server.check_open()
    body = await _body(request, server.offer.settings.max_request_bytes)
    loop = asyncio.get_running_loop()
    asked = await loop.run_in_executor(server.checkers, lambda: server.aligner.prepare(_parsed(body)))
    answered: asyncio.Future[dict[str, Any]] = loop.create_future()

    def deliver(answer: dict[str, Any] | Exception) -> None:
        loop.call_soon_threadsafe(settle, answer)

    def settle(answer: dict[str, Any] | Exception) -> None:
        if answered.done():
            return
        if isinstance(answer, Exception):
            answered.set_exception(answer)
        else:
            answered.set_result(answer)

    server.batcher.submit_pass(Pass(lambda: server.aligner.align(asked), deliver, answered.done))
    return JSONResponse(await answered)


async def _answer(job: Job, events: asyncio.Queue, request: Request) -> Response:
    """All outputs; a client that leaves meanwhile is no longer generated for."""
    collecting = asyncio.ensure_future(_collected(job.prepared, events))
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((collecting, leaving), return_when=asyncio.FIRST_COMPLETED)
        if collecting.done():
            return JSONResponse(collecting.result())
        raise ClientDisconnect
    finally:
        job.gone = True
        collecting.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _collected(prepared: PreparedRequest, events: asyncio.Queue) -> dict[str, Any]:
    outputs: dict[int, list[dict[str, Any]]] = {}
    while len(outputs) < len(prepared.rows):
        event = await events.get()
        if isinstance(event, Failed):
            raise event.error
        outputs[event.index] = event.outputs
    return _reply(prepared, [outputs[at] for at in range(len(outputs))])


def _reply(prepared: PreparedRequest, outputs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    reply: dict[str, Any] = {"outputs": outputs}
    return reply if prepared.seed is None else {**reply, "seed": prepared.seed}


async def _events(job: Job, events: asyncio.Queue, seconds: float, most: float) -> AsyncIterator[bytes]:
    """Server-sent events; closed by starlette when the client leaves."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                event = await events.get()
                if isinstance(event, Token):
                    yield _event("token", {"token": event.token, "text": event.text})
                    continue
                if isinstance(event, Failed):
                    yield _event("error", _known(event.error).body)
                else:
                    yield _event("done", _reply(job.prepared, [event.outputs]))
                return
    except TimeoutError:
        yield _event("error", timed_out(most).body)
    finally:
        job.gone = True


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


async def _body(request: Request, most: int) -> bytes:
    """The request's body, no more of which is read than is allowed."""
    told = request.headers.get("content-length", "0")
    parts, size = [], int(told) if told.isascii() and told.isdigit() and len(told) < 20 else 0
    if size <= most:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                break
            parts.append(part)
    if size > most:
        raise too_large(f"the request is larger than {most:,} bytes, which is all that this server reads.")
    return b"".join(parts)


def _parsed(body: bytes) -> Any:
    try:
        return loads(body)
    except ValueError as error:
        raise ValueError(f"the request is no JSON: {error}.") from None


async def _info(server: Server, _: Request) -> Response:
    return JSONResponse(server.offer.info())


async def _health(request: Request) -> Response:
    try:
        request.app.state.server.check_open()
    except RefusalError as refusal:
        status = str(refusal).removeprefix("the server is ").rstrip(".")
        return JSONResponse({"status": status}, refusal.status)
    return JSONResponse({"status": "ok"})


async def _metrics(request: Request) -> Response:
    return Response(request.app.state.server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _page(_: Request) -> Response:
    return FileResponse(PAGE / "index.html")


async def _http_error(request: Request, error: HTTPException) -> Response:
    """404 and 405, said as everything else is."""
    said = {
        404: f"there is nothing at {request.url.path[:100]!r}. There are {', '.join(_PATHS)}.",
        405: f"{request.url.path} does not take {request.method}: send {(error.headers or {}).get('Allow')}.",
    }
    kind = {404: "NotFound", 405: "MethodNotAllowed"}.get(error.status_code, "HTTPError")
    refusal = RefusalError(error.status_code, said.get(error.status_code, str(error.detail)), kind=kind)
    refusal.headers = dict(error.headers or {})
    return _refused(refusal)


async def _failure(_: Request, error: Exception) -> Response:
    return _refused(_known(error))
