"""One side's turn: some untimed steps, then timed ones, with what the kernel says each of them used.

Both training workers use it; it must not import either framework.
"""

import resource
import time
from collections.abc import Callable
from typing import Any


def usage() -> dict[str, float]:
    """What this process has used so far, all its threads together.

    Returns:
        `user_seconds` and `system_seconds` of processor time; `minor_faults` (pages mapped anew) and `major_faults`
        (pages read from disk); `preempted`, how often a thread had to leave its core to another one.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "user_seconds": used.ru_utime,
        "system_seconds": used.ru_stime,
        "minor_faults": used.ru_minflt,
        "major_faults": used.ru_majflt,
        "preempted": used.ru_nivcsw,
    }


def measured(step: Callable[[], int]) -> dict[str, float]:
    """One step: its seconds, the tokens that it says it took, and what it used.

    Args:
        step: takes a step, waits for its end, and returns how many tokens it trained on, padding not counted.
    """
    before, begin = usage(), time.perf_counter()
    tokens = step()
    seconds = time.perf_counter() - begin
    used = {name: value - before[name] for name, value in usage().items()}
    processor = used["user_seconds"] + used["system_seconds"]
    return {"seconds": seconds, "tokens": tokens, "cpu_seconds": processor, **used}


def take_turn(step: Callable[[], int], *, settle: int, count: int) -> dict[str, Any]:
    """A turn: `settling`, the steps that bring back what was lost while the other side worked, then `steps`.

    Args:
        step: as of `measured`.
        settle: steps before those that count.
        count: steps that count.
    """
    return {"settling": [measured(step) for _ in range(settle)], "steps": [measured(step) for _ in range(count)]}
