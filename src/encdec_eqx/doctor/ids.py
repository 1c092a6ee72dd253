"""A batch as the checks on the host read it: NumPy arrays, which labels count, which rows matter.

Must not know models; must not judge.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from ..training.loss import IGNORED


@dataclasses.dataclass(frozen=True, eq=False)
class Ids:
    """The arrays of a batch by their names, `labels` among them.

    Attributes:
        given: all of them, as NumPy arrays.
    """

    given: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, batch: Mapping[str, Any]) -> "Ids":
        """From jax or NumPy arrays."""
        return cls({name: np.asarray(value) for name, value in batch.items()})

    @property
    def labels(self) -> Int[np.ndarray, "batch target"]:
        """As they are, -100 included."""
        return self.given["labels"]

    @property
    def source(self) -> Int[np.ndarray, "batch source"] | None:
        """The encoder's ids; None where it reads something else."""
        ids = self.given["input_ids"]
        return ids if ids.ndim == 2 and np.issubdtype(ids.dtype, np.integer) else None

    @property
    def mask(self) -> Bool[np.ndarray, "batch source"] | None:
        """Which source ids may be attended, if the batch says so."""
        mask = self.given.get("attention_mask")
        return None if mask is None else mask.astype(bool)

    @property
    def decoder_inputs(self) -> Int[np.ndarray, "batch target"] | None:
        """The decoder's inputs, if the batch has them."""
        return self.given.get("decoder_input_ids")

    @cached_property
    def counted(self) -> Bool[np.ndarray, "batch target"]:
        """Which labels carry loss."""
        return self.labels != IGNORED

    @cached_property
    def rows(self) -> Int[np.ndarray, " labelled"]:
        """The rows that have a label. The others weigh nothing: they fill a batch up."""
        return np.flatnonzero(self.counted.any(axis=1))

    @cached_property
    def targets(self) -> list[np.ndarray]:
        """The labels that count, row by row."""
        return [self.labels[row][self.counted[row]] for row in self.rows]

    @cached_property
    def full(self) -> Bool[np.ndarray, " labelled"]:
        """Which of the labelled rows reach the last column."""
        return self.counted[self.rows, -1]


def tail(row: np.ndarray) -> tuple[int, int]:
    """The last id of a row that has one, and how often it is repeated there."""
    others = np.flatnonzero(row != row[-1])
    return int(row[-1]), len(row) - (int(others[-1]) + 1 if len(others) else 0)


def share(values: Any) -> float:
    """The mean of some truths; 0 of none."""
    values = np.asarray(values)
    return float(values.mean()) if values.size else 0.0
