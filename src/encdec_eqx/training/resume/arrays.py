"""Named host arrays in a folder, through orbax, and back.

The only file that knows orbax, which is imported at the first use: it takes a second.
"""

import contextlib
import importlib.util
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..._installing import install

_SETTLING = 0.3  # seconds in which writes that orbax has abandoned come to their end


def check_installed() -> None:
    """Refuses at the start of a run what would otherwise fail at its first checkpoint."""
    try:
        found = importlib.util.find_spec("orbax.checkpoint")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ImportError(f"checkpoints of a run need orbax-checkpoint, which is not installed: {install('train')}")


def write(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the arrays into a new folder. Empty ones have nothing to be written."""
    import orbax.checkpoint as ocp

    item = {name: array for name, array in arrays.items() if array.size}
    with _quiet(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.StandardSave(item))


def read(folder: Path, like: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Reads the arrays whose names, shapes and dtypes are those of `like`."""
    import orbax.checkpoint as ocp

    item = {name: array for name, array in like.items() if array.size}
    with _quiet(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        return {**like, **checkpointer.restore(folder.absolute(), args=ocp.args.StandardRestore(item))}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Mutes orbax while it works: it logs every move, and speaks of a failure many times before it raises it once."""
    logger, hook = logging.getLogger("absl"), sys.unraisablehook

    def unless_abandoned(unraisable: Any) -> None:
        # of several writes that fail together, orbax awaits the first and closes the event loop of the others
        if not (isinstance(unraisable.exc_value, RuntimeError) and "loop is closed" in str(unraisable.exc_value)):
            hook(unraisable)

    logger.addFilter(_worth_saying)
    sys.unraisablehook = unless_abandoned
    try:
        yield
    except Exception:
        time.sleep(_SETTLING)
        raise
    finally:
        if sys.unraisablehook is unless_abandoned:
            sys.unraisablehook = hook
        logger.removeFilter(_worth_saying)


def _worth_saying(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname or record.levelno == logging.WARNING
