"""Ctrl-C in a command: one line and exit status 130, at whatever moment it comes.

A `KeyboardInterrupt` is no way out of a program that compiles: one that comes inside jax's callbacks is swallowed, and
one that comes inside its caches may crash the process at its end. So a thread waits for the signal, and leaves without
unwinding.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

STATUS = 128 + signal.SIGINT
_SHOW_CURSOR = "\x1b[?25h"
_FLUSH_SECONDS = 1.0


@contextlib.contextmanager
def leaving_at_ctrl_c(message: str) -> Iterator[None]:
    """Within it Ctrl-C ends the process at once, with a line on stderr and exit status 130.

    Where something inside handles the signal itself (a run that saves first), the first Ctrl-C is left to it, and the
    second one ends the process. In another thread than the main one nothing is changed.

    Args:
        message: the line.
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
        signal.set_wakeup_fd(wakeup_before)
        signal.signal(signal.SIGINT, before)
        os.close(writer)
        watcher.join()
        os.close(reader)


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
    os.write(2, f"\n{message}\n".encode())
    os._exit(STATUS)


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError):
        if sys.stdout.isatty():
            sys.stdout.write(_SHOW_CURSOR)
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr.isatty():
            sys.stderr.write(_SHOW_CURSOR)
        sys.stderr.flush()
