"""Rows of CSV, each with the lines that it takes, as `csv.reader(strict=True)` splits them.

Python's own reader is not used, for two things: after an error it goes on with the next line, be that in the middle of
a field; and a field of more than 131,072 letters is an error unless a limit is raised for the whole process. Here an
error is followed to the end of its row. Knows text alone.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

QUOTE = '"'

MOST_LETTERS = 1 << 26
"""Letters of a field that are kept (64 Mi), so that a quote that is never closed does not keep a whole file."""


class Row(NamedTuple):
    """A row.

    Attributes:
        line: its first line, counted from 1.
        lines: how many it takes.
        fields: what stands in it.
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
    """The rows of a file; empty lines hold none.

    Args:
        lines: with their ends.
        delimiter: what separates fields.
    """
    counted = enumerate(lines, start=1)
    for number, line in counted:
        if QUOTE in line:
            yield _Reading(counted, delimiter, number, line).row()
        elif bare := _without_end(line):
            yield Row(number, 1, bare.split(delimiter))


def _without_end(text: str) -> str:
    return text.rstrip("\r\n")


class _Reading:
    """One row with quotes in it: where reading stands, and what was found."""

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
                    self._fail(_never_closed(opened, self._number))
                    return False
                continue
            behind = self._text[close + 1 : close + 2]
            if behind == QUOTE:
                parts.append(QUOTE)
                self._at = close + 2
            elif behind in ("", self._delimiter, "\r", "\n"):
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
        return behind == self._delimiter

    def _fails_at(self, close: int, opened: int) -> bool:
        """Note that something stands behind a closing quote. True if it was not a closing but an opening one.

        It was, probably, if it stands where a field begins, and either the field that it would close spans lines (so
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


def _never_closed(opened: int, last: int) -> str:
    return f"not a row: the quote that opens in line {opened} is never closed, up to the end in line {last}"
