"""Names for what is written beside its place and renamed into it, and the removal of what a killed process left of it.

Knows names of files only.
"""

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path

_NAME = re.compile(r"\.(?P<final>.+)\.[0-9a-f]{32}", re.DOTALL)


def aside_of(path: Path) -> Path:
    """Where a file or folder is written before it takes its place: beside it, hidden, its name not to be foreseen."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a crash or a power cut leaves the old one or the new one, whole."""
    aside = aside_of(path)
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def is_aside(name: str, of: str) -> bool:
    """Whether `aside_of` makes such a name for a file or folder called `of`."""
    found = _NAME.fullmatch(name)
    return found is not None and found["final"] == of


def clear_asides(folder: Path, names: Iterable[str]) -> None:
    """Removes what `aside_of` named in a folder, for things of these names: a process was killed while writing them.

    To be called only when no other process writes there. What cannot be removed stays; the folder need not be there.
    """
    wanted = list(names)
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        if any(is_aside(path.name, name) for name in wanted):
            remove(path)


def remove(path: Path) -> None:
    """Removes whatever is there, as far as that can be done: a folder, a file, or a link but not what it leads to."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:  # not by rmtree, which opens what it is given: a named pipe would never answer
            path.unlink()
