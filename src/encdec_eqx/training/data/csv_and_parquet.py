"""Tables: the entries of CSV, TSV and Parquet files. `pyarrow` is imported when a Parquet file is read."""

import io
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..._installing import install
from ..._quoting import listed, printable, quoted
from .opening import Grown, GrowthError
from .records import FIELDS, NESTED, BadRecord, Entry, Found

_logger = logging.getLogger("encdec_eqx")

QUOTE = '"'

MOST_LETTERS = 1 << 26
"""Letters of a field that are kept (64 Mi), so that a quote that is never closed does not keep a whole file."""


class Row(NamedTuple):
    """A row.

    Attributes:
        line: its first line, counted from 1.
        lines: how many it takes.
        fields: what it holds.
        error: why it is none, if it is not.
    """

    line: int
    lines: int
    fields: list[str]
    error: str | None = None

    @property
    def last(self) -> int:
        """Its last line."""
        return self.line + self.lines - 1


def rows(lines: Iterable[str], delimiter: str) -> Iterator[Row]:
    """The rows of a file, from lines with their ends; empty lines hold none."""
    counted = enumerate(lines, start=1)
    for number, line in counted:
        if QUOTE in line:
            yield _Reading(counted, delimiter, number, line).row()
        elif bare := _without_end(line):
            yield Row(number, 1, bare.split(delimiter))


def _without_end(text: str) -> str:
    return text.rstrip("\r\n")


class _Reading:
    """One row with quotes in it: how far it is read, and what was found."""

    def __init__(self, lines: Iterator[tuple[int, str]], delimiter: str, number: int, line: str):
        self._lines, self._delimiter = lines, delimiter
        self._first = self._number = number
        self._text, self._at = line, 0
        self._fields: list[str] = []
        self._error: str | None = None

    def row(self) -> Row:
        """The row, to its end."""
        while True:
            more = self._quoted() if self._text.startswith(QUOTE, self._at) else self._bare()
            if not more:
                return Row(self._first, self._number - self._first + 1, self._fields, self._error)

    def _bare(self) -> bool:
        """A field without quotes around it; quotes inside are letters. False if it was the row's last."""
        end = self._text.find(self._delimiter, self._at)
        self._fields.append(_without_end(self._text[self._at :]) if end < 0 else self._text[self._at : end])
        self._at = end + 1
        return end >= 0

    def _quoted(self) -> bool:
        """A field in quotes, over as many lines as it takes. False if it was the row's last."""
        opened, parts, letters = self._number, [], 0
        self._at += 1
        while True:
            close = self._text.find(QUOTE, self._at)
            part = self._text[self._at : close] if close >= 0 else self._text[self._at :]
            letters += len(part)
            if letters <= MOST_LETTERS:
                parts.append(part)
            if close < 0:
                if not self._next_line():
                    last = f"never closed, up to the end in line {self._number}"
                    self._fail(f"not a row: the quote that opens in line {opened} is {last}")
                    return False
                continue
            after = self._text[close + 1 : close + 2]
            if after == QUOTE:
                parts.append(QUOTE)
                self._at = close + 2
            elif after in ("", self._delimiter, "\r", "\n"):
                break
            elif self._fails_at(close, opened):
                opened, self._at = self._number, close + 1
            else:
                self._at = close + 1
                return self._bare()
        if letters > MOST_LETTERS:
            self._fail(f"a field of {letters} letters; more than {MOST_LETTERS} are not kept")
        self._fields.append("".join(parts))
        self._at = close + 2
        return after == self._delimiter

    def _fails_at(self, close: int, opened: int) -> bool:
        """Record that something follows a closing quote. True if it was not a closing but an opening one.

        It was, probably, if it is where a field begins, and either the field that it would close spans lines (so
        its own opening quote is the stray one) or quotes on the rest of the line are closed only this way.
        """
        over = f": a quote opens in line {opened} and closes in line {self._number}" if opened < self._number else ""
        self._fail(f"not a row: {self._delimiter!r} expected after {QUOTE!r}{over}")
        begins = close == 0 or self._text[close - 1] == self._delimiter
        return begins and (opened < self._number or self._text.count(QUOTE, close + 1) % 2 == 1)

    def _fail(self, reason: str) -> None:
        self._error = reason if self._error is None else self._error

    def _next_line(self) -> bool:
        number, self._text = next(self._lines, (self._number, ""))
        more, self._number, self._at = number > self._number, number, 0
        return more


MANY_LINES = 1000
"""A field of so many lines is named, for a quote that was never meant to open one may have swallowed rows."""

_SOME_LINES = 20
"""The same, if nearly all of its lines look like rows."""


def csv_entries(path: Path, text: Iterable[str], wanted: tuple[str, ...]) -> Iterator[Entry]:
    """The entries of a CSV file."""
    return _entries(path, rows(text, ","), ",", wanted)


def tsv_entries(path: Path, text: Iterable[str], wanted: tuple[str, ...]) -> Iterator[Entry]:
    """Tabs separate and lines end, and nothing else has a meaning: quotes are letters, as in translation corpora."""
    lines = ((number, line.rstrip("\r\n")) for number, line in enumerate(text, start=1))
    return _entries(path, (Row(number, 1, line.split("\t")) for number, line in lines if line), "\t", wanted)


def check_columns(path: Path, names: list[str], wanted: tuple[str, ...]) -> None:
    """Raise where a table lacks a column, or has it twice."""
    for name in wanted:
        places = [at for at, one in enumerate(names, start=1) if one == name]
        if not places:
            there = listed([quoted(one) for one in names], 12)
            raise ValueError(
                f"{printable(path)} has no column {name!r}; it has {there}. Say which to read with source=... "
                "and target=... (source_column and target_column in a job)"
            )
        if len(places) > 1:
            raise ValueError(
                f"{printable(path)} has {len(places)} columns named {name!r}, in the places "
                f"{' and '.join(map(str, places))}: which to read cannot be known. Rename all but one."
            )


def _entries(path: Path, table: Iterator[Row], delimiter: str, wanted: tuple[str, ...]) -> Iterator[Entry]:
    head = next(table, None)
    if head is None:
        raise ValueError(f"{printable(path)} is empty; expected a first line with the names of the columns.")
    if head.error is not None:
        raise ValueError(f"{printable(path)}:{head.line}: the columns' names cannot be read: {head.error}.")
    names = head.fields
    check_columns(path, names, wanted)
    for row in table:
        reason = row.error or _count_error(row, len(names))
        if reason is not None:
            yield BadRecord(str(path), row.line, reason, row.lines)
            continue
        if row.lines >= _SOME_LINES:
            _warn_of_swallowed_rows(path, row, delimiter, len(names))
        yield Found(row.line, dict(zip(names, row.fields, strict=True)), row.lines)


def _count_error(row: Row, columns: int) -> str | None:
    if len(row.fields) == columns:
        return None
    over = "; is a quote in it not closed?" if row.lines > 1 else ""
    return f"{len(row.fields)} columns, the first line has {columns}{over}"


def _warn_of_swallowed_rows(path: Path, row: Row, delimiter: str, columns: int) -> None:
    """Log a row that reads well, but has a field of very many lines, or of some that look like rows."""
    inside = [line for field in row.fields if "\n" in field for line in field.splitlines()[1:-1]]
    alike = sum(line.count(delimiter) == columns - 1 for line in inside)
    if row.lines >= MANY_LINES or alike > 0.9 * len(inside):
        _logger.warning(
            "%s:%d: the lines %d to %d are one row: a quote in the first opens a field that ends in the last. If rows "
            "were swallowed, the first quote is not meant to open a field: double it and put the field in quotes.",
            printable(path), row.line, row.line, row.last,
        )  # fmt: skip


_PORTION = 256
"""Rows at once: few, because a value that the file holds once may be in all of them."""


def parquet_entries(
    path: Path, file: io.BufferedReader, wanted: tuple[str, ...], unread: dict[str, int]
) -> Iterator[Entry]:
    """The entries of a Parquet file, without the columns that nothing reads: these are counted in `unread`.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: the file is damaged, grows too far, or lacks a column; says after which record.
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
        raise _damage_error(path, error, 0) from None
    kept = _columns_to_read(path, names, wanted)
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
            raise _damage_error(path, error, line) from None
        if batch is None:
            return
        for row in rows:
            line += 1
            yield Found(line, row)


def _columns_to_read(path: Path, names: list[str], wanted: tuple[str, ...]) -> list[str]:
    """The columns that are read: of texts, of ids with what goes with them, or of both."""
    encoded = ("input_ids", "labels", *FIELDS) if {"input_ids", "labels"} <= set(names) else ()
    columns = tuple(
        # what holds the texts of this name
        next((one for one in (name, name.partition(".")[0], NESTED) if one in names), name)
        for name in wanted
    )
    if not encoded or set(columns) <= set(names):
        check_columns(path, names, tuple(dict.fromkeys(columns)))
    check_columns(path, names, tuple(name for name in encoded if name in names))
    return [name for name in dict.fromkeys((*columns, *encoded)) if name in names]


def _rows(batch: Any, grown: Grown, size: int) -> list[Any]:
    plain = [column.dictionary_decode() if hasattr(column, "dictionary_decode") else column for column in batch.columns]
    grown.to(size, sum(column.nbytes for column in plain))
    return batch.to_pylist()


def _damage_error(path: Path, error: Exception, line: int) -> ValueError:
    where = f" behind record {line}" if line else ", or not Parquet"
    reason = printable(" ".join(str(error).split()), 300)
    return ValueError(f"{printable(path)} is damaged{where}: {reason}. Copy or download it again.")
