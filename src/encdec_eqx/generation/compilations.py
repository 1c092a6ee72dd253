"""Counts the programs that XLA compiles for a piece of Python code, in this thread; ahead-of-time compilation."""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"
_counting = threading.local()


@dataclass(eq=False)
class Count:
    """How many programs so far."""

    programs: int = 0


@contextlib.contextmanager
def counted(count: Count | None = None) -> Iterator[Count]:
    """Count the compilations of the block; blocks may be nested.

    Args:
        count: where to go on counting; default a new one.
    """
    _listen()
    counts = _counting.__dict__.setdefault("counts", [])
    count = Count() if count is None else count
    counts.append(count)
    try:
        yield count
    finally:
        counts.remove(count)


@functools.cache
def _listen() -> None:
    # jax tells its listeners of every compilation, in the thread that compiles. They cannot be removed: one serves all.
    jax.monitoring.register_event_duration_secs_listener(_on_event)


def _on_event(event: str, duration_secs: float, **_: Any) -> None:
    del duration_secs
    if event == _EVENT:
        for count in getattr(_counting, "counts", ()):
            count.programs += 1


@dataclass(frozen=True)
class Warmup:
    """What was compiled ahead.

    Attributes:
        compilations: programs compiled, or fetched from jax's persistent cache; 0 if all were there.
        seconds: how long it took, all in all.
    """

    compilations: int
    seconds: float


def warm_all(warm: Callable[..., None], sizes: Iterable[tuple[int, ...]]) -> Warmup:
    """Call `warm` with every combination of sizes."""
    begin = time.perf_counter()
    with counted() as count:
        for these in sizes:
            warm(*these)
    return Warmup(count.programs, time.perf_counter() - begin)
