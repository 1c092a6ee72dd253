"""Processes meet before jax connects them: who has not come, or came by mistake, is told by name and not by a crash.

jax itself aborts a process whose coordinator does not answer, or whose companions are late. So process 0 listens at
the address first; the connections that the others open stay, and tell later who has died.
"""

import contextlib
import json
import select
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

from ..._quoting import printable, quoted
from .placement import Place

_LONGEST = 4096
"""Bytes of a line."""
_PATIENCE = 5.0
"""Seconds for a line of one that has connected."""
_SILENT = 3.0
"""Seconds after which a process says that it waits."""
_AGAIN = 0.2

Connections = dict[int, socket.socket]


class MeetingError(RuntimeError):
    """The processes that are to run together did not come together. Says which, and why."""


def meet(place: Place, facts: Mapping[str, str], *, timeout: float | int) -> Connections:
    """Returns when all processes are there: in process 0 connections to all others, in the others the one to it.

    Args:
        place: Of this process among them.
        facts: What must be equal in all, such as versions.
        timeout: Seconds that they wait for each other.

    Raises:
        MeetingError: A process did not come, came twice, or has other facts.
    """
    hello = {"encdec_eqx": 1, "process": place.number, "of": place.count, "facts": dict(facts)}
    deadline = time.monotonic() + timeout
    if place.number == 0:
        return _Host(place, hello, deadline, timeout).all_others()
    return {0: _arrive(place, hello, deadline, timeout)}


class _Host:
    """Process 0 while it waits for the others."""

    def __init__(self, place: Place, hello: Mapping[str, Any], deadline: float | int, timeout: float | int):
        self._place, self._hello, self._deadline, self._timeout = place, hello, deadline, timeout
        self._here: Connections = {}

    def all_others(self) -> Connections:
        """The connections to all, which have been told that they may go on."""
        try:
            with _listening(self._place.port) as server:
                self._receive(server)
            # the port is free again: jax's own coordinator takes it
            _tell(self._here, {"go": True})
        except MeetingError as error:
            _tell(self._here, {"error": str(error)})
            for one in self._here.values():
                one.close()
            raise
        return self._here

    def _receive(self, server: socket.socket) -> None:
        noted, began = False, time.monotonic()
        while not self._all_here():
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise MeetingError(
                    f"{self._missing()} did not come to {self._place.address} within {self._timeout:g} seconds: start "
                    "all processes at about the same time, with the same --coordinator, and see that the port can be "
                    "reached from their machines (or give a longer --coordinator-timeout)."
                )
            if not noted and time.monotonic() - began > _SILENT:
                _note(f"process 0 of {self._place.count} at {self._place.address} waits for {self._missing()}.")
                noted = True
            if select.select([server], [], [], min(left, _SILENT))[0]:
                self._admit(server.accept()[0])

    def _all_here(self) -> bool:
        """Whether all are here still: one that has gone meanwhile may be on its way again."""
        if len(self._here) < self._place.count - 1:
            return False
        for number in [number for number, one in self._here.items() if _has_left(one)]:
            self._here.pop(number).close()
        return len(self._here) == self._place.count - 1

    def _admit(self, one: socket.socket) -> None:
        hello = _heard(one, time.monotonic() + _PATIENCE)
        if hello is None or hello.get("encdec_eqx") != self._hello["encdec_eqx"]:
            one.close()  # somebody else, who knocks at ports
            return
        number = hello.get("process")
        problem = self._problem(hello)
        if problem is not None:
            _tell({0: one}, {"error": problem})
            one.close()
            raise MeetingError(problem)
        assert isinstance(number, int)
        if number in self._here:
            self._here.pop(number).close()
        self._here[number] = one

    def _problem(self, hello: Mapping[str, Any]) -> str | None:
        number, count = hello.get("process"), hello.get("of")
        if count != self._place.count:
            return (
                f"process {quoted(number)} was started with --num-processes {quoted(count)}, process 0 with "
                f"--num-processes {self._place.count}: give all the same."
            )
        if not isinstance(number, int) or not 0 < number < self._place.count:
            return f"two processes were started with --process-id {quoted(number)}: each needs its own, from 0."
        if number in self._here and not _has_left(self._here[number]):
            return f"two processes were started with --process-id {number}: each needs its own, from 0."
        mine, other = self._hello["facts"], hello.get("facts")
        if not isinstance(other, Mapping):
            return f"process {number} runs another version of encdec_eqx than process 0: install the same."
        differing = [name for name in {**mine, **other} if mine.get(name) != other.get(name)]
        if differing:
            lines = [f"{name}: {mine.get(name)} in process 0, {other.get(name)} in {number}" for name in differing]
            return f"process 0 and process {number} differ, and must not: {'; '.join(lines)}."
        return None

    def _missing(self) -> str:
        missing = [number for number in range(1, self._place.count) if number not in self._here]
        shown = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        return f"process{'es' if len(missing) > 1 else ''} {shown} (of {self._place.count})"


def _arrive(place: Place, hello: Mapping[str, Any], deadline: float | int, timeout: float | int) -> socket.socket:
    """The connection to process 0, which has let all in."""
    one = _reach(place, deadline, timeout)
    _tell({0: one}, hello)
    # process 0 counts from its own start; it has the last word on who is late
    answer = _heard(one, deadline + timeout)
    if answer is None or "go" not in answer:
        one.close()
    if answer is None:
        raise MeetingError(
            f"what answers at {place.address} is not process 0 of this run, or has ended: look at its messages, and at "
            "the host and port of --coordinator."
        )
    if "error" in answer:
        raise MeetingError(printable(str(answer["error"])))
    return one


def _reach(place: Place, deadline: float | int, timeout: float | int) -> socket.socket:
    noted, began = False, time.monotonic()
    while True:
        left = deadline - time.monotonic()
        try:
            return socket.create_connection((place.host, place.port), timeout=max(0.1, min(left, _PATIENCE)))
        except OSError as error:
            reason = error.strerror or str(error)
        if time.monotonic() > deadline:
            raise MeetingError(
                f"process 0 did not answer at {place.address} within {timeout:g} seconds ({reason}): start it on that "
                "host with --process-id 0, at about the same time, and see that the port can be reached from here."
            )
        if not noted and time.monotonic() - began > _SILENT:
            _note(f"process {place.number} of {place.count} waits for process 0 at {place.address} ({reason}).")
            noted = True
        time.sleep(_AGAIN)


@contextlib.contextmanager
def _listening(port: int) -> Any:
    dual = socket.has_dualstack_ipv6()
    try:
        server = socket.create_server(
            ("", port), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual, backlog=1024
        )
    except OSError as error:
        raise MeetingError(
            f"port {port}, which --coordinator names, cannot be used on this host ({error.strerror or error}): give "
            "another one, to all processes."
        ) from None
    with server:
        yield server


def _tell(connections: Connections, message: Mapping[str, Any]) -> None:
    line = json.dumps(message).encode() + b"\n"
    for one in connections.values():
        with contextlib.suppress(OSError):  # who does not hear it is gone, which is found elsewhere
            one.sendall(line)


def _heard(one: socket.socket, deadline: float | int) -> dict[str, Any] | None:
    """A line, if one comes and is an object."""
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < _LONGEST:
            one.settimeout(max(0.05, deadline - time.monotonic()))
            byte = one.recv(1)  # no more: the next line is somebody else's to read
            if not byte:
                return None
            line += byte
        message = json.loads(line)
    except (OSError, ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _has_left(one: socket.socket) -> bool:
    """Whether the other side has closed the connection."""
    one.setblocking(False)
    try:
        return one.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        one.setblocking(True)


def _note(text: str) -> None:
    sys.stderr.write(f"encdec-eqx: {text}\n")
    sys.stderr.flush()
