"""Stopping a run politely: SIGTERM, and a first Ctrl-C, become a flag that the loop reads between steps."""

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

_WATCHED = (signal.SIGTERM, signal.SIGINT)
_NOTICE = b"\nStopping after this step, and saving. Ctrl-C again stops at once, and saves nothing.\n"


@dataclasses.dataclass
class StopFlag:
    """Whether somebody asked for the run to stop.

    Attributes:
        requested: Whether a signal has come.
        signal: Its name: "SIGTERM" or "SIGINT".
    """

    requested: bool = False
    signal: str | None = None


@contextlib.contextmanager
def graceful_stop() -> Iterator[StopFlag]:
    """Within it SIGTERM and a first SIGINT (Ctrl-C) only set the flag that it yields; afterwards all is as before.

    A SIGINT after the flag is set raises `KeyboardInterrupt` at once; a SIGTERM then changes nothing. Python lets only
    the main thread handle signals: in another thread the flag stays unset, and signals do what they did before.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
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
