"""Entries of a table in text: CSV and TSV, with the columns' names in the first row.

Knows rows and columns; must not know what an entry must hold.
"""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..._quoting import printable, quoted
from . import csv_rows
from .csv_rows import Row
from .records import BadRecord, Entry, Found

_logger = logging.getLogger("encdec_eqx")

MANY_LINES = 1000
"""A field of so many lines is named, for a quote that was never meant to open one may have swallowed rows."""

_SOME_LINES = 20
"""The same, if nearly all of its lines look like rows."""


def csv_entries(path: Path, text: Iterable[str], wanted: tuple[str, ...]) -> Iterator[Entry]:
    """The entries of a CSV file."""
    return _entries(path, csv_rows.rows(text, ","), ",", wanted)


def tsv_entries(path: Path, text: Iterable[str], wanted: tuple[str, ...]) -> Iterator[Entry]:
    """Tabs separate and lines end, and nothing else has a meaning: quotes are letters, as in translation corpora."""
    lines = ((number, line.rstrip("\r\n")) for number, line in enumerate(text, start=1))
    return _entries(path, (Row(number, 1, line.split("\t")) for number, line in lines if line), "\t", wanted)


def check_columns(path: Path, names: list[str], wanted: tuple[str, ...]) -> None:
    """Raise where a table lacks a column, or has it twice.

    Raises:
        ValueError: it does.
    """
    for name in wanted:
        places = [at for at, one in enumerate(names, start=1) if one == name]
        if not places:
            raise ValueError(
                f"{printable(path)} has no column {name!r}; it has {_listed(names)}. Say which to read with source=... "
                "and target=... (source_column and target_column in a job)"
            )
        if len(places) > 1:
            raise ValueError(
                f"{printable(path)} has {len(places)} columns named {name!r}, in the places "
                f"{' and '.join(map(str, places))}: which to read cannot be known. Rename all but one."
            )


def _entries(path: Path, rows: Iterator[Row], delimiter: str, wanted: tuple[str, ...]) -> Iterator[Entry]:
    head = next(rows, None)
    if head is None:
        raise ValueError(f"{printable(path)} is empty; expected a first line with the names of the columns.")
    if head.error is not None:
        raise ValueError(f"{printable(path)}:{head.line}: the columns' names cannot be read: {head.error}.")
    names = head.fields
    check_columns(path, names, wanted)
    for row in rows:
        reason = row.error or _miscounted(row, len(names))
        if reason is not None:
            yield BadRecord(str(path), row.line, reason, row.lines)
            continue
        if row.lines >= _SOME_LINES:
            _name_swallowed(path, row, delimiter, len(names))
        yield Found(row.line, dict(zip(names, row.fields, strict=True)), row.lines)


def _miscounted(row: Row, columns: int) -> str | None:
    if len(row.fields) == columns:
        return None
    over = "; is a quote in it not closed?" if row.lines > 1 else ""
    return f"{len(row.fields)} columns, the first line has {columns}{over}"


def _name_swallowed(path: Path, row: Row, delimiter: str, columns: int) -> None:
    """Log a row that reads well, but has a field of very many lines, or of some that look like rows."""
    inside = [line for field in row.fields if "\n" in field for line in field.splitlines()[1:-1]]
    alike = sum(line.count(delimiter) == columns - 1 for line in inside)
    if row.lines >= MANY_LINES or alike > 0.9 * len(inside):
        _logger.warning(
            "%s:%d: the lines %d to %d are one row: a quote in the first opens a field that ends in the last. If rows "
            "were swallowed, the first quote is not meant to open a field: double it and put the field in quotes.",
            printable(path), row.line, row.line, row.last,
        )  # fmt: skip


def _listed(names: list[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(quoted(name) for name in names[:most]) + more
