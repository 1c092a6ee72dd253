"""Whether a folder can be written to, found out before the work whose results it is to hold.

Knows nothing of what will be written.
"""

import os
import tempfile
from pathlib import Path


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
