"""What a record may hold beside its ids and labels: one number a token, in the words of the model's own call.

Knows how each field is padded, cut and filled in. NumPy on the host; must not know records, files or models.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ..._inputs import IGNORED as IGNORED

SOURCE_FIELDS = ("attention_mask", "token_type_ids", "position_ids")
"""As long as `input_ids`."""

TARGET_FIELDS = ("decoder_input_ids", "decoder_attention_mask", "decoder_position_ids")
"""As long as `labels`."""

FIELDS = (*SOURCE_FIELDS, *TARGET_FIELDS)
MASKS = ("attention_mask", "decoder_attention_mask")

_OF_THE_TOKEN = ("attention_mask", "token_type_ids")
"""Where a source is cut its last token is kept, and these with it. The others say something of the place: a token that
moves forward gets the position of the place it moves to, and decoder inputs stay those in front of each label."""

_WHEN_ABSENT = {"attention_mask": 1, "decoder_attention_mask": 1, "token_type_ids": 0}
"""What a model does for rows without a field that others of their batch have."""

Row = np.ndarray
Fields = Mapping[str, Row]


def alongside(name: str) -> str:
    """The ids that a field goes with."""
    return "input_ids" if name in SOURCE_FIELDS else "labels"


def source_length(ids: Row, fields: Fields) -> int:
    """Source ids up to the last that the mask shows, at least one.

    What is hidden behind it changes no number: no position attends to it, and none stands behind it.
    """
    mask = fields.get("attention_mask")
    return len(ids) if mask is None else _up_to_last(np.asarray(mask) != 0)


def target_length(labels: Row) -> int:
    """Labels up to the last that counts, at least one. A causal decoder sees nothing of what stands behind it."""
    return _up_to_last(np.asarray(labels) != IGNORED)


def _up_to_last(counts: np.ndarray) -> int:
    if counts[-1]:
        return len(counts)
    places = np.flatnonzero(counts)
    return int(places[-1]) + 1 if len(places) else 1


def cut(name: str, row: Row, length: int) -> Row:
    """A field of a row that is cut to `length` with its last token kept."""
    return cut_ids(row, length) if name in _OF_THE_TOKEN else row[:length]


def cut_ids(ids: Row, length: int) -> Row:
    """The first ids and the last, `length` in all."""
    return np.append(ids[: length - 1], ids[-1:])


def completed(name: str, rows: Sequence[Row | None], lengths: Sequence[int]) -> list[Row] | None:
    """A field of all rows, filled in where it is absent; None if no row has it.

    Raises:
        ValueError: only some rows have it, and what it would be in the others depends on the model.
    """
    absent = sum(row is None for row in rows)
    if absent == len(rows):
        return None
    if absent and name not in _WHEN_ABSENT:
        raise ValueError(
            f"{len(rows) - absent} of {len(rows)} examples have {name!r} and the others do not: give it for all or "
            "for none."
        )
    return [
        np.full(length, _WHEN_ABSENT[name], np.int32) if row is None else row
        for row, length in zip(rows, lengths, strict=True)
    ]
