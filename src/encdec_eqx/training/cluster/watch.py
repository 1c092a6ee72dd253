"""Processes that watch each other while they run: one that dies or fails ends them all at once, with its number said.

Process 0 has a connection to each of the others. The system closes the connections of a process that is killed, so
that its end is known within milliseconds; a machine that is cut off is found by TCP's probes, and by jax's own
heartbeats, within a minute.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import jax

from ..._quoting import printable
from . import last_words
from .meeting import Connections
from .placement import Place

STATUS = 4
"""Exit status of a process that ends because another one was lost."""
HEARTBEAT = 40
"""Seconds without a heartbeat after which jax takes a process for dead."""
_PROBES = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
_LONGEST = 2000
_SECOND_THOUGHTS = 3.0
"""Seconds that an error of the runtime waits for the news that another process is the cause."""
_PATIENCE = 10.0
"""Seconds that process 0, where it fails, waits for the others to end first."""
_HEAD_START = 1.0
"""Seconds that process 0 stays so that others hear of a loss: without it jax aborts them."""


class Watch:
    """One process's view of the others, from the meeting to the end of the run."""

    def __init__(self, place: Place, connections: Connections):
        """Starts to watch."""
        self._place, self._connections = place, connections
        self._left = {number: threading.Event() for number in connections}
        self._telling = threading.Lock()
        self._over = False
        self._last_words = None if place.number == 0 else _LastWords(place)
        self._listeners = [
            threading.Thread(target=self._listen, args=(number, one), daemon=True)
            for number, one in connections.items()
        ]
        for one, listener in zip(connections.values(), self._listeners, strict=True):
            _probe(one)
            listener.start()

    def leave(self) -> None:
        """Returns when all have come to their end. One that dies before ends this process."""
        if self._place.number == 0:
            for left in self._left.values():
                left.wait()
        self._say({"left": self._place.number})
        if self._place.number != 0:
            self._left[0].wait()
        self._close()

    def fail(self, error: BaseException) -> None:
        """Tells the others that this process fails, unless it fails because another one was lost: then it ends here."""
        if _of_the_runtime(error):
            time.sleep(_SECOND_THOUGHTS)
        reason = f"{type(error).__name__}: {error}"[:_LONGEST]
        self._close()
        self._say({"lost": self._place.number, "reason": reason})
        if self._place.number == 0:  # jax aborts those that lose it before they have read why
            deadline = time.monotonic() + _PATIENCE
            for listener in self._listeners:
                listener.join(max(0.0, deadline - time.monotonic()))

    def _close(self) -> None:
        self._over = True
        if self._last_words is not None:
            self._last_words.dismiss()

    def _say(self, message: Mapping[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        with self._telling:
            for one in self._connections.values():
                with contextlib.suppress(OSError):  # its own thread tells
                    one.sendall(line)

    def _listen(self, number: int, one: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), one.makefile("rb") as lines:
            for line in lines:
                message = json.loads(line)
                if "left" in message:
                    self._left[number].set()
                elif "lost" in message:
                    self._end(message["lost"], str(message.get("reason") or ""))
        if not self._left[number].is_set():
            self._end(number, "")

    def _end(self, number: int, reason: str) -> None:
        """Ends this process: no other can go on without that one."""
        if self._over:
            return
        self._over = True
        if self._place.number == 0:
            self._say({"lost": number, "reason": reason})
        how = f"failed ({printable(reason)})" if reason else "was killed, or its machine cannot be reached any more"
        say_and_leave(
            f"process {number} of {self._place.count} {how}; process {self._place.number} ends with it, as none can go "
            "on alone. Start all of them again with --resume: the run goes on from its newest checkpoint.",
            self._last_words,
            stay=_HEAD_START if self._place.number == 0 else 0.0,
        )


class _LastWords:
    """A small process that outlives this one, and says why it ended where jax aborts it before it can."""

    def __init__(self, place: Place):
        text = (
            f"encdec-eqx: process 0 of {place.count}, at {place.address}, was killed or cannot be reached any more; "
            f"process {place.number} was ended by jax, as none can go on alone. Start all of them again with --resume: "
            "the run goes on from its newest checkpoint."
        )
        command = [sys.executable, "-I", "-S", last_words.__file__, place.host, str(place.port), text]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    def dismiss(self) -> None:
        """There is nothing to say any more."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(last_words.NOTHING)
            self._process.stdin.close()
            self._process.wait(5)


def say_and_leave(text: str, words: _LastWords | None, *, stay: float) -> None:
    """Ends this process from whatever thread: the main one may wait in a program for ever."""
    if words is not None:
        words.dismiss()
    flushing = threading.Thread(target=_flush, daemon=True)  # another thread may hold a stream's lock
    flushing.start()
    flushing.join(1.0)
    with contextlib.suppress(OSError):
        os.write(2, f"\nencdec-eqx: {text}\n".encode())
    time.sleep(stay)
    os._exit(STATUS)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def _of_the_runtime(error: BaseException) -> bool:
    """Whether jax or XLA raised it, whose collectives fail when a process is lost."""
    return isinstance(error, jax.errors.JaxRuntimeError) or re.match(r"[A-Z_]{5,}: ", str(error)) is not None


def _probe(one: socket.socket) -> None:
    one.settimeout(None)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES.items():
        if hasattr(socket, name):
            one.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
