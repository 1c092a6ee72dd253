"""Records: what was read, with the ids and per-token fields they may bring, rows of these, and records that are bad."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from ..._inputs import IGNORED as IGNORED
from ..._quoting import printable, quoted

_logger = logging.getLogger("encdec_eqx")

SHOWN = 10
"""Bad records that a message lists."""

NESTED = "translation"
"""What datasets of translations keep their texts under: {"translation": {"en": ..., "de": ...}}."""

OnBad = Literal["error", "report"]
"""What becomes of a bad record: an error that lists all of them, or it is left out and reported."""


class BadRecord(NamedTuple):
    """A record that cannot be used.

    Attributes:
        file: where it is.
        line: its first line (of a Parquet file, a JSON array or an iterable: the record), counted from 1.
        reason: what is wrong, in a few words.
        lines: how many lines it takes.
    """

    file: str
    line: int
    reason: str
    lines: int = 1

    def __str__(self) -> str:
        over = f" ({self.lines} lines, to line {self.line + self.lines - 1})" if self.lines > 1 else ""
        return f"{printable(self.file)}:{self.line}: {self.reason}{over}"


class Found(NamedTuple):
    """One entry of a file, before it is validated.

    Attributes:
        line: its first line, or its number, as in `BadRecord`.
        value: what it is.
        lines: how many lines it takes.
    """

    line: int
    value: Any
    lines: int = 1


Entry = Found | BadRecord
"""One entry of a file, or why it cannot be read."""


class BadRecordsError(ValueError):
    """Records that cannot be used.

    Attributes:
        bad: all of them.
    """

    def __init__(self, bad: Sequence[BadRecord], of: int):
        self.bad = tuple(bad)
        way_out = (
            ', or pass on_bad="report" to go on without them.' if len(bad) < of else ": no record is left without."
        )
        super().__init__(f"{bad_records_message(bad, of)}\nFix them{way_out}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One pair: text, or ids that were made earlier.

    Attributes:
        file: where it is.
        line: line in it, counted from 1.
        source: the source text.
        targets: the accepted target texts; training takes the first unless told otherwise.
        input_ids: the source's ids, of a record that is encoded.
        labels: the target's ids, EOS included, of a record that is encoded.
        fields: what an encoded record holds beside them, such as `attention_mask`; see `Example`.
    """

    file: str
    line: int
    source: str | None = None
    targets: tuple[str, ...] = ()
    input_ids: Int32[np.ndarray, " source"] | None = None
    labels: Int32[np.ndarray, " target"] | None = None
    fields: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Pairs:
    """Records in the order they were read, and those that were put aside.

    Attributes:
        records: what can be used.
        bad: what cannot: file, line and reason.
        unread: names of what records hold besides, of which nothing is used (logged).
        files: the files they were read from, if they were.
    """

    records: Sequence[Record]
    bad: tuple[BadRecord, ...] = ()
    unread: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]


def settle(good: int, bad: Sequence[BadRecord], on_bad: OnBad) -> None:
    """Raise, or log, what is bad beside so many `good` records; nothing happens if nothing is.

    Raises:
        BadRecordsError: something is bad and `on_bad` is "error", or everything is.
        ValueError: `on_bad` is something else.
    """
    if on_bad not in ("error", "report"):
        raise ValueError(f'on_bad must be "error" or "report", got {quoted(on_bad)}.')
    if bad and (on_bad == "error" or not good):
        raise BadRecordsError(bad, good + len(bad))
    if bad:
        _logger.warning("%s", bad_records_message(bad, good + len(bad)))


def bad_records_message(bad: Sequence[BadRecord], of: int) -> str:
    """The count, then the first few, one per line."""
    lines_lost = sum(record.lines for record in bad)
    over = f", over {lines_lost} lines" if lines_lost > len(bad) else ""
    lines = [f"{len(bad)} of {of} records cannot be used{over}:", *(f"  {record}" for record in bad[:SHOWN])]
    if len(bad) > SHOWN:
        lines.append(f"  ... and {len(bad) - SHOWN} more")
    return "\n".join(lines)


SOURCE_FIELDS = ("attention_mask", "token_type_ids", "position_ids")
"""As long as `input_ids`."""

TARGET_FIELDS = ("decoder_input_ids", "decoder_attention_mask", "decoder_position_ids")
"""As long as `labels`."""

FIELDS = (*SOURCE_FIELDS, *TARGET_FIELDS)
MASKS = ("attention_mask", "decoder_attention_mask")

_OF_THE_TOKEN = ("attention_mask", "token_type_ids")
"""Where a source is cut its last token is kept, and these with it. The others belong to the position: a token that
moves forward gets the one of the position it moves to, and decoder inputs stay those in front of each label."""

WHEN_ABSENT = {"attention_mask": 1, "decoder_attention_mask": 1, "token_type_ids": 0}
"""Defaults of rows without a field that others of their batch have: what a model does without it."""

Row = np.ndarray
Fields = Mapping[str, Row]


def alongside(name: str) -> str:
    """The ids that a field goes with."""
    return "input_ids" if name in SOURCE_FIELDS else "labels"


def source_length(ids: Row, fields: Fields) -> int:
    """Source ids up to the last that the mask shows, at least one.

    What is hidden after it changes no number: no position attends to it, and none follows it.
    """
    mask = fields.get("attention_mask")
    return len(ids) if mask is None else _up_to_last(np.asarray(mask) != 0)


def target_length(labels: Row) -> int:
    """Labels up to the last that counts, at least one. A causal decoder sees nothing of what follows it."""
    return _up_to_last(np.asarray(labels) != IGNORED)


def _up_to_last(counts: np.ndarray) -> int:
    if counts[-1]:
        return len(counts)
    counted = np.flatnonzero(counts)
    return int(counted[-1]) + 1 if len(counted) else 1


def cut(name: str, row: Row, length: int) -> Row:
    """A field of a row that is cut to `length` with its last token kept."""
    return cut_ids(row, length) if name in _OF_THE_TOKEN else row[:length]


def cut_ids(ids: Row, length: int) -> Row:
    """The first ids and the last, `length` in all."""
    return np.append(ids[: length - 1], ids[-1:])


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of unequal length in one array.

    Attributes:
        ids: all rows, one after the other.
        offsets: where each begins, and the end of the last.
    """

    ids: Int32[np.ndarray, " total"]
    offsets: Int[np.ndarray, " bounds"]

    @classmethod
    def of(cls, rows: Sequence[np.ndarray]) -> "Ragged":
        """The rows, copied into one array."""
        lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        ids = np.concatenate(rows) if rows else np.zeros(0)
        return cls(ids.astype(np.int32), offsets)

    @property
    def lengths(self) -> Int[np.ndarray, " rows"]:
        """Of every row."""
        return np.diff(self.offsets)

    def __getitem__(self, index: int) -> Int32[np.ndarray, " row"]:
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def padded(
        self, rows: Int[np.ndarray, " batch"], width: int, fill: int
    ) -> tuple[Int32[np.ndarray, "batch width"], np.ndarray]:
        """Some rows as one array, padded on the right, and which of it is real."""
        starts, columns = self.offsets[rows], np.arange(width)
        real = columns < (self.offsets[rows + 1] - starts)[:, None]
        places = np.where(real, starts[:, None] + columns, 0)
        return np.where(real, self.ids[places], np.int32(fill)), real


def ragged_fields(
    rows: Sequence[Mapping[str, np.ndarray]], sources: Sequence[int], targets: Sequence[int]
) -> dict[str, Ragged]:
    """Every field that a row has, of all rows (by default where it is absent) and as long as their ids or labels.

    Of a row's entries as many are kept as `sources` says on the source's side, and `targets` on the target's.

    Raises:
        ValueError: a field is given for some rows only, and what it would be for the others depends on the model.
    """
    made: dict[str, Ragged] = {}
    for name in FIELDS:
        number = sum(name in row for row in rows)
        if 0 < number < len(rows) and name not in WHEN_ABSENT:
            raise ValueError(
                f"{number} of {len(rows)} examples have {name!r} and the others do not: give it for all or for none."
            )
        if number:
            lengths, default = sources if name in SOURCE_FIELDS else targets, WHEN_ABSENT.get(name, 0)
            made[name] = Ragged.of(
                [
                    row[name][:length] if name in row else np.full(length, default, np.int32)
                    for row, length in zip(rows, lengths, strict=True)
                ]
            )
    return made
