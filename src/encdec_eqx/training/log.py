"""The log of a run: JSON Lines, one event a line, each step once however often the run was interrupted.

Knows lines and steps; must not know what the numbers mean.
"""

import errno
import json
import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class RunLog:
    """A log that is being written; a line is in the system's hands when `write` returns. Use it in a `with` statement.

    Numbers that are not finite, which JSON has no words for, are the strings "NaN", "Infinity" and "-Infinity".
    """

    def __init__(self, path: str | Path, *, resume_from: int | None = None):
        """Opens the log.

        Args:
            path: The file.
            resume_from: The step that the run goes on from: events of later steps are removed, as they will come
                again. None: a new log, in place of any that is there.
        """
        self._path = Path(path)
        _replace(self._path, b"" if resume_from is None else _up_to(self._path, resume_from))
        self._file = self._path.open("ab", buffering=0)

    def write(self, event: str, **fields: Any) -> None:
        """Appends `{"event": event, **fields}`; fields may be strings, numbers, booleans, None, and lists or dicts.

        Raises:
            OSError: The disk is full; the log is as it was before.
        """
        line = json.dumps(_encoded({"event": event, **fields}), allow_nan=False, ensure_ascii=False).encode() + b"\n"
        before = self._file.seek(0, os.SEEK_END)
        if self._file.write(line) != len(line):  # there was room for a part of it
            os.ftruncate(self._file.fileno(), before)
            raise OSError(errno.ENOSPC, "the disk is full", str(self._path))

    def records(self) -> list[dict[str, Any]]:
        """All events so far, as `read_log`."""
        return read_log(self._path)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The events of a log. A last line without an end, which a crash may leave, is not one.

    Raises:
        ValueError: A line is not a JSON object; says which.
    """
    return [record for _, record in _lines(Path(path))]


def _lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Each whole line, and what it says."""
    *whole, _ = path.read_bytes().split(b"\n")
    return [(line, _parsed(line, f"{path}:{number}")) for number, line in enumerate(whole, start=1)]


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error}): the log is damaged; remove the line.") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where} is not a JSON object: the log is damaged; remove the line.")
    return _decoded(record)


def _up_to(path: Path, step: int) -> bytes:
    """The log's lines without those of later steps, byte for byte."""
    if not path.exists():
        return b""
    return b"".join(line + b"\n" for line, record in _lines(path) if record.get("step", step) <= step)


def _replace(path: Path, content: bytes) -> None:
    """The whole file at once, so that a crash leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.new")
    aside.write_bytes(content)
    aside.replace(path)


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
