"""The log of a run: JSON Lines, one event per line, each step once however often the run was interrupted."""

import errno
import json
import logging
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..._writing import write_whole
from ..resume.checkpoint_files import sync_folder

_LOG = logging.getLogger(__name__)
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class RunLog:
    """A log that is being written; a line is in the system's hands when `write` returns. Use it in a `with` statement.

    Numbers that are not finite, which JSON has no words for, are the strings "NaN", "Infinity" and "-Infinity".

    Attributes:
        notes: What the user should know of the log that was found, such as lines that a power cut has damaged.
    """

    def __init__(self, path: str | Path, *, resume_from: int | None = None, without: Collection[str] = ()):
        """Opens the log.

        Args:
            path: The file.
            resume_from: The step that the run goes on from: events of later steps are removed, as they will come
                again, and so is everything from the first line on that cannot be read. None: a new log, in place of
                any that is there.
            without: Events of this very step that are removed too.

        Raises:
            ValueError: The path is a folder.
        """
        self._path = Path(path)
        self.notes: tuple[str, ...] = ()
        if self._path.is_dir():
            raise ValueError(f"the log {self._path} is a folder: move it away.")
        _replace(self._path, b"" if resume_from is None else self._up_to(resume_from, without))
        self._file = self._path.open("ab", buffering=0)

    def _up_to(self, step: int, without: Collection[str]) -> bytes:
        """The log's lines without those of later steps, byte for byte, as far as they can be read."""
        if not self._path.exists():
            return b""
        content = self._path.read_bytes()
        lines, problem = _readable(content)
        if problem is not None:
            rest = content[sum(len(line) + 1 for line, _ in lines) :]
            self.notes = (_cut_note(self._path, len(lines) + 1, problem, rest),)
            _LOG.warning("%s", self.notes[0])
        return b"".join(line + b"\n" for line, record in lines if _stays(record, step, without))

    def write(self, event: str, **fields: Any) -> None:
        """Appends `{"event": event, **fields}`; fields may be strings, numbers, booleans, None, and lists or dicts.

        Args:
            event: What happened, such as "train" or "eval".
            **fields: What belongs to it.

        Raises:
            OSError: The disk is full; the log is as it was before.
        """
        line = json.dumps(_encoded({"event": event, **fields}), allow_nan=False, ensure_ascii=False).encode() + b"\n"
        before = self._file.seek(0, os.SEEK_END)
        if self._file.write(line) != len(line):  # there was room for a part of it
            os.ftruncate(self._file.fileno(), before)
            raise OSError(errno.ENOSPC, "the disk is full", str(self._path))

    def sync(self) -> None:
        """Returns when the lines so far are on the disk, where a power cut leaves them."""
        os.fsync(self._file.fileno())

    def records(self) -> list[dict[str, Any]]:
        """All events so far, as `read_log`."""
        return read_log(self._path)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.close()


class UnwrittenLog(RunLog):
    """The log in a process that does not write it: another one of the run does."""

    def __init__(self):
        """Nothing is opened."""
        self.notes: tuple[str, ...] = ()

    def write(self, event: str, **fields: Any) -> None:
        """Nothing: the other process writes the line."""

    def sync(self) -> None:
        """Nothing: the other process waits."""

    def records(self) -> list[dict[str, Any]]:
        """None."""
        return []

    def close(self) -> None:
        """Nothing."""


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The events of a log. A last line without an end, which a crash may leave, is not one.

    Args:
        path: Of a `log.jsonl`.

    Raises:
        ValueError: A line is not a JSON object; says which.
    """
    *whole, _ = Path(path).read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(whole, start=1):
        try:
            records.append(_parsed(line))
        except ValueError as error:
            raise ValueError(
                f"{path}:{number} {error}: the log is damaged. Remove the line; a run that is resumed does so itself."
            ) from error
    return records


def _readable(content: bytes) -> tuple[list[tuple[bytes, dict[str, Any]]], str | None]:
    """The lines before the first that cannot be read, with what they say, and what is wrong with that one."""
    *whole, rest = content.split(b"\n")
    lines: list[tuple[bytes, dict[str, Any]]] = []
    for line in whole:
        try:
            lines.append((line, _parsed(line)))
        except ValueError as error:
            return lines, str(error)
    if not rest:
        return lines, None
    return lines, "holds NUL bytes" if b"\0" in rest else "has no end"


def _parsed(line: bytes) -> dict[str, Any]:
    """What a line says. The message of a ValueError goes on from the line's name."""
    if b"\0" in line:
        raise ValueError("is not JSON (it holds NUL bytes)")
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON ({error})") from error
    if not isinstance(record, dict):
        raise ValueError("is not a JSON object")
    if not isinstance(record.get("event"), str) or type(record.get("step", 0)) is not int:
        raise ValueError("is not an event, which has a name and may have a step")
    return _decoded(record)


def _stays(record: Mapping[str, Any], step: int, without: Collection[str]) -> bool:
    at = record.get("step", step)
    return at < step or (at == step and not ("step" in record and record["event"] in without))


def _cut_note(path: Path, number: int, problem: str, rest: bytes) -> str:
    """What is said of a log that cannot be read to its end."""
    lines = rest.count(b"\n") + (not rest.endswith(b"\n"))
    removed = "it is removed" if lines == 1 else f"it and what follows, {lines} lines in all, are removed"
    return f"line {number} of {path.name} {problem}: {removed}, and the run goes on."


def _replace(path: Path, content: bytes) -> None:
    """The whole file at once; its folder is made, and its name is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    sync_folder(path.parent)


def _encoded(value: Any) -> Any:
    """In terms of strict JSON; scalars of NumPy and jax are numbers."""
    if isinstance(value, dict):
        return {name: _encoded(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(inner) for inner in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    return value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _decoded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_decoded(inner) for inner in value]
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
