"""The entries of a file, one after another, with their lines: JSON Lines, CSV, TSV and Parquet.

Says which lines cannot be read; what an entry must hold is `judge`'s business. `pyarrow` is imported only for Parquet.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..._installing import install
from .records import BadRecord

Entry = tuple[int, Any] | BadRecord
"""A line's number and what stands there, or why it cannot be read."""

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}


def format_of(path: Path) -> str:
    """The format that a file's name says, compression aside.

    Raises:
        ValueError: it says none.
    """
    suffixes = [suffix for suffix in path.suffixes if suffix not in _OPENERS]
    if suffixes and suffixes[-1] in _SUFFIXES:
        return _SUFFIXES[suffixes[-1]]
    raise ValueError(
        f"{path} does not say its format; expected a name that ends in {', '.join(_SUFFIXES)} (then perhaps "
        f"{', '.join(_OPENERS)}), or format= one of {', '.join(repr(name) for name in READERS)}."
    )


def entries(path: Path, format: str, wanted: tuple[str, ...]) -> Iterator[Entry]:
    """Everything that stands in a file.

    Args:
        path: the file.
        format: a key of `READERS`.
        wanted: the columns that a table must have.

    Raises:
        ImportError: the file is Parquet, and pyarrow is not installed.
        ValueError: the format is unknown, the table lacks a column, or the compressed file is damaged.
    """
    if format not in READERS:
        raise ValueError(f"format must be one of {', '.join(repr(name) for name in READERS)}, got {format!r}.")
    try:
        with _opened(path) as file:
            yield from READERS[format](path, file, wanted)
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, csv.Error) as error:
        raise ValueError(f"{path} is damaged: {error}. Copy or download it again.") from None


def _opened(path: Path) -> io.BufferedIOBase:
    return _OPENERS.get(path.suffix, open)(path, "rb")


def _json_lines(path: Path, file: io.BufferedIOBase, wanted: tuple[str, ...]) -> Iterator[Entry]:
    for line, raw in enumerate(file, start=1):
        try:
            text = raw.decode("utf-8-sig" if line == 1 else "utf-8")
            if text.strip():
                yield line, json.loads(text)
        except UnicodeDecodeError as error:
            yield BadRecord(str(path), line, f"not UTF-8: {error.reason} at byte {error.start}")
        except (json.JSONDecodeError, RecursionError) as error:
            yield BadRecord(str(path), line, f"not JSON: {error}")


def _csv(path: Path, file: io.BufferedIOBase, wanted: tuple[str, ...]) -> Iterator[Entry]:
    return _table(path, file, wanted, delimiter=",", strict=True)


def _tsv(path: Path, file: io.BufferedIOBase, wanted: tuple[str, ...]) -> Iterator[Entry]:
    """Tabs separate and lines end, and nothing else has a meaning: quotes are letters, as in translation corpora."""
    return _table(path, file, wanted, delimiter="\t", quoting=csv.QUOTE_NONE)


def _table(path: Path, file: io.BufferedIOBase, wanted: tuple[str, ...], **dialect: Any) -> Iterator[Entry]:
    # bytes that are no UTF-8 become lone surrogates, which the judge finds in the one field that has them
    with io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="") as text:  # pyright: ignore[reportArgumentType]
        rows = csv.reader(text, **dialect)
        names = next(rows, None)
        if names is None:
            raise ValueError(f"{path} is empty; expected a first line with the names of the columns.")
        _check_columns(path, names, wanted)
        while True:
            line = rows.line_num + 1
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRecord(str(path), line, f"not a row: {error}")
                continue
            if row and len(row) != len(names):
                yield BadRecord(str(path), line, f"{len(row)} columns, the first line has {len(names)}")
            elif row:
                yield line, dict(zip(names, row, strict=True))


def _parquet(path: Path, file: io.BufferedIOBase, wanted: tuple[str, ...]) -> Iterator[Entry]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError(f"reading {path} needs pyarrow, which is not installed: {install('parquet')}") from None
    try:
        table = pyarrow.parquet.ParquetFile(file)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is damaged, or not Parquet: {error}") from None
    names = table.schema_arrow.names
    encoded = {"input_ids", "labels"} <= set(names)
    if not encoded:
        _check_columns(path, names, wanted)
    kept = [name for name in (*wanted, "input_ids", "labels") if name in names]
    line = 0
    for batch in table.iter_batches(columns=kept):
        for row in batch.to_pylist():
            line += 1
            yield line, row


def _check_columns(path: Path, names: list[str], wanted: tuple[str, ...]) -> None:
    for name in wanted:
        if name not in names:
            raise ValueError(
                f"{path} has no column {name!r}; it has {', '.join(map(repr, names))}. Say which to read with "
                "source=... and target=..."
            )


READERS: dict[str, Callable[[Path, io.BufferedIOBase, tuple[str, ...]], Iterator[Entry]]] = {
    "jsonl": _json_lines,
    "csv": _csv,
    "tsv": _tsv,
    "parquet": _parquet,
}
