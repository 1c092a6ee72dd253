"""Ctrl-C and SIGTERM: a command leaves with one line and status 130, a run first finishes its step and saves.

A `KeyboardInterrupt` is no way out of a program that compiles: one that comes inside jax's callbacks is swallowed, and
one that comes inside its caches may crash the process at its end. So a thread waits for the signal, and leaves without
unwinding. Little is imported here: the command has this file before anything else.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from types import FrameType
from typing import Any

STATUS = 128 + signal.SIGINT
SAID_LAST = "encdec-eqx: interrupted; nothing was saved after the last message."
"""The line of a command that leaves."""
_SHOW_CURSOR = "\x1b[?25h"
_FLUSH_SECONDS = 1.0


_PLACING_SECONDS = 10.0


@contextlib.contextmanager
def leaving_at_ctrl_c(message: str, *, at_exit: bool = False) -> Iterator[None]:
    """Within it Ctrl-C ends the process at once, with a line on stderr and exit status 130; half a file stays nowhere.

    Where something inside handles the signal itself (a run that saves first), the first Ctrl-C is left to it, and the
    second one ends the process. In another thread than the main one nothing is changed.

    Args:
        message: the line.
        at_exit: whether the process does nothing but end afterwards: a later Ctrl-C then changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.signal(signal.SIGINT, _leave_it_to_the_watcher)
    wakeup_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reader, message), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN if at_exit else before)
        signal.set_wakeup_fd(wakeup_before)
        os.close(writer)
        watcher.join()
        os.close(reader)


@contextlib.contextmanager
def leaving_while_importing(message: str) -> Iterator[None]:
    """The same for as long as nothing but Python's own code runs: no thread yet, and nothing to tidy up.

    Args:
        message: the line.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        os.write(2, f"\n{message}\n".encode())
        os._exit(STATUS)

    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _leave_it_to_the_watcher(number: int, frame: FrameType | None) -> None:
    """Python runs this between two bytecodes of the main thread, which may be long after the signal."""


def _watch(reader: int, message: str) -> None:
    """Reads what the interpreter's own handler writes, in the moment of the signal."""
    times = 0
    while numbers := os.read(reader, 1):
        if numbers[0] != signal.SIGINT:
            continue
        times += 1
        if times > 1 or signal.getsignal(signal.SIGINT) is _leave_it_to_the_watcher:
            _leave(message)


def _leave(message: str) -> None:
    # the main thread may hold a stream's lock for as long as nobody reads from a pipe
    flushing = threading.Thread(target=_flush, daemon=True)
    flushing.start()
    flushing.join(_FLUSH_SECONDS)
    with contextlib.suppress(OSError):  # nobody reads it any more
        os.write(2, f"\n{message}\n".encode())
    _silence()  # the main thread goes on for a moment, and may stumble over what is removed
    from ._writing import abandon

    abandon(_PLACING_SECONDS)
    os._exit(STATUS)


def _silence() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError):
        if sys.stdout.isatty():
            sys.stdout.write(_SHOW_CURSOR)
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr.isatty():
            sys.stderr.write(_SHOW_CURSOR)
        sys.stderr.flush()


_WATCHED = (signal.SIGTERM, signal.SIGINT)
_NOTICE = b"\nStopping after this step, and saving. Ctrl-C again stops at once, and saves nothing.\n"


_keeps_nothing = ContextVar("keeps_nothing", default=False)


@contextlib.contextmanager
def keeping_nothing() -> Iterator[None]:
    """Within it `graceful_stop` changes nothing: signals end a run at once, of which nothing would be kept anyway."""
    before = _keeps_nothing.set(True)
    try:
        yield
    finally:
        _keeps_nothing.reset(before)


class StopFlag:
    """Whether somebody asked for the run to stop.

    Attributes:
        requested: Whether a signal has come.
        signal: Its name: "SIGTERM" or "SIGINT".
    """

    def __init__(self):
        self.requested = False
        self.signal: str | None = None


@contextlib.contextmanager
def graceful_stop() -> Iterator[StopFlag]:
    """Within it SIGTERM and a first SIGINT (Ctrl-C) only set the flag that it yields; afterwards all is as before.

    A SIGINT after the flag is set raises `KeyboardInterrupt` at once; a SIGTERM then changes nothing. Python lets only
    the main thread handle signals: in another thread the flag stays unset, and signals do what they did before.
    """
    flag = StopFlag()
    if _keeps_nothing.get() or threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if flag.requested:
                raise KeyboardInterrupt
            # not `print`: a signal may come in the middle of one, which cannot be entered twice
            os.write(2, _NOTICE)
        flag.requested, flag.signal = True, flag.signal or signal.Signals(number).name

    before: dict[signal.Signals, Any] = {number: signal.signal(number, handle) for number in _WATCHED}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            # None: it was not set from Python, so it cannot be put back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
