"""Files and folders written safely: whole or not at all, and only where something can be written.

What is new is written beside its place under a name not to be foreseen, and renamed into it; what a killed process left
of that is removed later.
"""

import contextlib
import os
import re
import shutil
import tempfile
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


def check_writable(folder: str | os.PathLike, name: str = "the folder") -> None:
    """Tries to write into a folder, which need not exist yet; leaves everything as it was.

    Args:
        folder: the folder.
        name: what the caller calls it, such as an option.

    Raises:
        ValueError: it is a file, or nothing can be written there; says why.
    """
    target = Path(folder)
    try:
        there = _nearest(target)
        if not there.is_dir():
            it = "is" if there == target else f"cannot be made, because {there} is"
            raise ValueError(f"{name} {target} {it} a file; give a folder.")
        made = _make(target)
        try:
            with tempfile.TemporaryFile(dir=target):
                pass
        finally:
            for path in made:
                path.rmdir()
    except OSError as error:
        raise ValueError(
            f"{name} {target} cannot be written to ({error.strerror or error}); give another folder."
        ) from None


def _nearest(folder: Path) -> Path:
    """The folder, or what is nearest above it and exists."""
    return next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))


def _make(folder: Path) -> list[Path]:
    """Makes a folder and what is missing above it; what was made, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    made: list[Path] = []
    try:
        for path in reversed(missing):
            path.mkdir()
            made.insert(0, path)
    except OSError:
        for path in made:
            path.rmdir()
        raise
    return made
