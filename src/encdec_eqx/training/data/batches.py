"""Batches of few shapes, in an order that the seed and the epoch alone decide; and samples from all over the data."""

import abc
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from jaxtyping import Integer

from . import batch_shapes
from .batch_shapes import Shape
from .examples import Example, Examples
from .records import IGNORED, MASKS, SOURCE_FIELDS

Batch = dict[str, np.ndarray]
Plan = Sequence[tuple[Shape, np.ndarray]]
"""Of every batch its shape and the examples in it."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A process's part of every batch: `index` of `count` equal ones."""

    index: int
    count: int

    def __post_init__(self):
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"process_index must be at least 0 and below process_count, got {self.index} of {self.count}."
            )

    def rows(self, shape: Shape) -> slice:
        """Which rows of a batch these are."""
        each, rest = divmod(shape.rows, self.count)
        if rest:
            raise ValueError(
                f"batches of {shape.rows} rows cannot be split among {self.count} processes: make their rows a "
                f"multiple of it (rows_multiple_of={self.count})."
            )
        return slice(self.index * each, (self.index + 1) * each)


class AbstractBatches(abc.ABC):
    """Examples in batches of few shapes, wherever the examples are.

    Attributes:
        shapes: the shapes of all batches, the smallest first.
        seed: decides the order, together with the epoch.
        shuffle: whether the order differs from that of the examples.
    """

    shapes: tuple[Shape, ...]
    seed: int
    shuffle: bool
    _members: tuple[np.ndarray, ...]
    _pad: dict[str, int]

    @property
    @abc.abstractmethod
    def number(self) -> int:
        """How many examples there are."""

    @property
    @abc.abstractmethod
    def tokens(self) -> tuple[int, int]:
        """Source ids of an epoch, padding not counted, and its labels."""

    @abc.abstractmethod
    def _plan(self, epoch: int) -> "Plan":
        """Of every batch of an epoch its shape and its examples."""

    @abc.abstractmethod
    def _encoded(self, indices: np.ndarray) -> tuple[Examples, np.ndarray]:
        """Examples among which those are, and where."""

    @abc.abstractmethod
    def read(self, plan: "Plan", steps: range, part: "Part") -> Iterator[Batch]:
        """The batches of some steps of a plan, or the part of each that a process has."""

    def __len__(self) -> int:
        """Batches of an epoch."""
        return sum(-(-len(one) // shape.rows) for shape, one in zip(self.shapes, self._members, strict=True))

    def epoch(self, epoch: int) -> "Epoch":
        """The batches of an epoch.

        Their order depends on (seed, epoch) and on nothing else, and each is made when it is asked for: a run that is
        resumed continues with `epoch(e)[i]` at no cost.

        Args:
            epoch: its number, from 0.

        Raises:
            ValueError: the number is negative.
        """
        if epoch < 0:
            raise ValueError(f"an epoch's number must be at least 0, got {epoch}.")
        return Epoch(self, self._plan(epoch))

    def one_of_each_shape(self) -> list[Batch]:
        """A batch of every shape: what compiling ahead of the clock needs."""
        return [
            self.batch(shape, members[: shape.rows]) for shape, members in zip(self.shapes, self._members, strict=True)
        ]

    @property
    def padded_tokens(self) -> int:
        """Positions of all batches of an epoch, on both sides."""
        return sum(
            -(-len(members) // shape.rows) * shape.rows * (shape.source + shape.target)
            for shape, members in zip(self.shapes, self._members, strict=True)
        )

    @property
    def padding_share(self) -> float:
        """Fraction of an epoch's positions, padding rows included, that hold no id."""
        return 1 - sum(self.tokens) / self.padded_tokens

    def describe(self) -> str:
        """One line per shape, and the fraction of padding."""
        lines = [
            f"{shape.rows} x ({shape.source} source, {shape.target} target): {len(members)} examples in "
            f"{-(-len(members) // shape.rows)} batches"
            for shape, members in zip(self.shapes, self._members, strict=True)
        ]
        return "\n".join([*lines, f"{self.number} examples, {self.padding_share:.1%} padding"])

    def batch(self, shape: Shape, indices: Integer[np.ndarray, " rows"]) -> Batch:
        """Some examples as one batch of a shape that holds them, padded with rows of weight 0.

        Args:
            shape: the shape.
            indices: the examples, at most `shape.rows`.
        """
        return self.part(shape, indices, Part(0, 1))

    def part(self, shape: Shape, indices: Integer[np.ndarray, " rows"], part: "Part") -> Batch:
        """The rows of such a batch that a process has; the others are not made."""
        rows = part.rows(shape)
        examples, at = self._encoded(indices[rows])
        ids, real = examples.inputs.padded(at, shape.source, self._pad["input_ids"])
        batch = {"input_ids": ids, "attention_mask": real}
        for name, field in examples.fields.items():
            width = shape.source if name in SOURCE_FIELDS else shape.target
            padded, _ = field.padded(at, width, self._pad.get(name, 0))
            batch[name] = padded.astype(bool) if name in MASKS else padded
        batch["labels"], _ = examples.labels.padded(at, shape.target, IGNORED)
        number = rows.stop - rows.start
        return {name: self._with_padding_rows(name, array, number) for name, array in batch.items()}

    def _with_padding_rows(self, name: str, array: np.ndarray, rows: int) -> np.ndarray:
        """With rows of weight 0 after the examples."""
        more = rows - len(array)
        if not more:
            return array
        fill = IGNORED if name == "labels" else self._pad.get(name, 0)
        padded = np.pad(array, ((0, more), (0, 0)), constant_values=fill)
        if name in MASKS:
            padded[-more:, 0] = True  # something to attend to: some encoders have no answer to nothing
        return padded


class Batches(AbstractBatches):
    """Encoded examples, sorted into few shapes and given out in batches.

    Every example stands in exactly one batch of an epoch. A shape's last batch is padded with rows of weight 0:
    all their labels are -100.

    Attributes:
        examples: what the batches are made of.
        shapes: the shapes of all batches, the smallest first.
        seed: decides the order, together with the epoch.
        shuffle: whether the order differs from that of the examples.
    """

    def __init__(
        self,
        examples: Examples | Iterable[Example],
        *,
        batch_size: int | None = None,
        tokens_per_batch: int | None = None,
        rows_multiple_of: int = 1,
        max_shapes: int = 8,
        source_lengths: Sequence[int] | None = None,
        target_lengths: Sequence[int] | None = None,
        pad_token_id: int = 0,
        decoder_pad_token_id: int = 0,
        seed: int = 0,
        shuffle: bool = True,
    ):
        """Sort the examples into shapes.

        Args:
            examples: from `encode_pairs`, or single ones.
            batch_size: rows of a batch.
            tokens_per_batch: instead of it, the most tokens of a batch, padding included: rows times the columns of
                source and target. Shorter examples then come in more rows.
            rows_multiple_of: rows are a multiple of this: `accumulate_steps` times devices.
            max_shapes: most shapes to choose. Fewer are chosen where a further one would save less than 1 %.
            source_lengths: columns that sources are padded to, instead of chosen ones.
            target_lengths: columns that labels are padded to, instead of chosen ones.
            pad_token_id: pads shorter sources (which the mask hides).
            decoder_pad_token_id: pads shorter `decoder_input_ids`, where examples bring their own.
            seed: see `epoch`.
            shuffle: False keeps the examples' order within each shape, and the shapes' order, in every epoch.

        Raises:
            ValueError: there are no examples, or an option is out of its range.
        """
        self.examples = examples if isinstance(examples, Examples) else Examples.of(examples)
        if not len(self.examples):
            raise ValueError("there are no examples to make batches of.")
        if max_shapes < 1:
            raise ValueError(f"max_shapes must be at least 1, got {max_shapes}.")
        self.seed = seed
        self.shuffle = shuffle
        self._pad = {"input_ids": pad_token_id, "decoder_input_ids": decoder_pad_token_id}
        rows = batch_shapes.Rows(batch_size, tokens_per_batch, rows_multiple_of)
        lengths = self.examples.inputs.lengths, self.examples.labels.lengths
        if source_lengths is None and target_lengths is None:
            found = batch_shapes.choose_shapes(*lengths, rows, max_shapes)
        else:
            found = batch_shapes.shapes_of_edges(*lengths, rows, source_lengths, target_lengths)
        shape_of = batch_shapes.assign_shapes(*lengths, found)
        members = [np.flatnonzero(shape_of == at) for at in range(len(found))]
        self.shapes = tuple(shape for shape, one in zip(found, members, strict=True) if len(one))
        self._members = tuple(one for one in members if len(one))

    @property
    def number(self) -> int:
        """How many examples there are."""
        return len(self.examples)

    @property
    def source_tokens(self) -> int:
        """Source ids of an epoch, padding not counted."""
        masks = self.examples.fields.get("attention_mask")
        return len(self.examples.inputs.ids) if masks is None else int((masks.ids != 0).sum())

    @property
    def target_tokens(self) -> int:
        """Labels of an epoch that carry loss."""
        return int((self.examples.labels.ids != IGNORED).sum())

    @property
    def tokens(self) -> tuple[int, int]:
        """Source ids of an epoch, padding not counted, and its labels."""
        return self.source_tokens, len(self.examples.labels.ids)

    def _plan(self, epoch: int) -> Plan:
        random = np.random.default_rng([self.seed, epoch]) if self.shuffle else None
        plan: list[tuple[Shape, np.ndarray]] = []
        for shape, members in zip(self.shapes, self._members, strict=True):
            order = members if random is None else random.permutation(members)
            plan += [(shape, order[at : at + shape.rows]) for at in range(0, len(order), shape.rows)]
        if random is not None:
            plan = [plan[at] for at in random.permutation(len(plan))]
        return plan

    def _encoded(self, indices: np.ndarray) -> tuple[Examples, np.ndarray]:
        return self.examples, indices

    def read(self, plan: Plan, steps: range, part: Part) -> Iterator[Batch]:
        """The batches of some steps of a plan, or the part of each that a process has."""
        for step in steps:
            yield self.batch(*plan[step]) if part.count == 1 else self.part(*plan[step], part)


class Epoch(Sequence[Batch]):
    """The batches of one epoch: `len`, `[i]`, and iteration, all of the same batches."""

    def __init__(self, batches: AbstractBatches, plan: Plan):
        self._batches = batches
        self._plan = plan

    def __len__(self) -> int:
        return len(self._plan)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> list[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | list[Batch]:
        if isinstance(index, slice):
            return [self._batches.batch(*one) for one in self._plan[index]]
        return self._batches.batch(*self._plan[index])

    def read(
        self, start: int = 0, stop: int | None = None, *, process_index: int = 0, process_count: int = 1
    ) -> Iterator[Batch]:
        """The batches from one on, one after another; those of a stream are read and encoded ahead in threads.

        The plan of an epoch is that of all processes together, so that their number changes no batch: the first has the
        first rows of each, the next one the next. A process encodes only its own.

        Args:
            start: number of the first batch.
            stop: number of the one after the last; default: to the end.
            process_index: which part of each batch's rows is made.
            process_count: how many parts there are.

        Raises:
            ValueError: there is no such part, or a batch's rows cannot be split so.
        """
        steps = range(len(self._plan))[start:stop]
        return self._batches.read(self._plan, steps, Part(process_index, process_count))

    def indices(self, index: int) -> Integer[np.ndarray, " examples"]:
        """The examples in a batch, in the order of its rows; the rows after them are padding."""
        return self._plan[index][1]

    def shape(self, index: int) -> Shape:
        """The shape of a batch."""
        return self._plan[index][0]


_SEED = 0
_MANY = 1 << 20


def from_all_over(number: int, most: int) -> list[int]:
    """Indices of some of `number` things, chosen at random (always the same), in random order; all if they are few.

    At random and not evenly spaced, since files are not only sorted: languages or tasks may also take turns.
    """
    random = np.random.default_rng(_SEED)
    if number > _MANY:  # without an array of all of them
        return random.choice(number, min(most, number), replace=False).tolist()
    return random.permutation(number)[:most].tolist()


def sample(examples: Sequence[Example], most: int, pad_token_id: int) -> tuple[list[Example], Batch]:
    """Some of the examples, `most` of them, and these as one batch."""
    few = [examples[at] for at in from_all_over(len(examples), most)]
    batches = Batches(Examples.of(few), batch_size=len(few), max_shapes=1, pad_token_id=pad_token_id, shuffle=False)
    return few, batches.epoch(0)[0]
