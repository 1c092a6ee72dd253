"""Files and folders written safely: whole or not at all, and only where something can be written.

What is new is written beside its place under a name not to be foreseen, and renamed into it. What a process that leaves
has begun so is removed by it; what a killed one left, later.
"""

import contextlib
import os
import re
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

_NAME = re.compile(r"\.(?P<final>.+)\.[0-9a-f]{32}", re.DOTALL)


_begun: set[Path] = set()
"""What may lie about unfinished; what has taken its place is not there any more under this name."""
_undivided = threading.RLock()
_TRIES = 3


def aside_of(path: Path) -> Path:
    """Where a file or folder is written before it takes its place: beside it, hidden, its name not to be foreseen."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with _undivided:
        _begun.add(aside.absolute())
    return aside


@contextlib.contextmanager
def in_one_go() -> Iterator[None]:
    """Within it no Ctrl-C ends a command: for the moment in which several files take their places."""
    with _undivided:
        yield


@contextlib.contextmanager
def folder_aside(target: Path) -> Iterator[Path]:
    """A new folder beside the target, which is gone afterwards unless it was moved."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(target)
    aside.mkdir()
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which at the end takes the place of the target: one that is not there, or empty."""
    with folder_aside(target) as aside:
        yield aside
        with in_one_go():
            if target.exists():
                target.rmdir()
            aside.rename(target)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is gone afterwards, also if a Ctrl-C ends the command within."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _begun.add(folder)
        yield folder
    _begun.discard(folder)


def abandon(seconds: float) -> None:
    """Removes what was begun and has not taken its place: the process leaves.

    Args:
        seconds: how long files that are taking their places are waited for. No others do so afterwards.
    """
    _undivided.acquire(timeout=seconds)
    for _ in range(_TRIES):  # somebody may still be writing
        for path in [path for path in _begun if os.path.lexists(path)]:
            remove(path)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a crash or a power cut leaves the old one or the new one, whole."""
    aside = aside_of(path)
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    _begun.discard(aside.absolute())


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


@contextlib.contextmanager
def open_growing(path: Path, name: str = "the file") -> Iterator[Callable[[str], None]]:
    """What writes text to a file that takes its place when it is whole: until then it grows as `<name>.partial`.

    That file stays, with all that was written, if the block is left by an error or a Ctrl-C; not if that is nothing.
    What is no plain file (a pipe, a device) is written to as it is. Text is UTF-8, its lines end as they are given.

    Args:
        path: the file.
        name: what the caller calls it, such as an option.

    Raises:
        ValueError: it is a folder, or nothing can be written there; says why, and before the block is entered.
    """
    if path.is_dir():
        raise ValueError(f"{name} {path} is a folder; give a file.")
    is_plain = path.is_file() or not os.path.lexists(path)
    growing = path.with_name(f"{path.name}.partial") if is_plain else path
    try:
        if is_plain and path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(None, "Permission denied")
        file = growing.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise ValueError(
            f"{name} {path} cannot be written to ({error.strerror or error}); give another file."
        ) from None
    if is_plain:
        _begun.add(growing.absolute())

    def write(text: str) -> None:
        file.write(text)
        file.flush()
        if text:
            _begun.discard(growing.absolute())

    try:
        with file:
            yield write
            if is_plain:
                os.fsync(file.fileno())
    except BaseException:
        if is_plain and not growing.stat().st_size:
            growing.unlink()
        raise
    finally:
        _begun.discard(growing.absolute())
    if is_plain:
        growing.replace(path)


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
