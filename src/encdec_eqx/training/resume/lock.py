"""One process at a time in a folder. Knows nothing of what is in it."""

import importlib
import os
from pathlib import Path
from typing import Any

from .errors import FolderInUseError


class FolderLock:
    """Held until `release`, or until the process ends in whatever way: the system keeps it, not the file's existence.

    Where the system has no such locks (Windows), or the file system has none, the folder is not guarded.
    """

    def __init__(self, folder: Path):
        """Takes the lock.

        Raises:
            FolderInUseError: Another process, or another object of this one, holds it.
            ValueError: A folder has the name of the lock.
        """
        try:
            self._handle: int | None = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except IsADirectoryError:
            raise ValueError(
                f"{folder / '.lock'} is a folder, where a file of that name is needed: move it away."
            ) from None
        try:
            locks: Any = importlib.import_module("fcntl")
            locks.flock(self._handle, locks.LOCK_EX | locks.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise FolderInUseError(
                f"{folder} is in use by another run: wait until it has ended (one that was asked to stop first writes "
                "its last checkpoint), or use another folder."
            ) from None
        except (ImportError, OSError):
            pass

    def release(self) -> None:
        """Lets go; further calls do nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)
