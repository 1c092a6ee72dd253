"""`read_pairs` and `pairs_from`: pairs from files or from any iterable, each entry validated."""

import dataclasses
import difflib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..._quoting import listed, printable, quoted
from ...text.texts import half_pair
from .formats import check_format, entries, format_of
from .records import FIELDS, IGNORED, MASKS, NESTED, BadRecord, Found, OnBad, Pairs, Record, alongside, settle

_logger = logging.getLogger("encdec_eqx")


def read_pairs(
    paths: str | os.PathLike | Iterable[str | os.PathLike],
    *,
    source: str = "source",
    target: str = "target",
    format: str | None = None,
    encoding: str | None = None,
    on_bad: OnBad = "error",
) -> Pairs:
    """Read pairs of source and target from JSON Lines, a JSON array, CSV, TSV or Parquet; text also compressed.

    A record is text under two names (the target may be a list of accepted texts), or ids that were made earlier, under
    `input_ids` and `labels`, with what goes with them (`attention_mask`, ...; see `Example`). Of texts inside another
    mapping the name has a dot: "translation.en"; inside "translation", "en" will do. Empty lines hold no record. CSV
    and TSV have the columns' names in their first line; in TSV quotes are letters. What else records hold is not used,
    which is logged.

    Args:
        paths: a file or several.
        source: the source's name.
        target: the target's name.
        format: "jsonl" (or a JSON array), "json" (the same), "csv", "tsv" or "parquet"; default: what each file's name
            says.
        encoding: of text files, such as "utf-16" or "cp1252"; default: what a mark (BOM) at the beginning says, else
            UTF-8.
        on_bad: what to do with records that cannot be used: "error" raises one error that lists the first ten with
            file and line, "report" goes on without them: counted and logged, and all in `bad`.

    Returns:
        The records, in order, and those that were put aside.

    Raises:
        BadRecordsError: there are bad records (a ValueError).
        FileNotFoundError: a file is not there.
        ImportError: a file is Parquet, and pyarrow is not installed.
        ValueError: no files, no records, an unknown format or encoding, a table without such columns, or a file that
            cannot be read, or not to its end; says which, and where.
    """
    files = [Path(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    if not files:
        raise ValueError("there is nothing to read: no file was given.")
    for file in files:
        check_is_file(file)
    formats = [format or format_of(file) for file in files]
    for kind in formats:
        check_format(kind, encoding)
    validator = RecordValidator(source, target)

    def read() -> Iterator[Record | BadRecord]:
        for file, kind in zip(files, formats, strict=True):
            for entry in entries(file, kind, (source, target), encoding, validator.unread):
                yield entry if isinstance(entry, BadRecord) else validator(entry, str(file))

    pairs = _collect(read(), validator.unread, on_bad, what=", ".join(map(printable, files)))
    return dataclasses.replace(pairs, files=tuple(files))


def check_is_file(path: Path) -> None:
    """Raise where nothing can be read from a path; a pipe or a device may never end."""
    if path.is_dir():
        raise IsADirectoryError(f"{printable(path)} is a folder; expected a file, or a list of files.")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {printable(path)!r} (looked from {Path.cwd()}).")
    if not path.is_file():
        raise ValueError(f"{printable(path)} is a pipe or a device; expected a file: write its content to one first.")


def pairs_from(
    iterable: Iterable[Any], *, source: str = "source", target: str = "target", on_bad: OnBad = "error"
) -> Pairs:
    """Pairs from a Python iterable: of pairs `(source, target)`, or of mappings as `read_pairs` reads.

    Args:
        iterable: what holds them; gone through once.
        source: the source's name in a mapping.
        target: the target's name in a mapping.
        on_bad: see `read_pairs`. The "line" of a record is its number, from 1.

    Raises:
        BadRecordsError: there are bad records (a ValueError).
        ValueError: there are no records.
    """
    validator = RecordValidator(source, target)
    read = (validator(Found(number, raw), "<iterable>") for number, raw in enumerate(iterable, start=1))
    return _collect(read, validator.unread, on_bad, what="the iterable")


def _collect(read: Iterable[Record | BadRecord], unread: Mapping[str, int], on_bad: OnBad, *, what: str) -> Pairs:
    records: list[Record] = []
    bad: list[BadRecord] = []
    for one in read:
        (bad if isinstance(one, BadRecord) else records).append(one)  # pyright: ignore[reportArgumentType]
    settle(len(records), bad, on_bad)
    if not records:
        raise ValueError(f"there are no records in {what}.")
    if unread:
        _logger.warning("%s", unread_message(unread, len(records)))
    return Pairs(tuple(records), tuple(bad), tuple(unread))


_ABSENT: Any = object()
_SHOWN = 8


class _BadEntryError(Exception):
    """The reason why an entry is no record."""


class RecordValidator:
    """Makes records of entries, and remembers what it did not read in them.

    Attributes:
        source: name of the source text; of one inside another mapping, both with a dot between.
        target: name of the target text, or of a list of accepted ones.
        unread: what entries held besides: by name, in how many entries.
    """

    def __init__(self, source: str, target: str):
        self.source = source
        self.target = target
        self.unread: dict[str, int] = {}

    def __call__(self, entry: Found, file: str) -> Record | BadRecord:
        """A record, or why the entry cannot be one.

        Args:
            entry: a mapping, or a pair of source and target (or targets), and its place.
            file: where it is.
        """
        try:
            return Record(file=file, line=entry.line, **self._read(entry.value))
        except _BadEntryError as error:
            return BadRecord(file, entry.line, str(error), entry.lines)

    def _read(self, raw: Any) -> dict[str, Any]:
        if isinstance(raw, Mapping):
            encoded = raw.get("input_ids") is not None and raw.get("labels") is not None
            fields = self._read_ids(raw) if encoded else self._read_texts(raw)
            self._note_unread(raw, encoded)
            return fields
        if isinstance(raw, Sequence) and not isinstance(raw, str | bytes) and len(raw) == 2:
            return {"source": _text("source", raw[0]), "targets": _targets("target", raw[1])}
        raise _BadEntryError(f"expected a mapping or a pair of source and target, got {_describe(raw)}")

    def _read_texts(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        source, target = (_lookup(raw, name) for name in (self.source, self.target))
        for name, value in ((self.source, source), (self.target, target)):
            if value is _ABSENT:
                raise _BadEntryError(f"no {name!r}; it has {_few(raw)}{_advice(raw)}")
        return {"source": _text(self.source, source), "targets": _targets(self.target, target)}

    def _read_ids(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Ids and what goes with them; texts beside them are kept for the metrics, which have no use for halves."""
        ids, labels = _ids("input_ids", raw["input_ids"], 0), _ids("labels", raw["labels"], IGNORED)
        lengths = {"input_ids": len(ids), "labels": len(labels)}
        given = {name: raw[name] for name in FIELDS if raw.get(name) is not None}
        beside = {name: _mask(name, row) if name in MASKS else _ids(name, row, 0) for name, row in given.items()}
        for name, row in beside.items():
            if len(row) != lengths[alongside(name)]:
                raise _BadEntryError(
                    f"{name!r} has {len(row)} entries, {alongside(name)!r} has {lengths[alongside(name)]}"
                )
        fields: dict[str, Any] = {"input_ids": ids, "labels": labels, "fields": beside}
        if all(_lookup(raw, name) is not _ABSENT for name in (self.source, self.target)):
            fields |= self._read_texts(raw)
        return fields

    def _note_unread(self, raw: Mapping[str, Any], encoded: bool) -> None:
        if len(raw) == 2 and self.source in raw and self.target in raw:
            return
        texts = {name for name in (self.source, self.target) if _lookup(raw, name) is not _ABSENT}
        read = texts if len(texts) == 2 else set()
        for name in _all_names(raw, read):
            known = name in read or (encoded and (name in FIELDS or name in ("input_ids", "labels")))
            if not known and raw.get(name, _ABSENT) is not None:
                self.unread[name] = self.unread.get(name, 0) + 1


def unread_message(unread: Mapping[str, int], records: int) -> str:
    """The one line that names what was not used, and what may have been meant by it."""
    parts = []
    for name, number in unread.items():
        near = difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.75)
        why = " (which goes with input_ids and labels)" if name in FIELDS else ""
        hint = f" (did you mean {near[0]!r}?)" if near and name not in FIELDS else why
        parts.append(f"{quoted(name)}{hint}" + (f" in {number} of {records}" if number < records else ""))
    return f"of the records' fields these are not used: {listed(parts, _SHOWN)}."


def _lookup(raw: Mapping[str, Any], name: str) -> Any:
    """The value of a name: as it is, on the other side of a dot, or among translations."""
    if name in raw:
        return raw[name]
    outer, dot, inner = name.partition(".")
    for first, second in ((outer, inner), (NESTED, name)):
        nested = raw.get(first)
        if isinstance(nested, Mapping) and second in nested and (dot or first == NESTED):
            return nested[second]
    return _ABSENT


def _all_names(raw: Mapping[str, Any], read: set[str]) -> Iterator[str]:
    """The names of an entry; of a mapping inside it that was read, those of its own, as `read` spells them."""
    for name, value in raw.items():
        inside = {}
        if isinstance(value, Mapping) and name not in read:
            inside = {f"{name}.{inner}": str(inner) for inner in value}
        bare = set(inside.values()) & read if name == NESTED else set()
        if bare or read & set(inside):
            yield from (inner if inner in bare else dotted for dotted, inner in inside.items())
        else:
            yield str(name)


def _few(raw: Mapping[str, Any]) -> str:
    return ", ".join(quoted(str(key)) for key in list(raw)[:_SHOWN]) or "nothing"


def _advice(raw: Mapping[str, Any]) -> str:
    """What to do where a record has what is looked for in another form."""
    there = [name for name in ("input_ids", "labels") if raw.get(name) is not None]
    if len(there) == 1:
        missing = "labels" if there == ["input_ids"] else "input_ids"
        return f" (ids need both 'input_ids' and 'labels': {missing!r} is missing)"
    nested = raw.get(NESTED)
    if isinstance(nested, Mapping) and len(nested) > 1:
        first, second = map(quoted, list(nested)[:2])
        return f", which holds {_few(nested)}: name two of them, such as source={first}, target={second}"
    return ""


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        hint = "; decode it: text.decode('utf-8')" if isinstance(value, bytes) else ""
        raise _BadEntryError(f"{name!r} is not a string: {_describe(value)}{hint}")
    if not value.strip():
        raise _BadEntryError(f"{name!r} is empty")
    half = half_pair(value)
    if half is not None:
        raise _BadEntryError(f"{name!r} is not UTF-8: byte or half pair at letter {half}")
    return value


def _targets(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, list | tuple):
        if not value:
            raise _BadEntryError(f"{name!r} is an empty list")
        return tuple(_text(name, text) for text in value)
    return (_text(name, value),)


def _array(name: str, value: Any, kinds: str, expected: str) -> np.ndarray:
    """A row of numbers; `kinds` are the letters of the dtypes that may be."""
    try:
        row = np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        row = np.zeros((0, 0))
    if row.ndim == 1 and row.size == 0:
        raise _BadEntryError(f"{name!r} is empty")
    # larger than int64, but whole numbers all the same
    huge = row.ndim == 1 and row.dtype == object and all(type(one) is int for one in row)
    if not huge and (row.ndim != 1 or row.dtype.kind not in kinds):
        raise _BadEntryError(f"{name!r} is not a list of {expected}: {_describe(value)}")
    return row


def _ids(name: str, value: Any, least: int) -> np.ndarray:
    """int32 ids; `least` is -100 where that may mean "no label"."""
    ids = _array(name, value, "iu", "integers")
    wrong = ids[((ids < 0) & (ids != least)) | (ids > np.iinfo(np.int32).max)]
    if wrong.size:
        raise _BadEntryError(f"{name!r} holds {quoted(int(wrong[0]))}, which is no id")
    if least < 0 and (ids == least).all():
        raise _BadEntryError(f"{name!r} holds no label but {least}")
    return ids.astype(np.int32)


def _mask(name: str, value: Any) -> np.ndarray:
    mask = _array(name, value, "iub", "integers 0 and 1, or booleans")
    wrong = mask[(mask != 0) & (mask != 1)]
    if wrong.size:
        raise _BadEntryError(
            f"{name!r} holds {quoted(int(wrong[0]))}; a mask holds 1 for real tokens and 0 for padding"
        )
    if not mask.any():
        raise _BadEntryError(f"{name!r} is 0 everywhere: it hides all tokens")
    return mask.astype(np.int32)


def _describe(value: Any) -> str:
    return f"{type(value).__name__} {quoted(value, 40)}"
