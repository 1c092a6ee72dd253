"""Entries in JSON: one a line, or all in one array.

Knows lines and values; must not know what an entry must hold.
"""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..._json import Decoder
from ..._quoting import printable, quoted
from .encoded_text import as_text
from .records import BadRecord, Entry, Found

_SPACE = re.compile(r"[ \t\n\r]*")
_MARK = "\ufeff"


def json_entries(path: Path, file: io.BufferedReader, encoding: str) -> Iterator[Entry]:
    """The entries of a file in JSON Lines, or of a JSON array: one begins with a bracket, in a line that is no record.

    Raises:
        ValueError: the file is one object, or an array that is broken; says where.
    """
    lines = _lines(file, encoding)
    first = next(((number, line) for number, line in lines if _stripped(line)), None)
    if first is None:
        return
    if _stripped(first[1])[0] in "[{" and not _is_entry(first[1]):
        seen = [first, *lines]
        text = "".join(_decoded(line) for _, line in seen).removeprefix(_MARK)
        if _is_array(seen):
            yield from _array(path, text)
            return
        _check_not_one_object(path, text)
        lines = iter(seen[1:])
    yield from _each_line(path, first, lines)


def _is_array(lines: list[tuple[int, str | bytes]]) -> bool:
    """Whether lines, of which the first is no record, are those of one array, and not a bad record and others."""
    first, *rest = (line for _, line in lines if _stripped(line))
    if _stripped(first)[0] != "[":
        return False
    if not rest or _stripped(first) == "[":
        return True
    return not _is_json(first) and not _is_entry(rest[0])


def _each_line(path: Path, first: tuple[int, str | bytes], rest: Iterator[tuple[int, str | bytes]]) -> Iterator[Entry]:
    decoder = Decoder()
    for number, line in (pair for part in ([first], rest) for pair in part):
        try:
            text = line if isinstance(line, str) else line.decode("utf-8")
            if text.strip():
                yield _entry(path, number, decoder.decode(text.removeprefix(_MARK)), decoder)
        except UnicodeDecodeError as error:
            yield BadRecord(str(path), number, f"not UTF-8: {error.reason} at byte {error.start}")
        except ValueError as error:
            yield BadRecord(str(path), number, f"not JSON: {error}")


def _entry(path: Path, number: int, value: Any, decoder: Decoder) -> Entry:
    if decoder.repeated:
        return BadRecord(str(path), number, f"{quoted(decoder.repeated[0])} stands in it more than once")
    return Found(number, value)


def _array(path: Path, text: str) -> Iterator[Entry]:
    """The values of an array, each with its number."""
    decoder, number = Decoder(), 0
    at = _behind_space(text, _behind_space(text, 0) + 1)
    while text[at : at + 1] != "]":
        number += 1
        try:
            value, at = decoder.value_at(text, at)
        except ValueError as error:
            raise _broken(path, number, str(error)) from None
        yield _entry(path, number, value, decoder)
        at = _behind_space(text, at)
        if text[at : at + 1] == ",":
            at = _behind_space(text, at + 1)
        elif text[at : at + 1] != "]":
            where = json.JSONDecodeError("Expecting ',' or ']' behind it", text, at)
            raise _broken(path, number, str(where)) from None
    if (end := _behind_space(text, at + 1)) < len(text):
        where = json.JSONDecodeError("Extra data behind the array", text, end)
        raise _broken(path, number, str(where)) from None


def _broken(path: Path, number: int, reason: str) -> ValueError:
    return ValueError(
        f"{printable(path)}, record {number}: not JSON: {reason}. An array cannot be read past this; JSON Lines (one "
        "record a line) can."
    )


def _check_not_one_object(path: Path, text: str) -> None:
    """One object over several lines is neither of the forms."""
    try:
        value = Decoder().decode(text)
    except ValueError:
        return
    if isinstance(value, dict) and "\n" in text.strip():
        names = ", ".join(quoted(name) for name in list(value)[:8])
        raise ValueError(
            f"{printable(path)} is one JSON object, which holds {names or 'nothing'}; expected an array of records "
            "[{...}, {...}], or one record a line."
        )


def _lines(file: io.BufferedReader, encoding: str) -> Iterator[tuple[int, str | bytes]]:
    """Numbered lines: bytes of UTF-8, so that a bad byte spoils its own line and no other; else text."""
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig"):
        yield from enumerate(file, start=1)
    else:
        with as_text(file, encoding, "\n") as text:
            yield from enumerate(text, start=1)


def _decoded(line: str | bytes) -> str:
    return line if isinstance(line, str) else line.decode("utf-8", "surrogateescape")


def _stripped(line: str | bytes) -> str:
    return _decoded(line).removeprefix(_MARK).strip()


def _is_json(line: str | bytes) -> bool:
    try:
        Decoder().decode(_stripped(line))
    except ValueError:
        return False
    return True


def _is_entry(line: str | bytes) -> bool:
    """Whether a line is a record by itself: a whole object, or a pair that begins with a text."""
    try:
        value = Decoder().decode(_stripped(line))
    except ValueError:
        return False
    return isinstance(value, dict) or (isinstance(value, list) and len(value) == 2 and isinstance(value[0], str))


def _behind_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()
