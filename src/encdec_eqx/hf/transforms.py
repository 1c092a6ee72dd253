"""The few named, invertible ways in which a tensor of a checkpoint becomes an array, or a part of one, of ours.

Knows nothing of names, families or files. Ours: a linear weight is `(in, *out)`, with `(in, parts, *out)` when several
are fused; a bias has the `out` axes. Theirs: a torch `Linear` is `(out, in)`, GPT-2's `Conv1D` is `(in, out)`.

| name              | ours                     | theirs           |
|-------------------|--------------------------|------------------|
| `same`            | any shape                | the same shape   |
| `flat`            | a bias `(*out)`          | `(out,)`         |
| `row`             | a bias `(out,)`          | `(1, out)`       |
| `rows`            | a weight `(in, *out)`    | `(in, out)`      |
| `transposed`      | a weight `(in, *out)`    | `(out, in)`      |
| `bias part k`     | entry k of `(parts, *out)`          | `(out,)`    |
| `transposed part k` | entry k of `(in, parts, *out)`    | `(out, in)` |
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Transform(NamedTuple):
    """One way to turn a checkpoint's tensor into ours and back.

    Attributes:
        part: takes our whole array and gives the part that this tensor fills, as a view.
        shape: takes the shape of that part and gives the shape of the checkpoint's tensor.
        transposed: whether the axes of the flattened matrix are swapped.
    """

    part: Callable[[np.ndarray], np.ndarray]
    shape: Callable[[Shape], Shape]
    transposed: bool = False


def their_shape(name: str, ours: Shape) -> Shape:
    """The shape that the checkpoint's tensor must have.

    Args:
        name: the transform.
        ours: the shape of our whole array.
    """
    transform = _transform(name)
    return transform.shape(transform.part(_empty(ours)).shape)


def count_parts(name: str, ours: Shape) -> int:
    """How many tensors of this transform fill our array."""
    part = _transform(name).part(_empty(ours)).size
    return math.prod(ours) // part if part else 1


def write(name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Fill our array, or the part of it that the transform names, converting the dtype.

    Args:
        name: the transform.
        ours: our whole array, written in place.
        theirs: the checkpoint's tensor, of shape `their_shape(name, ours.shape)`.
    """
    transform = _transform(name)
    part = transform.part(ours)
    source = theirs.T if transform.transposed else theirs
    part[...] = source.reshape(part.shape)


def read(name: str, ours: np.ndarray) -> np.ndarray:
    """The checkpoint's tensor from our whole array: the inverse of `write`."""
    transform = _transform(name)
    part = transform.part(ours)
    shape = transform.shape(part.shape)
    return part.reshape(shape[::-1]).T if transform.transposed else part.reshape(shape)


def _whole(array: np.ndarray) -> np.ndarray:
    return array


def _same(shape: Shape) -> Shape:
    return shape


def _flat(shape: Shape) -> Shape:
    return (math.prod(shape),)


def _rows(shape: Shape) -> Shape:
    return (shape[0], math.prod(shape[1:]))


def _columns(shape: Shape) -> Shape:
    return (math.prod(shape[1:]), shape[0])


_TRANSFORMS = {
    "same": Transform(_whole, _same),
    "flat": Transform(_whole, _flat),
    "row": Transform(_whole, lambda shape: (1, *shape)),
    "rows": Transform(_whole, _rows),
    "transposed": Transform(_whole, _columns, transposed=True),
}


def _transform(name: str) -> Transform:
    if name in _TRANSFORMS:
        return _TRANSFORMS[name]
    kind, _, number = name.partition(" part ")
    part = int(number)
    if kind == "bias":
        return Transform(lambda array: array[part], _flat)
    if kind == "transposed":
        return Transform(lambda array: array[:, part], _columns, transposed=True)
    raise ValueError(f"unknown transform {name!r}.")


def _empty(shape: Shape) -> np.ndarray:
    """An array of this shape that takes no memory, to ask for the shapes of parts."""
    return np.broadcast_to(np.zeros((), bool), shape)
