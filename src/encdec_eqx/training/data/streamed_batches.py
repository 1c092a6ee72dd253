"""Batches of a stream: few shapes, an order that is computed and not held, and threads of grain's that read ahead."""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from jaxtyping import Int

from ..._installing import install
from . import batch_shapes
from .batch_shapes import Shape
from .batches import AbstractBatches, Batch, Part, Plan
from .examples import Examples
from .streams import StreamedExamples

_THREADS = 4
"""That read and encode batches ahead."""
_AHEAD = 8
"""Batches that are made before they are asked for, at most."""
_ROUNDS = 4
"""Of grain's shuffle."""


class StreamedBatches(AbstractBatches):
    """Examples of a stream in batches; what `Batches` is for examples that are held in memory.

    The shapes are those that `Batches` would choose. Every example stands in exactly one batch of an epoch. The order
    is a permutation of each shape's examples and one of all batches. Both are computed for a place when it is asked
    for, by `grain.experimental.index_shuffle` (a block cipher over the numbers) with keys drawn from seed and epoch, so
    that any batch of any epoch is found at once. In memory are 4 bytes an example.

    Attributes:
        examples: what the batches are made of.
        shapes: the shapes of all batches, the smallest first.
        seed: decides the order, together with the epoch.
        shuffle: whether the order differs from that of the examples.
    """

    def __init__(
        self,
        examples: StreamedExamples,
        *,
        batch_size: int | None = None,
        tokens_per_batch: int | None = None,
        rows_multiple_of: int = 1,
        max_shapes: int = 8,
        pad_token_id: int = 0,
        decoder_pad_token_id: int = 0,
        seed: int = 0,
        shuffle: bool = True,
    ):
        """Sort the examples into shapes by the lengths in their index; the arguments are those of `Batches`.

        Raises:
            ImportError: grain is not installed.
            ValueError: an option is out of its range.
        """
        if max_shapes < 1:
            raise ValueError(f"max_shapes must be at least 1, got {max_shapes}.")
        self._grain = _grain()
        self.examples = examples
        self.seed = seed
        self.shuffle = shuffle
        self._pad = {"input_ids": pad_token_id, "decoder_input_ids": decoder_pad_token_id}
        rows = batch_shapes.Rows(batch_size, tokens_per_batch, rows_multiple_of)
        keys, counts = _pairs_of_lengths(examples)
        sources, targets = keys >> _SHIFT, keys & _LOW
        found = batch_shapes.choose_shapes(sources, targets, rows, max_shapes, counts)
        shape_of = batch_shapes.assign_shapes(sources, targets, found)
        self.shapes, self._members = _sorted_into(found, examples, keys, counts, shape_of)
        self._tokens = int((sources * counts).sum()), int((targets * counts).sum())

    @property
    def number(self) -> int:
        """How many examples there are."""
        return len(self.examples)

    @property
    def tokens(self) -> tuple[int, int]:
        """Source ids of an epoch, padding not counted, and its labels."""
        return self._tokens

    def _plan(self, epoch: int) -> Plan:
        return _ShuffledPlan(self, epoch)

    def _encoded(self, indices: np.ndarray) -> tuple[Examples, np.ndarray]:
        return self.examples.encoded(indices), np.arange(len(indices))

    def read(self, plan: Plan, steps: range, part: Part) -> Iterator[Batch]:
        """The batches of some steps of a plan, or the part of each that a process has, made ahead in threads."""
        for shape in self.shapes:
            part.rows(shape)  # raises before anything is read
        grain = self._grain
        ahead = grain.MapDataset.source(_Made(self, plan, steps, part)).to_iter_dataset(
            grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
        )
        return _closing(iter(ahead))

    def shuffled(self, number: int, key: int) -> Any:
        """A permutation of `range(number)`, as a function of a place; of itself where nothing is shuffled."""
        if not self.shuffle:
            return lambda at: at
        shuffle = self._grain.experimental.index_shuffle
        return lambda at: shuffle(at, max_index=number - 1, seed=key, rounds=_ROUNDS)

    def members(self) -> Sequence[tuple[Shape, np.ndarray]]:
        """The shapes, each with the examples that belong to it."""
        return tuple(zip(self.shapes, self._members, strict=True))


def _closing(ahead: Any) -> Iterator[Batch]:
    """What an iterator of grain's gives; its threads end with it."""
    try:
        yield from ahead
    finally:
        ahead.close()


class _ShuffledPlan(Sequence[tuple[Shape, np.ndarray]]):
    """The plan of an epoch, of which nothing is held: a batch's shape and examples are computed from its number."""

    def __init__(self, batches: StreamedBatches, epoch: int):
        self._members = batches.members()
        numbers = [-(-len(members) // shape.rows) for shape, members in self._members]
        self._starts = np.concatenate([[0], np.cumsum(numbers)])
        keys = np.random.SeedSequence([batches.seed, epoch]).generate_state(1 + len(numbers)).tolist()
        self._batch = batches.shuffled(len(self), keys[0])
        self._example = [
            batches.shuffled(len(members), key) for (_, members), key in zip(self._members, keys[1:], strict=True)
        ]

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, index: int) -> tuple[Shape, np.ndarray]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[Shape, np.ndarray]]: ...
    def __getitem__(self, index: int | slice) -> tuple[Shape, np.ndarray] | list[tuple[Shape, np.ndarray]]:
        if isinstance(index, slice):
            return [self[at] for at in range(len(self))[index]]
        batch = self._batch(range(len(self))[index])
        number = int(np.searchsorted(self._starts, batch, side="right")) - 1
        shape, members = self._members[number]
        first = (batch - int(self._starts[number])) * shape.rows
        places = range(first, min(first + shape.rows, len(members)))
        return shape, members[[self._example[number](at) for at in places]].astype(np.int64)


class _Made:
    """The batches of some steps, as a source that grain reads from."""

    def __init__(self, batches: StreamedBatches, plan: Plan, steps: range, part: Part):
        self._batches, self._plan, self._steps, self._part = batches, plan, steps, part

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> Batch:
        return self._batches.part(*self._plan[self._steps[index]], self._part)


# A pair of lengths is one number: the source's above these bits, the target's in them.
_SHIFT = 32
_LOW = (1 << _SHIFT) - 1


def _pairs_of_lengths(examples: StreamedExamples) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """The different pairs of lengths, in order, and how many examples have each."""
    keys, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for sources, targets in examples.lengths():
        more, of_more = np.unique((sources << _SHIFT) | targets, return_counts=True)
        keys, places = np.unique(np.concatenate([keys, more]), return_inverse=True)
        summed = np.zeros(len(keys), np.int64)
        np.add.at(summed, places, np.concatenate([counts, of_more]))
        counts = summed
    return keys, counts


def _sorted_into(
    shapes: Sequence[Shape],
    examples: StreamedExamples,
    keys: Int[np.ndarray, " pairs"],
    counts: Int[np.ndarray, " pairs"],
    shape_of: Int[np.ndarray, " pairs"],
) -> tuple[tuple[Shape, ...], tuple[np.ndarray, ...]]:
    """Those of the shapes that have examples, and the examples of each, in order."""
    numbers = np.zeros(len(shapes), np.int64)
    np.add.at(numbers, shape_of, counts)
    members = [np.zeros(number, np.uint32) for number in numbers]
    filled, start = np.zeros(len(shapes), np.int64), 0
    for sources, targets in examples.lengths():
        of_part = shape_of[np.searchsorted(keys, (sources << _SHIFT) | targets)]
        for number, own in enumerate(members):
            here = np.flatnonzero(of_part == number)
            own[filled[number] : filled[number] + len(here)] = here + start
            filled[number] += len(here)
        start += len(sources)
    kept = [(shape, own) for shape, own in zip(shapes, members, strict=True) if len(own)]
    return tuple(shape for shape, _ in kept), tuple(own for _, own in kept)


def _grain() -> Any:
    try:
        import grain
        import grain.experimental
    except ImportError:
        raise ImportError(f"streaming needs grain, which is not installed: {install('stream')}") from None
    return grain
