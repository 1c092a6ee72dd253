"""Named host arrays in a folder, through orbax, and back.

The only file that knows orbax, which is imported at the first use: it takes a second.
"""

import contextlib
import importlib.util
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np


def check_installed() -> None:
    """Refuses at the start of a run what would otherwise fail at its first checkpoint."""
    try:
        found = importlib.util.find_spec("orbax.checkpoint")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ImportError(
            "checkpoints of a run need orbax-checkpoint, which is not installed: pip install 'encdec-eqx[train]'"
        )


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
    """Mutes orbax while it works: it logs every move, and a failure several times before it raises it."""
    logger = logging.getLogger("absl")
    logger.addFilter(_worth_saying)
    try:
        yield
    finally:
        logger.removeFilter(_worth_saying)


def _worth_saying(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname or record.levelno == logging.WARNING
