"""From one raw entry (a mapping, or a pair) to a record, or to the reason why it is none.

Must not know where entries come from, nor tokenizers or models.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..._quoting import quoted
from ...text.texts import half_pair
from .fields import FIELDS, IGNORED, MASKS, alongside
from .records import BadRecord, Found, Record

NESTED = "translation"
"""What datasets of translations keep their texts under: {"translation": {"en": ..., "de": ...}}."""

_ABSENT: Any = object()
_SHOWN = 8


class _BadEntryError(Exception):
    """The reason why an entry is no record."""


class Judge:
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
            file: where it stands.
        """
        try:
            return Record(file=file, line=entry.line, **self._read(entry.value))
        except _BadEntryError as error:
            return BadRecord(file, entry.line, str(error), entry.lines)

    def _read(self, raw: Any) -> dict[str, Any]:
        if isinstance(raw, Mapping):
            encoded = raw.get("input_ids") is not None and raw.get("labels") is not None
            fields = self._encoded(raw) if encoded else self._texts(raw)
            self._note_unread(raw, encoded)
            return fields
        if isinstance(raw, Sequence) and not isinstance(raw, str | bytes) and len(raw) == 2:
            return {"source": _text("source", raw[0]), "targets": _targets("target", raw[1])}
        raise _BadEntryError(f"expected a mapping or a pair of source and target, got {_shown(raw)}")

    def _texts(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        found = {name: _found(raw, name) for name in (self.source, self.target)}
        for name, value in found.items():
            if value is _ABSENT:
                raise _BadEntryError(f"no {name!r}; it has {_names(raw)}{_way_out(raw)}")
        return {
            "source": _text(self.source, found[self.source]),
            "targets": _targets(self.target, found[self.target]),
        }

    def _encoded(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Ids and what goes with them; texts beside them are kept for the metrics, which have no use for halves."""
        ids, labels = _ids("input_ids", raw["input_ids"], 0), _ids("labels", raw["labels"], IGNORED)
        lengths = {"input_ids": len(ids), "labels": len(labels)}
        given = {name: raw[name] for name in FIELDS if raw.get(name) is not None}
        beside = {name: _field(name, value, alongside(name), lengths) for name, value in given.items()}
        fields: dict[str, Any] = {"input_ids": ids, "labels": labels, "fields": beside}
        if all(_found(raw, name) is not _ABSENT for name in (self.source, self.target)):
            fields |= self._texts(raw)
        return fields

    def _note_unread(self, raw: Mapping[str, Any], encoded: bool) -> None:
        if len(raw) == 2 and self.source in raw and self.target in raw:
            return
        texts = {name for name in (self.source, self.target) if _found(raw, name) is not _ABSENT}
        read = texts if len(texts) == 2 else set()
        for name in _all_names(raw, read):
            known = name in read or (encoded and (name in FIELDS or name in ("input_ids", "labels")))
            if not known and raw.get(name, _ABSENT) is not None:
                self.unread[name] = self.unread.get(name, 0) + 1


def said_of_unread(unread: Mapping[str, int], records: int) -> str:
    """The one line that names what was not used, and what may have been meant by it."""
    words = []
    for name, number in unread.items():
        near = difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.75)
        why = " (which goes with input_ids and labels)" if name in FIELDS else ""
        hint = f" (did you mean {near[0]!r}?)" if near and name not in FIELDS else why
        words.append(f"{quoted(name)}{hint}" + (f" in {number} of {records}" if number < records else ""))
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return f"of the records' fields these are not used: {', '.join(words[:_SHOWN])}{more}."


def top_name(name: str, there: Sequence[str]) -> str | None:
    """The column of a table in which the texts of this name stand; None if it has none."""
    outer = name.partition(".")[0]
    return next((one for one in (name, outer, NESTED) if one in there), None)


def _found(raw: Mapping[str, Any], name: str) -> Any:
    """What stands under a name: as it is, on the other side of a dot, or among translations."""
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


def _names(raw: Mapping[str, Any]) -> str:
    return ", ".join(quoted(str(key)) for key in list(raw)[:_SHOWN]) or "nothing"


def _way_out(raw: Mapping[str, Any]) -> str:
    """What to do where a record has what is wanted in another form."""
    there = [name for name in ("input_ids", "labels") if raw.get(name) is not None]
    if len(there) == 1:
        missing = "labels" if there == ["input_ids"] else "input_ids"
        return f" (ids need both 'input_ids' and 'labels': {missing!r} is missing)"
    nested = raw.get(NESTED)
    if isinstance(nested, Mapping) and len(nested) > 1:
        first, second = list(nested)[:2]
        return (
            f", which holds {_names(nested)}: name two of them, such as source={quoted(first)}, target={quoted(second)}"
        )
    return ""


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        hint = "; decode it: text.decode('utf-8')" if isinstance(value, bytes) else ""
        raise _BadEntryError(f"{name!r} is not a string: {_shown(value)}{hint}")
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
    if row.ndim != 1 or row.dtype.kind not in kinds:
        # larger than int64, but whole numbers all the same
        huge = row.ndim == 1 and row.dtype == object and all(type(one) is int for one in row)
        if not huge:
            raise _BadEntryError(f"{name!r} is not a list of {expected}: {_shown(value)}")
    return row


def _ids(name: str, value: Any, least: int) -> np.ndarray:
    """int32 ids; `least` is -100 where that may stand for "no label"."""
    ids = _array(name, value, "iu", "integers")
    wrong = ids[((ids < 0) & (ids != least)) | (ids > np.iinfo(np.int32).max)]
    if wrong.size:
        raise _BadEntryError(f"{name!r} holds {quoted(int(wrong[0]))}, which is no id")
    if least < 0 and (ids == least).all():
        raise _BadEntryError(f"{name!r} holds no label but {least}")
    return ids.astype(np.int32)


def _field(name: str, value: Any, beside: str, lengths: Mapping[str, int]) -> np.ndarray:
    """What goes with ids, one number each."""
    row = _mask(name, value) if name in MASKS else _ids(name, value, 0)
    if len(row) != lengths[beside]:
        raise _BadEntryError(f"{name!r} has {len(row)} entries, {beside!r} has {lengths[beside]}")
    return row


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


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {quoted(value, 40)}"
