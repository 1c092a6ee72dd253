"""From one raw entry (a mapping, or a pair) to a record, or to the reason why it is none.

Must not know where entries come from, nor tokenizers or models.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .records import BadRecord, Record

IGNORED = -100


class _BadEntryError(Exception):
    """The reason why an entry is no record."""


def judged(raw: Any, file: str, line: int, *, source: str, target: str) -> Record | BadRecord:
    """A record, or why the entry cannot be one.

    Args:
        raw: a mapping, or a pair of source and target (or targets).
        file: where it stands.
        line: line in it.
        source: the mapping's key of the source text.
        target: the mapping's key of the target text, or of a list of accepted ones.
    """
    try:
        return Record(file=file, line=line, **_fields(raw, source, target))
    except _BadEntryError as error:
        return BadRecord(file, line, str(error))


def _fields(raw: Any, source: str, target: str) -> dict[str, Any]:
    if isinstance(raw, Mapping):
        if "input_ids" in raw and "labels" in raw:
            return _encoded(raw, source, target)
        for name in (source, target):
            if name not in raw:
                has = ", ".join(repr(str(key)) for key in list(raw)[:8]) or "nothing"
                raise _BadEntryError(f"no {name!r}; it has {has}")
        return {"source": _text(source, raw[source]), "targets": _texts(target, raw[target])}
    if isinstance(raw, Sequence) and not isinstance(raw, str | bytes) and len(raw) == 2:
        return {"source": _text("source", raw[0]), "targets": _texts("target", raw[1])}
    raise _BadEntryError(f"expected a mapping or a pair of source and target, got {_shown(raw)}")


def _encoded(raw: Mapping[str, Any], source: str, target: str) -> dict[str, Any]:
    """Ids; texts beside them are kept for the metrics, which have no use for halves."""
    fields: dict[str, Any] = {"input_ids": _ids("input_ids", raw["input_ids"], 0)}
    fields["labels"] = _ids("labels", raw["labels"], IGNORED)
    if source in raw and target in raw:
        fields |= {"source": _text(source, raw[source]), "targets": _texts(target, raw[target])}
    return fields


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _BadEntryError(f"{name!r} is not a string: {_shown(value)}")
    if not value.strip():
        raise _BadEntryError(f"{name!r} is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _BadEntryError(f"{name!r} is not UTF-8: byte or half pair at letter {error.start}") from None
    return value


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, list | tuple):
        if not value:
            raise _BadEntryError(f"{name!r} is an empty list")
        return tuple(_text(name, text) for text in value)
    return (_text(name, value),)


def _ids(name: str, value: Any, least: int) -> np.ndarray:
    """int32 ids; `least` is -100 where that may stand for "no label"."""
    try:
        ids = np.asarray(value)
    except ValueError:
        ids = np.zeros((0, 0))
    if ids.ndim == 1 and ids.size == 0:
        raise _BadEntryError(f"{name!r} is empty")
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise _BadEntryError(f"{name!r} is not a list of integers: {_shown(value)}")
    wrong = ids[((ids < 0) & (ids != least)) | (ids > np.iinfo(np.int32).max)]
    if wrong.size:
        raise _BadEntryError(f"{name!r} holds {wrong[0]}, which is no id")
    if least < 0 and (ids == least).all():
        raise _BadEntryError(f"{name!r} holds no label but {least}")
    return ids.astype(np.int32)


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"
