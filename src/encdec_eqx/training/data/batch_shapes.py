"""The few shapes that batches are padded to, chosen so that little of them is padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

LEAST_GAIN = 0.01
"""A further shape must save this fraction of all tokens: each one is a program to compile."""

_EDGES = (48, 24)
"""Source and target lengths to choose from, at most: their products are the shapes looked at."""

Lengths = Int[np.ndarray, " examples"]


@dataclass(frozen=True, order=True)
class Shape:
    """The shape of a batch.

    Attributes:
        source: columns of `input_ids`.
        target: columns of `labels`.
        rows: examples, padding rows of a last batch included.
    """

    source: int
    target: int
    rows: int


@dataclass(frozen=True)
class Rows:
    """How many rows a batch has: a number, or what a budget of tokens allows.

    Attributes:
        batch_size: the number.
        tokens_per_batch: the budget: rows times the columns of source and target.
        multiple_of: rows are a multiple of this.
    """

    batch_size: int | None
    tokens_per_batch: int | None
    multiple_of: int

    def __post_init__(self):
        given = {"batch_size": self.batch_size, "tokens_per_batch": self.tokens_per_batch}
        if sum(value is not None for value in given.values()) != 1:
            raise ValueError(f"give one of batch_size and tokens_per_batch, got {given}.")
        for name, value in {**given, "rows_multiple_of": self.multiple_of}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if self.batch_size is not None and self.batch_size % self.multiple_of:
            raise ValueError(f"batch_size={self.batch_size} is no multiple of rows_multiple_of={self.multiple_of}.")

    def of(self, columns: np.ndarray) -> np.ndarray:
        """Rows of batches with so many columns on both sides; at least `multiple_of`, even beyond the budget."""
        if self.tokens_per_batch is None:
            return np.full_like(columns, self.batch_size)
        return np.maximum(self.tokens_per_batch // columns // self.multiple_of, 1) * self.multiple_of

    def shape(self, source: int, target: int) -> Shape:
        """The shape with these columns.

        Raises:
            ValueError: the budget does not allow as few as `multiple_of` rows.
        """
        rows = int(self.of(np.array([source + target]))[0])
        if self.tokens_per_batch is not None and rows * (source + target) > self.tokens_per_batch:
            raise ValueError(
                f"tokens_per_batch={self.tokens_per_batch} has no room for {rows} rows of {source} source and {target} "
                f"target tokens; expected at least {rows * (source + target)}, or shorter examples."
            )
        return Shape(source, target, rows)


def choose_shapes(
    sources: Lengths, targets: Lengths, rows: Rows, max_shapes: int, counts: Lengths | None = None
) -> list[Shape]:
    """At most `max_shapes` shapes that hold all examples, each larger than the one before on both sides.

    An example belongs to the first shape that holds it. Of all such chains over a grid of lengths, dynamic programming
    finds the one whose batches have the fewest tokens, padding rows included; so few examples are not spread over many
    shapes. A chain is preferred to a shorter one if each further shape saves `LEAST_GAIN`. With `counts` each pair of
    lengths stands for so many examples.
    """
    source_edges, target_edges = _edges(sources, _EDGES[0], counts), _edges(targets, _EDGES[1], counts)
    source, target = (ends.ravel() for ends in np.meshgrid(source_edges, target_edges, indexing="ij"))
    grid = np.zeros((len(source_edges), len(target_edges)), np.int64)
    np.add.at(
        grid,
        (np.searchsorted(source_edges, sources), np.searchsorted(target_edges, targets)),
        1 if counts is None else counts,
    )
    held = grid.cumsum(axis=0).cumsum(axis=1).ravel()  # how many examples each shape holds
    columns = source + target
    each = rows.of(columns)
    follows = (source[:, None] <= source) & (target[:, None] <= target)
    batches = -(-(held - held[:, None]) // each)
    further = np.where(follows, batches * (each * columns), np.iinfo(np.int64).max // 2)

    # cost[k][p]: tokens of the best chain of k + 1 shapes that ends with p; before[k][p]: the shape before p in it
    cost, before = [-(-held // each) * each * columns], []
    while len(cost) < max_shapes:
        total = cost[-1][:, None] + further
        before.append(total.argmin(axis=0))
        cost.append(total.min(axis=0))
    tokens = np.array([ends[-1] for ends in cost])
    last = int(np.argmin(tokens + LEAST_GAIN * tokens.min() * np.arange(len(tokens))))
    chain = [len(columns) - 1]
    for links in reversed(before[:last]):
        chain.append(int(links[chain[-1]]))
    return sorted({rows.shape(int(source[at]), int(target[at])) for at in chain})


def _edges(lengths: Lengths, most: int, counts: Lengths | None) -> Int[np.ndarray, " edges"]:
    """Lengths to choose from, the longest among them.

    If they are too many, half of them are quantiles, the other half lie evenly, for the few long ones.
    """
    all_of_them = np.unique(lengths)
    if len(all_of_them) <= most:
        return all_of_them
    close = np.quantile(lengths, np.linspace(0, 1, most // 2 + 1), method="inverted_cdf", weights=counts)
    apart = all_of_them[np.searchsorted(all_of_them, np.linspace(lengths.min(), lengths.max(), most // 2 + 1))]
    return np.union1d(close, apart).astype(np.int64)


def shapes_of_edges(
    sources: Lengths,
    targets: Lengths,
    rows: Rows,
    source_lengths: Sequence[int] | None,
    target_lengths: Sequence[int] | None,
) -> list[Shape]:
    """The shapes that edges given by the user make: all combinations; without edges of one side, its longest.

    Raises:
        ValueError: an edge is below 1, or an example is longer than all.
    """
    edges = {"source": (source_lengths, sources), "target": (target_lengths, targets)}
    ends = {}
    for side, (given, lengths) in edges.items():
        longest = int(lengths.max())
        ends[side] = sorted(set(given)) if given is not None else [longest]
        if not ends[side] or ends[side][0] < 1:
            raise ValueError(f"{side}_lengths must be numbers of at least 1, got {given}.")
        if longest > ends[side][-1]:
            raise ValueError(
                f"{(lengths > ends[side][-1]).sum()} of {len(lengths)} {side}s are longer than {side}_lengths' last "
                f"edge, {ends[side][-1]}: the longest has {longest} tokens. Add an edge, or cut with "
                f"encode_pairs(..., max_{side}_length={ends[side][-1]})."
            )
    return sorted(rows.shape(s, t) for s in ends["source"] for t in ends["target"])


def assign_shapes(sources: Lengths, targets: Lengths, shapes: Sequence[Shape]) -> Int[np.ndarray, " examples"]:
    """For every example the index of the shape with the fewest columns that holds it."""
    index = np.full(len(sources), -1)
    for at in sorted(range(len(shapes)), key=lambda at: -(shapes[at].source + shapes[at].target)):
        index[(sources <= shapes[at].source) & (targets <= shapes[at].target)] = at
    return index
