"""Encoded examples, stored as two long rows of ids with offsets: a million of them take the room of their ids.

NumPy on the host. Must not know tokenizers, batches or models.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from jaxtyping import Int, Int32

from . import fields as per_token
from .records import BadRecord, Record


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One example.

    Attributes:
        input_ids: the source's ids, special tokens included.
        labels: the target's ids, its end included, without a start token.
        source: the source text, where it is known.
        targets: the accepted target texts, where they are known.
        attention_mask: 1 for source ids that may be attended, 0 for others; default 1.
        token_type_ids: segment of each source id.
        position_ids: position of each source id; default by the family's rule.
        decoder_input_ids: what the decoder reads at each label; default the labels moved right.
        decoder_attention_mask: 1 for decoder inputs that may be attended, 0 for others; default 1.
        decoder_position_ids: position of each decoder input; default by the family's rule.
    """

    input_ids: Int32[np.ndarray, " source"]
    labels: Int32[np.ndarray, " target"]
    source: str | None = None
    targets: tuple[str, ...] = ()
    attention_mask: np.ndarray | None = None
    token_type_ids: np.ndarray | None = None
    position_ids: np.ndarray | None = None
    decoder_input_ids: np.ndarray | None = None
    decoder_attention_mask: np.ndarray | None = None
    decoder_position_ids: np.ndarray | None = None

    @property
    def fields(self) -> dict[str, np.ndarray]:
        """What is given beside ids and labels, by name."""
        given = {name: getattr(self, name) for name in per_token.FIELDS}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def source_fields(self) -> dict[str, np.ndarray]:
        """Those that go with the source: what `generate` takes beside it."""
        return {name: value for name, value in self.fields.items() if name in per_token.SOURCE_FIELDS}


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of unequal length in one array.

    Attributes:
        ids: all rows, one behind the other.
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
        """Some rows as one array, filled up on the right, and which of it is real."""
        starts, columns = self.offsets[rows], np.arange(width)
        real = columns < (self.offsets[rows + 1] - starts)[:, None]
        places = np.where(real, starts[:, None] + columns, 0)
        return np.where(real, self.ids[places], np.int32(fill)), real


class Examples(Sequence[Example]):
    """Encoded examples, in the order of their records.

    Attributes:
        inputs: the sources' ids.
        labels: the targets' ids.
        fields: what examples hold beside these, by name: a number an id (`attention_mask`, ...) or a label
            (`decoder_input_ids`, ...). A field that some have is filled in for the others.
        bad: records that were put aside, while reading or encoding.
        truncated_sources: how many sources were cut.
        truncated_targets: how many targets were cut.
    """

    def __init__(
        self,
        inputs: Ragged,
        labels: Ragged,
        records: Sequence[Record | Example],
        *,
        fields: Mapping[str, Ragged] | None = None,
        bad: tuple[BadRecord, ...] = (),
        truncated_sources: int = 0,
        truncated_targets: int = 0,
    ):
        self.inputs = inputs
        self.labels = labels
        self.fields = dict(fields or {})
        self.bad = bad
        self.truncated_sources = truncated_sources
        self.truncated_targets = truncated_targets
        self._records = records

    @classmethod
    def of(cls, examples: Iterable[Example]) -> "Examples":
        """From single ones. What a mask hides at a source's end, and -100 at a target's, are left out.

        Raises:
            TypeError: ids, labels or a field of one are no integers.
            ValueError: one has no source id or no label, or a field of another length; or a field is given for some
                examples only, and what it would be for the others depends on the model.
        """
        kept = list(examples)
        sources, targets = [], []
        for index, example in enumerate(kept):
            _check(index, example)
            sources.append(per_token.source_length(example.input_ids, example.fields))
            targets.append(per_token.target_length(example.labels))
        return cls(
            Ragged.of([example.input_ids[:length] for example, length in zip(kept, sources, strict=True)]),
            Ragged.of([example.labels[:length] for example, length in zip(kept, targets, strict=True)]),
            kept,
            fields=ragged_fields([example.fields for example in kept], sources, targets),
        )

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        record = self._records[at]
        fields = {name: rows[at] for name, rows in self.fields.items()}
        return Example(
            input_ids=self.inputs[at], labels=self.labels[at], source=record.source, targets=record.targets, **fields
        )

    @property
    def sources(self) -> list[str | None]:
        """The source texts; None where a record had only ids."""
        return [record.source for record in self._records]

    @property
    def references(self) -> list[list[str]]:
        """The accepted target texts, as the metrics read them; empty where a record had only ids."""
        return [list(record.targets) for record in self._records]


def ragged_fields(
    rows: Sequence[Mapping[str, np.ndarray]], sources: Sequence[int], targets: Sequence[int]
) -> dict[str, Ragged]:
    """Every field that a row has, of all rows and as long as their ids or labels.

    Args:
        rows: the fields of each.
        sources: how many of its entries each row keeps on the source's side.
        targets: the same on the target's.

    Raises:
        ValueError: a field is given for some rows only, and what it would be for the others depends on the model.
    """
    made: dict[str, Ragged] = {}
    for name in per_token.FIELDS:
        lengths = sources if name in per_token.SOURCE_FIELDS else targets
        completed = per_token.completed(name, [row.get(name) for row in rows], lengths)
        if completed is not None:
            made[name] = Ragged.of([row[:length] for row, length in zip(completed, lengths, strict=True)])
    return made


def _check(index: int, example: Example) -> None:
    if not len(example.input_ids) or not len(example.labels):
        raise ValueError(f"example {index} is empty; expected at least one input id and one label.")
    for name, row in {"input_ids": example.input_ids, "labels": example.labels, **example.fields}.items():
        kind = np.asarray(row).dtype
        if kind.kind not in ("iub" if name in per_token.MASKS else "iu"):
            raise TypeError(f"example {index} has {name} of dtype {kind}; expected integers.")
        beside = per_token.alongside(name) if name in per_token.FIELDS else name
        expected = len(getattr(example, beside))
        if np.shape(row) != (expected,):
            raise ValueError(
                f"example {index} has {name} of shape {np.shape(row)}; expected one number for each of its {expected} "
                f"{beside}."
            )
