"""Encoded examples, stored as two long rows of ids with offsets: a million of them take the room of their ids.

NumPy on the host. Must not know tokenizers, batches or models.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from jaxtyping import Int, Int32

from .records import BadRecord, Record


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One example.

    Attributes:
        input_ids: the source's ids, special tokens included.
        labels: the target's ids, its end included, without a start token.
        source: the source text, where it is known.
        targets: the accepted target texts, where they are known.
    """

    input_ids: Int32[np.ndarray, " source"]
    labels: Int32[np.ndarray, " target"]
    source: str | None = None
    targets: tuple[str, ...] = ()


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
        bad: tuple[BadRecord, ...] = (),
        truncated_sources: int = 0,
        truncated_targets: int = 0,
    ):
        self.inputs = inputs
        self.labels = labels
        self.bad = bad
        self.truncated_sources = truncated_sources
        self.truncated_targets = truncated_targets
        self._records = records

    @classmethod
    def of(cls, examples: Iterable[Example]) -> "Examples":
        """From single ones.

        Raises:
            ValueError: one has no source id or no label.
        """
        kept = list(examples)
        for index, example in enumerate(kept):
            if not len(example.input_ids) or not len(example.labels):
                raise ValueError(f"example {index} is empty; expected at least one input id and one label.")
        return cls(Ragged.of([e.input_ids for e in kept]), Ragged.of([e.labels for e in kept]), kept)

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
        return Example(input_ids=self.inputs[at], labels=self.labels[at], source=record.source, targets=record.targets)

    @property
    def sources(self) -> list[str | None]:
        """The source texts; None where a record had only ids."""
        return [record.source for record in self._records]

    @property
    def references(self) -> list[list[str]]:
        """The accepted target texts, as the metrics read them; empty where a record had only ids."""
        return [list(record.targets) for record in self._records]
