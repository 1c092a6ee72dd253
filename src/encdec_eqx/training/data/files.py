"""The entries of a file, one after another, with their lines: JSON, CSV, TSV and Parquet.

Says which lines cannot be read; what an entry must hold is `judge`'s business.
"""

import io
from collections.abc import Iterator
from pathlib import Path

from ..._quoting import printable, quoted
from .encoded_text import as_text, check_encoding, encoding_of
from .json_entries import json_entries
from .opening import OPENERS, DamageError, opened
from .parquet_entries import parquet_entries
from .records import Entry
from .tables import csv_entries, tsv_entries

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
    """Raise where a format or an encoding is unknown, or they do not go together.

    Raises:
        ValueError: they do not.
    """
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
    """Everything that stands in a file.

    Args:
        path: the file.
        format: one of `FORMATS`.
        wanted: the names of source and target; a table must have such columns.
        encoding: of text; default: what a mark says, else UTF-8.
        unread: gets the names of columns that are left out, and their numbers of entries.

    Raises:
        ImportError: the file is Parquet, and pyarrow is not installed.
        ValueError: the table lacks a column, or the file is damaged; says behind which line.
    """
    line = 0
    try:
        with opened(path) as file:
            for entry in _entries(path, file, format, wanted, encoding, unread):
                line = entry.line + entry.lines - 1
                yield entry
    except (DamageError, UnicodeDecodeError) as error:
        where = f" behind line {line}" if line else ""
        raise ValueError(
            f"{printable(path)} is damaged{where}: {printable(str(error), 300)}. Copy or download it again."
        ) from None
    except OSError as error:
        raise OSError(f"{printable(path)} cannot be read{f' behind line {line}' if line else ''}: {error}.") from error


def _entries(
    path: Path,
    file: io.BufferedReader,
    format: str,
    wanted: tuple[str, ...],
    encoding: str | None,
    unread: dict[str, int],
) -> Iterator[Entry]:
    if format == "parquet":
        yield from parquet_entries(path, file, wanted, unread)
        return
    found = encoding_of(path, file.peek(4)[:4], encoding)
    if format in ("json", "jsonl"):
        yield from json_entries(path, file, found)
        return
    with as_text(file, found, "") as text:
        yield from (csv_entries if format == "csv" else tsv_entries)(path, text, wanted)
