"""Entries of a Parquet file. `pyarrow` is imported only here, and only when it is needed."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..._installing import install
from ..._quoting import printable
from .fields import FIELDS
from .judge import top_name
from .opening import Grown, GrowthError
from .records import Entry, Found
from .tables import check_columns

_PORTION = 256
"""Rows at once: few, because a value that the file holds once may stand in all of them."""


def parquet_entries(
    path: Path, file: io.BufferedReader, wanted: tuple[str, ...], unread: dict[str, int]
) -> Iterator[Entry]:
    """The entries of a Parquet file, without the columns that nothing reads.

    Args:
        path: the file.
        file: the same, opened.
        wanted: names of source and target.
        unread: gets the names of the columns that are left out, and their numbers of entries.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: the file is damaged, grows too far, or lacks a column; says behind which record.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError(
            f"reading {printable(path)} needs pyarrow, which is not installed: {install('parquet')}"
        ) from None
    # pyarrow says "damaged" in many ways: its own errors, and Python's for sizes and texts that cannot be
    errors = (pyarrow.ArrowException, OSError, MemoryError, UnicodeDecodeError, OverflowError, ValueError, KeyError)
    try:
        table = pyarrow.parquet.ParquetFile(file)
        names = list(table.schema_arrow.names)
    except errors as error:
        raise _damaged(path, error, 0) from None
    kept = _kept(path, names, wanted)
    for name in names:
        if name not in kept:
            unread[name] = unread.get(name, 0) + table.metadata.num_rows
    grown, size, line = Grown(path), path.stat().st_size, 0
    batches = table.iter_batches(batch_size=_PORTION, columns=kept)
    while True:
        try:
            batch = next(batches, None)
            rows = [] if batch is None else _rows(batch, grown, size)
        except GrowthError:
            raise
        except errors as error:
            raise _damaged(path, error, line) from None
        if batch is None:
            return
        for row in rows:
            line += 1
            yield Found(line, row)


def _kept(path: Path, names: list[str], wanted: tuple[str, ...]) -> list[str]:
    """The columns that are read: of texts, of ids with what goes with them, or of both."""
    encoded = ("input_ids", "labels", *FIELDS) if {"input_ids", "labels"} <= set(names) else ()
    columns = tuple(top_name(name, names) or name for name in wanted)
    if not encoded or set(columns) <= set(names):
        check_columns(path, names, tuple(dict.fromkeys(columns)))
    check_columns(path, names, tuple(name for name in encoded if name in names))
    return [name for name in dict.fromkeys((*columns, *encoded)) if name in names]


def _rows(batch: Any, grown: Grown, size: int) -> list[Any]:
    plain = [column.dictionary_decode() if hasattr(column, "dictionary_decode") else column for column in batch.columns]
    grown.to(size, sum(column.nbytes for column in plain))
    return batch.to_pylist()


def _damaged(path: Path, error: Exception, line: int) -> ValueError:
    where = f" behind record {line}" if line else ", or not Parquet"
    reason = printable(" ".join(str(error).split()), 300)
    return ValueError(f"{printable(path)} is damaged{where}: {reason}. Copy or download it again.")
