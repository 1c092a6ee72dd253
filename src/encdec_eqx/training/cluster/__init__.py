"""Training in several processes by `jax.distributed`: how they meet, and what becomes of all if one is lost."""

import atexit
import contextlib
import importlib.metadata
import os
import sys
from collections.abc import Iterator

import jax

from ..._signals import STATUS as INTERRUPTED
from .meeting import MeetingError as MeetingError
from .meeting import meet
from .placement import Place as Place
from .placement import Processes as Processes
from .watch import HEARTBEAT, Watch

_SHUTDOWN = 60
_COMPARED = ("encdec_eqx", "jax", "jaxlib")


@contextlib.contextmanager
def joined(processes: Processes) -> Iterator[None]:
    """Within it all processes are one system to jax, whose devices a mesh may span; it is entered and left together.

    It must be entered before jax makes a backend. If one of the processes fails or dies within it, all others end at
    once, with a line on stderr and exit status 4: each of them may be waiting for it in a program on its devices.

    Args:
        processes: Which of how many this is; a process that runs alone has nothing to join.

    Raises:
        ValueError: The cluster that is to say so is none.
        MeetingError: The others did not come, or do not fit.
    """
    place = processes.place()
    if place is None:
        yield
        return
    facts = {name: importlib.metadata.version(name.replace("_", "-")) for name in _COMPARED}
    watch = Watch(place, meet(place, facts, timeout=processes.timeout))
    try:
        _connect(place)
        yield
    except BaseException as error:
        watch.fail(error)
        atexit.register(_leave_at_once, INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1)
        raise
    watch.leave()
    jax.distributed.shutdown()


def _connect(place: Place) -> None:
    # what it knows of SIGTERM a run knows better, and says less
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        place.address,
        place.count,
        place.number,
        local_device_ids=place.local_device_ids,
        cluster_detection_method="deactivate",
        heartbeat_timeout_seconds=HEARTBEAT,
        shutdown_timeout_seconds=_SHUTDOWN,
    )


def _leave_at_once(status: int) -> None:
    """Ends without jax's own farewell, which would wait for processes that do not come any more."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
