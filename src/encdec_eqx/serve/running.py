"""Runs the application in this process: the socket first, then the warm-up, and an orderly end."""

import asyncio
import contextlib
import errno
import ipaddress
import json
import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn

from .. import __version__
from .._quoting import quoted
from ..text import TextToText
from .batcher import THREAD
from .http_app import Server, make_app
from .server_settings import ServerSettings

_KEEP_ALIVE_SECONDS = 75
"""Longer than proxies keep idle connections, so that none of them sends a request into one that is being closed."""

_CLOSING_SECONDS = 2
"""How long connections have to close in, when nothing is in flight any more."""


def _to_stderr(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it any more, and the server goes on
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def run_server(
    text_to_text: TextToText,
    settings: ServerSettings | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    listener: socket.socket | None = None,
    say: Callable[[str], None] = _to_stderr,
) -> int:
    """Serve a model until SIGTERM or Ctrl-C; requests in flight are finished first.

    Args:
        text_to_text: the model and its tokenizers.
        settings: what is compiled, and the limits.
        host: the address to listen at; any but this machine's own is warned of.
        port: the port; 0 takes a free one.
        listener: what `open_listener` has opened before, in the place of `host` and `port`.
        say: is told what to show, line by line.

    Returns:
        An exit status: 0 after SIGTERM, 130 after Ctrl-C, 1 if it could not be warmed up.

    Raises:
        OSError: the port is in use, or not allowed.
        ValueError: a setting does not fit the model.
    """
    listener = open_listener(host, port) if listener is None else listener
    with contextlib.closing(listener):
        app = make_app(text_to_text, settings, report=lambda line: say(f"  {line}"))
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            lifespan="on",
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_CLOSING_SECONDS,
        )
        runner = _Runner(config, app.state.server, say)
        asyncio.run(runner.live(listener))
    return runner.status


def leave_busy(status: int) -> None:
    """End the process at once if the model's thread is still compiling, which nothing can interrupt; else return."""
    if any(thread.name == THREAD for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(status)


def open_listener(host: str, port: int) -> socket.socket:
    """A socket at an address, so that one that is taken is found out before a model is loaded.

    Raises:
        OSError: the address is in use, not allowed, or not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except (socket.gaierror, UnicodeError):
        raise OSError(f"--host {quoted(host)} is no address of this machine; 127.0.0.1 is.") from None
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # taken from here on: who comes before the model is loaded waits
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise OSError(_why_not(error, host, port)) from None
    return listener


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use: stop what listens there, or pass another --port (0 takes a free one)."
    if error.errno == errno.EACCES:
        return f"port {port} is for the system's administrator: pass --port 8000, or any from 1024 on."
    return f"cannot listen at {host}, port {port}: {error.strerror}."


class _Runner(uvicorn.Server):
    """uvicorn, that refuses what is new and finishes what is in flight before it closes."""

    def __init__(self, config: uvicorn.Config, server: Server, say: Callable[[str], None]):
        super().__init__(config)
        self._server, self._say = server, say
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Task | None = None
        self.status = 0

    async def live(self, listener: socket.socket) -> None:
        """Until the end."""
        self._loop = asyncio.get_running_loop()
        greeting = asyncio.ensure_future(self._greet(*listener.getsockname()[:2]))
        await self.serve(sockets=[listener])
        greeting.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal: the first one ends it in order, a second Ctrl-C at once."""
        del frame
        if self._ending is None and self._loop is not None and not self.should_exit:
            self.status = 128 + sig if sig == signal.SIGINT else 0
            self._ending = asyncio.ensure_future(self._end(), loop=self._loop)
            self._loop.call_soon_threadsafe(lambda: None)  # wakes it up
        elif sig == signal.SIGINT:
            self.should_exit = self.force_exit = True

    async def _end(self) -> None:
        try:
            await self._drained()
        finally:
            self.should_exit = True

    async def _drained(self) -> None:
        if self._server.in_flight:
            grace = self._server.offer.settings.grace
            self._say(
                f"stopping: {self._server.in_flight} requests in flight have {grace:g} s. Ctrl-C again stops at once."
            )
        else:
            self._say("stopping.")
        if not await self._server.drain():
            self._say(f"{self._server.in_flight} requests were given up.")

    async def _greet(self, host: str, port: int) -> None:
        """Say where the server is and what it offers, and how to call it once it is warm."""
        offer, batcher = self._server.offer, self._server.batcher
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        for line in _greeting(offer.info(), address):
            self._say(line)
        if not ipaddress.ip_address(host).is_loopback:
            self._say(
                f"warning: {host} is open to other machines, without a password and without encryption. A reverse "
                "proxy in front of --host 127.0.0.1 can give it both (docs/serving.md)."
            )
        self._say("compiling ahead; requests are answered with 503 until then:")
        while not batcher.warm.is_set():
            if batcher.failure is not None:
                self._say(f"the server could not be warmed up: {batcher.failure}")
                self.status, self.should_exit = 1, True
                return
            await asyncio.sleep(0.05)
        body = shlex.quote(json.dumps({"inputs": "..."}))
        self._say(f"ready. Try it at {address}/, or:\n  curl -s {address}/generate -d {body}")


def _greeting(info: dict, address: str) -> list[str]:
    limits = info["limits"]
    searches = ", ".join(
        search["name"] + (f" {json.dumps(search['parameters'])}" if search["parameters"] else "")
        for search in info["searches"]
    )
    constraints = f"; constraints: {', '.join(info['constraints'])}" if info["constraints"] else ""
    return [
        f"encdec_eqx {__version__} serves {info['model']} ({info['encoder']} + {info['decoder']}) at {address}",
        f"  searches: {searches}{constraints}",
        f"  sources of up to {limits['max_source_tokens']} tokens, {limits['max_inputs']} a request; "
        f"up to {limits['max_new_tokens']} new tokens",
    ]
