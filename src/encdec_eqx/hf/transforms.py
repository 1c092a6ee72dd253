"""The few named, invertible ways in which a tensor of a checkpoint becomes an array, or a part of one, of ours.

Ours: a linear weight is `(in, *out)`, with `(in, parts, *out)` when several are fused; a bias has the `out` axes.
Theirs: a torch `Linear` is `(out, in)`, GPT-2's `Conv1D` is `(in, out)`.

| name              | ours                     | theirs           |
|-------------------|--------------------------|------------------|
| `same`            | any shape                | the same shape   |
| `flat`            | a bias `(*out)`          | `(out,)`         |
| `row`             | a bias `(out,)`          | `(1, out)`       |
| `rows`            | a weight `(in, *out)`    | `(in, out)`      |
| `transposed`      | a weight `(in, *out)`    | `(out, in)`      |
| `bias part k`     | entry k of `(parts, *out)`          | `(out,)`    |
| `transposed part k` | entry k of `(in, parts, *out)`    | `(out, in)` |

Where their tensor is fused and ours are apart, or the parts are of unequal size, a `Fused` says which rows are meant.

All of them split and swap axes and never merge any, so that a box of ours is read from a box of theirs, or from one for
each group of a `Fused`: no more of a mapped file is touched than what is asked for.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from .files.mapped import copy_mapped

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Fused:
    """A part of a tensor whose rows hold several: groups of heads, each of which has some of each part.

    | tensor | groups | counts | width |
    |---|---|---|---|
    | queries, keys and values in a row (Phi-3, ModernBERT) | 1 | heads, key-value heads, the same | a head's |
    | queries, keys and values of each key-value head (Falcon) | key-value heads | heads of one, 1, 1 | a head's |
    | query, key and value of each head (GPT-NeoX, Bloom) | heads | 1, 1, 1 | a head's |
    | gate and up (Phi-3, ModernBERT) | 1 | 1, 1 | the inner width |

    Attributes:
        how: the transform between our array and the part.
        groups: how often the parts recur.
        counts: how many blocks of rows each part has in a group.
        width: rows of a block.
        part: which of the parts it is.
    """

    how: str
    groups: int
    counts: tuple[int, ...]
    width: int
    part: int

    def view(self, theirs: np.ndarray) -> np.ndarray:
        """The part of the tensor, as a view of it: `(groups, count, width, *rest)`."""
        start = sum(self.counts[: self.part])
        axes = theirs.reshape(self.groups, sum(self.counts), self.width, *theirs.shape[1:])
        return axes[:, start : start + self.counts[self.part]]


How = str | Fused


class _Transform(NamedTuple):
    """One way to turn a checkpoint's tensor into ours and back.

    Attributes:
        shape: takes the shape of the part of our array that this tensor fills, and gives that of the tensor.
        axis: the axis of our array that numbers its parts; None if the tensor fills all of it.
        number: the part, on that axis.
        transposed: whether the axes of the flattened matrix are swapped.
    """

    shape: Callable[[Shape], Shape]
    axis: int | None = None
    number: int = 0
    transposed: bool = False

    def part(self, array: np.ndarray) -> np.ndarray:
        """The part of our whole array, as a view."""
        return array if self.axis is None else array[(slice(None),) * self.axis + (self.number,)]


def their_shape(how: How, ours: Shape) -> Shape:
    """The shape that the checkpoint's tensor must have, from that of our whole array."""
    if isinstance(how, Fused):
        return (how.groups * sum(how.counts) * how.width, *their_shape(how.how, ours)[1:])
    transform = _transform(how)
    return transform.shape(transform.part(_empty(ours)).shape)


def count_parts(how: How, ours: Shape) -> int:
    """How many rows of this transform fill our array."""
    part = _transform(how.how if isinstance(how, Fused) else how).part(_empty(ours)).size
    return math.prod(ours) // part if part else 1


class _Tile(NamedTuple):
    """A box of our array: where it starts, and the view of the checkpoint's tensor, of its shape, that fills it."""

    start: Shape
    source: np.ndarray


def write(how: How, ours: np.ndarray, theirs: np.ndarray, *, whole: Shape | None = None, at: Shape = ()) -> None:
    """Fill our array, or the part of it that the transform names, converting the dtype.

    Args:
        how: the transform.
        ours: the array to fill in place: the whole one, or a box of it.
        theirs: the checkpoint's tensor, of which no more is read than belongs to the box.
        whole: the shape of our whole array; default that of `ours`.
        at: where in the whole array the box starts.
    """
    whole, at = (ours.shape, (0,) * ours.ndim) if whole is None else (whole, at)
    for tile in _tiles(how, whole, theirs):
        first = [max(*starts) for starts in zip(at, tile.start, strict=True)]
        ends = zip(at, ours.shape, tile.start, tile.source.shape, strict=True)
        last = [min(a + size, b + other) for a, size, b, other in ends]
        if all(start < end for start, end in zip(first, last, strict=True)):
            copy_mapped(_box(ours, at, first, last), _box(tile.source, tile.start, first, last))


def _tiles(how: How, whole: Shape, theirs: np.ndarray) -> Iterator[_Tile]:
    """What the transform fills of our whole array, and from what; nothing is read."""
    if not isinstance(how, Fused):
        yield _tile(how, whole, theirs, 0, 1)
        return
    for group, rows in enumerate(how.view(theirs)):
        yield _tile(how.how, whole, rows.reshape(-1, *theirs.shape[1:]), group, how.groups)


def _tile(how: str, whole: Shape, rows: np.ndarray, group: int, groups: int) -> _Tile:
    """One of the groups into which our first output axis falls, with the rows of the tensor that it is."""
    transform = _transform(how)
    shape = list(transform.part(_empty(whole)).shape)
    start = [0] * len(shape)
    if groups > 1:
        out = 1 if transform.transposed else 0
        shape[out] //= groups
        start[out] = group * shape[out]
    source = np.moveaxis(rows.reshape(*shape[1:], shape[0]), -1, 0) if transform.transposed else rows.reshape(shape)
    if transform.axis is not None:
        start.insert(transform.axis, transform.number)
        source = np.expand_dims(source, transform.axis)
    return _Tile(tuple(start), source)


def _box(array: np.ndarray, origin: Iterable[int], first: Iterable[int], last: Iterable[int]) -> np.ndarray:
    """A box of an array that starts at `origin`: a view, also of an array without axes."""
    cuts = (slice(start - at, end - at) for at, start, end in zip(origin, first, last, strict=True))
    return array[(*cuts, ...)]


def read(how: str, ours: np.ndarray) -> np.ndarray:
    """The checkpoint's tensor from our whole array: the inverse of `write`."""
    transform = _transform(how)
    part = transform.part(ours)
    shape = transform.shape(part.shape)
    return part.reshape(shape[::-1]).T if transform.transposed else part.reshape(shape)


def join(parts: Iterable[tuple[How, np.ndarray]]) -> np.ndarray:
    """The checkpoint's tensor from all of our arrays that are in it."""
    theirs: np.ndarray | None = None
    for how, ours in parts:
        if not isinstance(how, Fused):
            return read(how, ours)
        theirs = np.empty(their_shape(how, ours.shape), ours.dtype) if theirs is None else theirs
        view = how.view(theirs)
        view[...] = read(how.how, ours).reshape(view.shape)
    assert theirs is not None
    return theirs


def _flat(shape: Shape) -> Shape:
    return (math.prod(shape),)


def _columns(shape: Shape) -> Shape:
    return (math.prod(shape[1:]), shape[0])


_TRANSFORMS = {
    "same": _Transform(lambda shape: shape),
    "flat": _Transform(_flat),
    "row": _Transform(lambda shape: (1, *shape)),
    "rows": _Transform(lambda shape: (shape[0], math.prod(shape[1:]))),
    "transposed": _Transform(_columns, transposed=True),
}


def _transform(name: str) -> _Transform:
    if name in _TRANSFORMS:
        return _TRANSFORMS[name]
    kind, _, number = name.partition(" part ")
    if kind not in ("bias", "transposed") or not number.isdigit():
        known = ", ".join(map(repr, (*_TRANSFORMS, "bias part 1", "transposed part 1")))
        raise ValueError(f"unknown transform {name!r} in a row of tensors; expected one of {known}.")
    part = int(number)
    if kind == "bias":
        return _Transform(_flat, axis=0, number=part)
    return _Transform(_columns, axis=1, number=part, transposed=True)


def _empty(shape: Shape) -> np.ndarray:
    """An array of this shape that takes no memory, to ask for the shapes of parts."""
    return np.broadcast_to(np.zeros((), bool), shape)
