"""What compiling ahead cost. Knows no model."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .compilations import counted


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
