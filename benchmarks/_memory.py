"""A process's own memory, from /proc: how much now, how much at most, and how much of it is not file-backed.

Shared by both sides; it must not import either. On systems without /proc the figures are absent, not wrong.
"""

import pathlib
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

_STATUS = pathlib.Path("/proc/self/status")


def memory() -> dict[str, int]:
    """Bytes: `peak` (highest resident set of this process), `resident` and `anonymous` (neither file nor shared)."""
    names = {"VmHWM": "peak", "VmRSS": "resident", "RssAnon": "anonymous"}
    if not _STATUS.exists():
        return {}
    lines = (line.split(":") for line in _STATUS.read_text().splitlines())
    return {names[key]: 1024 * int(value.split()[0]) for key, value in lines if key in names}


def peaks(run: Callable[[], Any]) -> dict[str, int]:
    """Bytes: `life_peak`, this process's highest resident set ever; `run_peak`, its highest while `run` runs.

    `anonymous_run_peak` is the same without what is mapped from files: the packages' code, a checkpoint. A figure that
    the system does not give is absent.
    """
    before = memory()
    forgotten = _forget_peak()
    with AnonymousPeak() as watch:
        run()
    if watch.grown is None:
        return {}
    after = memory()["peak"]
    found = {"life_peak": max(before["peak"], after), "anonymous_run_peak": before["anonymous"] + watch.grown}
    return found | {"run_peak": after} if forgotten else found


def _forget_peak() -> bool:
    """Has the kernel count the highest resident set anew; False where it does not."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


class AnonymousPeak:
    """Watches the anonymous memory in a thread, every 2 ms: the kernel keeps no peak of it.

    `with AnonymousPeak() as watch: …` leaves `watch.grown`, the bytes above the start (None without /proc).
    """

    def __init__(self):
        self.grown: int | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "AnonymousPeak":
        if _STATUS.exists():
            self._start = memory()["anonymous"]
            self.grown = 0
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.grown is not None:
            self._stop.set()
            self._thread.join()
            self._look()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self._look()
            time.sleep(0.002)

    def _look(self) -> None:
        assert self.grown is not None
        self.grown = max(self.grown, memory()["anonymous"] - self._start)
