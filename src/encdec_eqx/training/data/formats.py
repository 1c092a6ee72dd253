"""The entries of a file by its format, one after another, with their lines; JSON Lines and JSON arrays among them."""

import contextlib
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..._json import Decoder
from ..._quoting import printable, quoted
from .csv_and_parquet import csv_entries, parquet_entries, tsv_entries
from .opening import OPENERS, DamageError, as_text, check_encoding, encoding_of, open_file
from .records import BadRecord, Entry, Found

FORMATS = ("jsonl", "json", "csv", "tsv", "parquet")
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv"}
_SUFFIXES |= {".parquet": "parquet"}


def format_of(path: Path) -> str:
    """The format that a file's name says, compression aside.

    Raises:
        ValueError: it says none.
    """
    suffixes = [suffix for suffix in path.suffixes if suffix not in OPENERS]
    if suffixes and suffixes[-1] in _SUFFIXES:
        return _SUFFIXES[suffixes[-1]]
    raise ValueError(
        f"{printable(path)} does not say its format; expected a name that ends in {', '.join(_SUFFIXES)} (then perhaps "
        f"{', '.join(OPENERS)}), or format= one of {', '.join(map(repr, FORMATS))}."
    )


def check_format(format: str, encoding: str | None) -> None:
    """Raise where a format or an encoding is unknown, or they do not go together."""
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(map(repr, FORMATS))}, got {quoted(format)}.")
    if encoding is None:
        return
    check_encoding(encoding)
    if format == "parquet":
        raise ValueError(f"encoding={encoding!r} would do nothing: Parquet says itself how its texts are encoded.")


def entries(
    path: Path, format: str, wanted: tuple[str, ...], encoding: str | None, unread: dict[str, int]
) -> Iterator[Entry]:
    """Everything that a file holds.

    Args:
        path: the file.
        format: one of `FORMATS`.
        wanted: the names of source and target; a table must have such columns.
        encoding: of text; default: what a mark says, else UTF-8.
        unread: gets the names of columns that are left out, and their numbers of entries.

    Raises:
        ImportError: the file is Parquet, and pyarrow is not installed.
        ValueError: the table lacks a column, or the file is damaged; says after which line.
    """
    line = 0
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open_file(path))
            if format == "parquet":
                found = parquet_entries(path, file, wanted, unread)
            elif format in ("json", "jsonl"):
                found = json_entries(path, file, encoding_of(path, file.peek(4)[:4], encoding))
            else:
                text = stack.enter_context(as_text(file, encoding_of(path, file.peek(4)[:4], encoding), ""))
                found = (csv_entries if format == "csv" else tsv_entries)(path, text, wanted)
            for entry in found:
                line = entry.line + entry.lines - 1
                yield entry
    except (DamageError, UnicodeDecodeError) as error:
        where = f" behind line {line}" if line else ""
        raise ValueError(
            f"{printable(path)} is damaged{where}: {printable(str(error), 300)}. Copy or download it again."
        ) from None
    except OSError as error:
        raise OSError(f"{printable(path)} cannot be read{f' behind line {line}' if line else ''}: {error}.") from error


_SPACE = re.compile(r"[ \t\n\r]*")
_MARK = "\ufeff"


def json_entries(path: Path, file: io.BufferedReader, encoding: str) -> Iterator[Entry]:
    """The entries of a file in JSON Lines, or of a JSON array: one begins with a bracket, in a line that is no record.

    Raises:
        ValueError: the file is one object, or an array that is broken; says where.
    """
    lines = _lines(file, encoding)
    first = next(((number, line) for number, line in lines if _strip(line)), None)
    if first is None:
        return
    if _strip(first[1])[0] in "[{" and not _is_entry(first[1]):
        seen = [first, *lines]
        text = "".join(_as_str(line) for _, line in seen).removeprefix(_MARK)
        if _is_array(seen):
            yield from _array(path, text)
            return
        _check_not_one_object(path, text)
        lines = iter(seen[1:])
    yield from entries_of_lines(path, itertools.chain([first], lines))


def _is_array(lines: list[tuple[int, str | bytes]]) -> bool:
    """Whether lines, of which the first is no record, are those of one array, and not a bad record and others."""
    first, *rest = (line for _, line in lines if _strip(line))
    if _strip(first)[0] != "[":
        return False
    if not rest or _strip(first) == "[":
        return True
    return _value(first) is None and not _is_entry(rest[0])  # it begins with a bracket, so it is not `null`


def entries_of_lines(path: Path, lines: Iterable[tuple[int, str | bytes]]) -> Iterator[Entry]:
    """The entries of numbered lines in JSON Lines; one that is empty holds none."""
    decoder = Decoder()
    for number, line in lines:
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
    at = _after_space(text, _after_space(text, 0) + 1)
    while text[at : at + 1] != "]":
        number += 1
        try:
            value, at = decoder.value_at(text, at)
        except ValueError as error:
            raise _array_error(path, number, str(error)) from None
        yield _entry(path, number, value, decoder)
        at = _after_space(text, at)
        if text[at : at + 1] == ",":
            at = _after_space(text, at + 1)
        elif text[at : at + 1] != "]":
            where = json.JSONDecodeError("Expecting ',' or ']' behind it", text, at)
            raise _array_error(path, number, str(where)) from None
    if (end := _after_space(text, at + 1)) < len(text):
        where = json.JSONDecodeError("Extra data behind the array", text, end)
        raise _array_error(path, number, str(where)) from None


def _array_error(path: Path, number: int, reason: str) -> ValueError:
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
    """Numbered lines: bytes of UTF-8, so that a bad byte breaks its own line and no other; else text."""
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig"):
        yield from enumerate(file, start=1)
    else:
        with as_text(file, encoding, "\n") as text:
            yield from enumerate(text, start=1)


def _as_str(line: str | bytes) -> str:
    return line if isinstance(line, str) else line.decode("utf-8", "surrogateescape")


def _strip(line: str | bytes) -> str:
    return _as_str(line).removeprefix(_MARK).strip()


def _value(line: str | bytes) -> Any:
    """What a line holds as JSON; None if it is none."""
    try:
        return Decoder().decode(_strip(line))
    except ValueError:
        return None


def _is_entry(line: str | bytes) -> bool:
    """Whether a line is a record by itself: a whole object, or a pair that begins with a text."""
    value = _value(line)
    return isinstance(value, dict) or (isinstance(value, list) and len(value) == 2 and isinstance(value[0], str))


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()
