"""Folders of checkpoints: each appears whole, by one rename, is checked against digests, and belongs to one run.

Of several processes the first makes, renames and removes; each writes its own files, and takes their digests.
"""

import contextlib
import errno
import hashlib
import importlib
import os
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import _processes as processes
from ..._quoting import printable, quoted
from ..._writing import remove

SUMS = "SHA256SUMS"
_NAME = re.compile(r"checkpoint-(0|[1-9][0-9]*)")  # as `place` writes it: no 007, no other script's digits
_UNFINISHED, _DISCARDED, _DAMAGED, _STRAY = ".unfinished-", ".discarded-", ".damaged", ".stray"
_SHARED = ".shared-"
_SEEN_WITHIN = 60.0
"""Seconds until a process must see what another one has made: NFS remembers for so long that a name was not there."""


def made(folder: Path) -> Path:
    """The folder, made if need be.

    Raises:
        ValueError: It is a file, or a link to nothing.
    """
    if os.path.lexists(folder) and not _is_folder(folder):
        raise ValueError(f"{printable(folder)} is not a folder, which checkpoints need: move it away.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_shared(folder: Path) -> None:
    """Looks whether all processes see what the first writes into a folder.

    Raises:
        ValueError: This one does not.
        OtherProcessError: Another one does not.
    """
    if processes.count() == 1:
        return
    purpose = "looking whether all processes see the folder of checkpoints"
    made = Path(processes.on_first(purpose, lambda: str(_mark(folder)))).name
    try:
        with processes.together(purpose):
            if not _seen(folder / made):
                raise ValueError(
                    f"process {processes.number()} does not see in {printable(folder)} what process 0 has written "
                    "there: the processes of a run need a folder that all of them share, on a network's file system "
                    "for instance. Give one (output_dir, --output-dir)."
                )
    finally:
        if processes.is_first():
            remove(folder / made)


def _mark(folder: Path) -> Path:
    mark = folder / f"{_SHARED}{uuid.uuid4().hex}"
    mark.touch()
    return mark


def _seen(path: Path) -> bool:
    end = time.monotonic() + _SEEN_WITHIN
    while not (there := path.exists()) and time.monotonic() < end:
        time.sleep(0.1)
    return there


def place(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step stands."""
    return folder / f"checkpoint-{step}"


def steps_in(folder: Path) -> list[int]:
    """The steps that have a checkpoint, ascending; none if the folder is gone."""
    if not folder.is_dir():
        return []
    names = (_NAME.fullmatch(path.name) for path in folder.iterdir() if _is_folder(path))
    return sorted(int(match[1]) for match in names if match)


def strays(folder: Path) -> list[str]:
    """What lies among the checkpoints and is none, fit to be printed: the name, and where that helps why it is none."""
    found = []
    for path in sorted(folder.iterdir()):
        is_checkpoint = _NAME.fullmatch(path.name) is not None
        if path.name.startswith(".") or path.name.endswith(_DAMAGED) or (is_checkpoint and _is_folder(path)):
            continue
        if path.is_symlink() and not os.path.exists(path):  # noqa: PTH110
            found.append(f"{quoted(path.name)} (a link to nothing)")
        elif is_checkpoint:
            found.append(f"{quoted(path.name)} (not a folder)")
        else:
            found.append(quoted(path.name))
    return found


@contextlib.contextmanager
def appearing(
    folder: Path, step: int, own: Collection[str], check: Callable[[Path], None] = lambda path: None
) -> Iterator[Path]:
    """An empty folder to fill. It becomes the checkpoint of `step` at the end, or disappears on an error.

    Args:
        folder: Where checkpoints lie.
        step: The step.
        own: The files that this process writes in it. All processes enter the block, and leave it together.
        check: Told the folder when all is written; an error of it is one of the block.
    """
    unfinished = folder / f"{_UNFINISHED}{place(folder, step).name}"
    processes.on_first("beginning a checkpoint", lambda: _emptied(unfinished))
    try:
        with processes.together("writing a checkpoint") as told:
            yield unfinished
            told.mine = {name: _digest(unfinished / name, sync=True) for name in own}

        def finish() -> None:
            check(unfinished)
            _seal(unfinished, {name: digest for each in told.all for name, digest in each.items()})
            _take_place(unfinished, folder, step)

        processes.on_first("finishing a checkpoint", finish)
    except BaseException:
        if processes.is_first():
            remove(unfinished)
        raise


def _emptied(folder: Path) -> None:
    remove(folder)
    folder.mkdir()


def _take_place(unfinished: Path, folder: Path, step: int) -> None:
    final = place(folder, step)
    former = _hidden(folder, step) if _is_folder(final) else None
    if os.path.lexists(final):  # a file or a link to nothing: somebody's, and in the way
        final.replace(_free(folder, f"{final.name}{_STRAY}"))
    unfinished.rename(final)
    sync_folder(folder)
    if former is not None:
        remove(former)


def verify(path: Path) -> None:
    """Compares every file with its digest; of several processes each reads its share.

    Raises:
        DamagedCheckpointError: A file is missing, was not there, cannot be read or is not what was written.
    """
    expected = _listed(path)
    if processes.is_first():  # a network's file system may show the others a folder as it was a minute ago
        found = {str(file.relative_to(path)) for file in _files(path)}
        for name in sorted({*expected, *found}):
            if name not in found:
                raise DamagedCheckpointError(f"{name} is missing")
            if name not in expected:
                raise DamagedCheckpointError(f"{name} is not listed in {SUMS}")
    for name in sorted(expected)[processes.number() :: processes.count()]:
        try:
            digest = _digest(path / name)
        except OSError as error:
            raise DamagedCheckpointError(f"{name} cannot be read ({error})") from error
        if digest != expected[name]:
            raise DamagedCheckpointError(f"{name} is not what was written: its digest differs")


def discard(folder: Path, step: int) -> None:
    """Removes a checkpoint: first from sight, by one rename, then from the disk."""
    remove(_hidden(folder, step))


def set_aside(folder: Path, step: int) -> Path:
    """Renames a damaged checkpoint, so that it is neither read nor counted any more."""
    damaged = folder / f"{place(folder, step).name}{_DAMAGED}"
    remove(damaged)
    return place(folder, step).rename(damaged)


def sweep(folder: Path) -> None:
    """Removes what a crash has left half written or half removed."""
    for path in folder.iterdir():
        if path.name.startswith((_UNFINISHED, _DISCARDED, _SHARED)):
            remove(path)


def _hidden(folder: Path, step: int) -> Path:
    """The checkpoint of a step, renamed out of sight."""
    hidden = folder / f"{_DISCARDED}{place(folder, step).name}"
    remove(hidden)
    return place(folder, step).rename(hidden)


def _is_folder(path: Path) -> bool:
    """Whether it is a folder, or a link to one, that can be looked at."""
    return os.path.isdir(path)  # noqa: PTH112 (Path.is_dir raises where a folder above cannot be entered)


def _free(folder: Path, name: str) -> Path:
    """A path of that name that nothing is at, with a number behind it if need be."""
    numbered = (name, *(f"{name}-{number}" for number in range(2, 1000)))
    return next(folder / each for each in numbered if not os.path.lexists(folder / each))


def _seal(path: Path, digests: Mapping[str, str]) -> None:
    """Writes the digests, and sees to it that all of it is on the disk."""
    lines = [f"{digests[name]}  {name}\n" for name in sorted(digests, key=Path)]
    with (path / SUMS).open("w", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    for folder in [path, *(inner for inner in path.rglob("*") if inner.is_dir())]:
        sync_folder(folder)


def _listed(path: Path) -> dict[str, str]:
    try:
        text = (path / SUMS).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedCheckpointError(f"{SUMS} is missing or cannot be read") from error
    lines = [re.fullmatch(r"([0-9a-f]{64})  (.+)", line) for line in text.splitlines()]
    if not lines or None in lines:
        raise DamagedCheckpointError(f"{SUMS} is not a list of digests")
    return {line[2]: line[1] for line in lines if line}


def _files(path: Path) -> list[Path]:
    """What the digests cover: all but the list itself, and hidden files that some file systems and desktops add."""
    return [file for file in path.rglob("*") if file.is_file() and file.name != SUMS and not file.name.startswith(".")]


def _digest(path: Path, sync: bool = False) -> str:
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Returns when the names in a folder are on the disk."""
    if os.name == "nt":  # Windows cannot open folders
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CheckpointNotWrittenError(RuntimeError):
    """A checkpoint could not be written; earlier ones are as they were."""


class NoUsableCheckpointError(RuntimeError):
    """There are checkpoints, and every one of them is damaged."""


class FolderInUseError(RuntimeError):
    """Another run holds the folder of checkpoints."""


class DamagedCheckpointError(RuntimeError):
    """One checkpoint's files are not those that were written. Says which file, and how it differs."""


def not_written(folder: Path, step: int, kept: Sequence[int], error: BaseException) -> CheckpointNotWrittenError:
    """The one message about a failed save: why, what is safe, how to go on."""
    code = getattr(error, "errno", None)
    if code in _FULL:
        reason, fix = f"no room ({os.strerror(code)})", "Free some space"
    elif isinstance(error, processes.OtherProcessError):
        reason, fix = str(error), "Fix that"
    else:
        line = (str(error).splitlines() or ["no details"])[0]
        shown = line if len(line) <= 300 else f"{line[:150]} ... {line[-150:]}"
        reason, fix = f"{type(error).__name__}: {shown}", "Fix that"
    if kept:
        safe = f"Checkpoints that are safe: {', '.join(f'step {step}' for step in kept)}. "
        where = f"goes on from step {kept[-1]}"
    else:
        safe, where = "There is no earlier checkpoint. ", "starts from the beginning"
    return CheckpointNotWrittenError(
        f"the checkpoint of step {step} could not be written to {folder}: {reason}. "
        f"{safe}What was half written has been removed. {fix}, then run again with resume=True (--resume), "
        f"which {where}."
    )


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
