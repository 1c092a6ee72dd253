"""Words and pronunciations as arrays of few, fixed shapes.

NumPy on the host. Knows the vocabularies; must not know the model, the optimiser or the dictionary's file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .vocabulary import LETTER_PAD, encode_pronunciation, encode_word

IGNORED_LABEL = -100
Batch = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """One static shape of a training batch; a pair goes to the first bucket that holds it.

    Attributes:
        source: letter ids a row, the end mark included.
        target: phoneme ids a row, the end mark included.
        rows: words a batch. (Fewer for longer ones, so that batches cost about the same.)
    """

    source: int
    target: int
    rows: int


def encode_words(words: Sequence[str], *, width: int, rows: int | None = None) -> dict[str, Any]:
    """`input_ids` and `attention_mask` of a batch of words, padded on the right to `width`.

    Args:
        words: what to encode.
        width: ids a row, the end mark included.
        rows: rows of the result; the last word is repeated to fill them. Default: one row a word.

    Raises:
        WordError: a word that cannot be read, or does not fit into `width`.
    """
    filled = [*words, *[words[-1]] * ((rows or len(words)) - len(words))]
    ids = padded([encode_word(word, max_letters=width - 1) for word in filled], width, LETTER_PAD)
    return {"input_ids": ids, "attention_mask": ids != LETTER_PAD}


class TrainingData:
    """Pairs sorted into buckets, given out in an order that depends only on the seed.

    Attributes:
        pairs: how many pairs the buckets hold.
        left_out: how many pairs fit no bucket.
    """

    def __init__(self, pairs: Sequence[tuple[str, Sequence[str]]], buckets: Sequence[Bucket]):
        """Encodes and sorts `pairs` of a word and its phonemes; `buckets` from the smallest to the largest."""
        sources = [encode_word(word, max_letters=len(word)) for word, _ in pairs]
        targets = [encode_pronunciation(phonemes) for _, phonemes in pairs]
        place = [
            next((i for i, b in enumerate(buckets) if len(s) <= b.source and len(t) <= b.target), None)
            for s, t in zip(sources, targets, strict=True)
        ]
        self._buckets = tuple(buckets)
        self._arrays = [
            _pack(
                [s for s, p in zip(sources, place, strict=True) if p == i],
                [t for t, p in zip(targets, place, strict=True) if p == i],
                b,
            )
            for i, b in enumerate(buckets)
        ]
        self.pairs = sum(p is not None for p in place)
        self.left_out = len(place) - self.pairs

    def batches(self, *, seed: int) -> Iterator[Batch]:
        """Batches without end; see `shuffled`."""
        rows = [bucket.rows for bucket in self._buckets]
        return shuffled(list(zip(self._arrays, rows, strict=True)), seed=seed)

    def one_of_each_shape(self) -> list[Batch]:
        """The first batch of every bucket that can fill one: what compiling ahead of the clock needs."""
        return [
            {name: array[: bucket.rows] for name, array in arrays.items()}
            for arrays, bucket in zip(self._arrays, self._buckets, strict=True)
            if len(arrays["labels"]) >= bucket.rows
        ]


def shuffled(groups: Sequence[tuple[Batch, int]], *, seed: int) -> Iterator[Batch]:
    """Batches without end from groups of equal-width rows.

    Each pass shuffles the rows of every group and then the order of all batches; rows that do not fill a batch wait for
    the next pass.

    Args:
        groups: arrays whose first axis is the rows, and how many rows make a batch.
        seed: decides the order, wholly.

    Raises:
        ValueError: no group holds enough rows for one batch.
    """
    random = np.random.default_rng(seed)
    if not any(len(next(iter(arrays.values()))) >= rows for arrays, rows in groups):
        raise ValueError("no group of equally wide rows fills one batch: give more data or smaller batches")
    while True:
        plan = []
        for arrays, rows in groups:
            order = random.permutation(len(next(iter(arrays.values()))))
            plan += [(arrays, order[i : i + rows]) for i in range(0, len(order) - rows + 1, rows)]
        for index in random.permutation(len(plan)):
            arrays, chosen = plan[index]
            yield {name: array[chosen] for name, array in arrays.items()}


def padded(rows: Sequence[Sequence[int]], width: int, fill: int) -> np.ndarray:
    """Rows of ids as one array, filled up on the right."""
    array = np.full((len(rows), width), fill, np.int32)
    for row, ids in zip(array, rows, strict=True):
        row[: len(ids)] = ids
    return array


def _pack(sources: list[list[int]], targets: list[list[int]], bucket: Bucket) -> Batch:
    ids = padded(sources, bucket.source, LETTER_PAD)
    return {
        "input_ids": ids,
        "attention_mask": ids != LETTER_PAD,
        "labels": padded(targets, bucket.target, IGNORED_LABEL),
    }
