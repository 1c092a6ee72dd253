"""The glossary of axes, the array aliases, and `checked`, the shape check of public entrances.

The axis words used in every annotation of the package, each with its letter in einsums:

| word       | letter | meaning                                                                   |
|------------|--------|---------------------------------------------------------------------------|
| `batch`    | b      | sequences: examples of a batch                                            |
| `rows`     | r      | sequences being decoded: batch x beams, or batch x samples, by example    |
| `source`   | s      | positions of the encoder's input                                          |
| `target`   | t      | positions of the decoder's input                                          |
| `queries`  | q      | positions that attend                                                     |
| `keys`     | k      | positions attended to                                                     |
| `slots`    | m      | positions of a cache, filled or not                                       |
| `new`      | n      | positions added to a cache by one call                                    |
| `heads`    | h      | attention heads                                                           |
| `head_dim` | e      | width of one head                                                         |
| `hidden`   | d      | width of the residual stream                                              |
| `ffn`      | f      | inner width of a feed-forward layer                                       |
| `vocab`    | v      | token ids                                                                 |
| `layers`   | l      | layers of a stack                                                         |
"""

import functools
import re
from collections.abc import Callable, Collection
from typing import TypeVar

import jax
import numpy as np
from beartype import beartype
from jaxtyping import Bool, Integer, Key, TypeCheckError, UInt32, jaxtyped

type_checker = beartype

Array = jax.Array
ArrayLike = jax.Array | np.ndarray
PRNGKey = Key[Array, ""] | UInt32[Array, "2"]
PRNGKeys = Key[Array, " layers"] | UInt32[Array, "layers 2"]

SourceIds = Integer[ArrayLike, "batch source"]
TargetIds = Integer[ArrayLike, "batch target"]
SourceMask = Bool[ArrayLike, "batch source"] | Integer[ArrayLike, "batch source"]
TargetMask = Bool[ArrayLike, "batch target"] | Integer[ArrayLike, "batch target"]

_Function = TypeVar("_Function", bound=Callable)

_ARRAY_TYPE = re.compile(r"(\w+)\[[\w.]+, '([^']*)'\]")


def checked(function: _Function) -> _Function:
    """Check the annotations of a public entrance; a violation is a `TypeError` of a few lines.

    The check runs on every eager call (about 0.1 ms) and only while tracing under `jit`.

    Args:
        function: a function whose arguments carry jaxtyping annotations.

    Returns:
        The function, which raises `TypeError` naming the argument, what was got, what was expected and the
        sizes of the axes seen so far.
    """
    typed = jaxtyped(typechecker=type_checker)(function)

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        try:
            return typed(*args, **kwargs)
        except TypeCheckError as error:
            raise TypeError(_shortened(str(error), function.__qualname__)) from None

    return wrapper  # pyright: ignore[reportReturnType]


def refusing(method: _Function, names: Collection[str], refuse: Callable) -> _Function:
    """A method that first has `refuse` look at calls with one of these names, or with an int in place of an array."""

    @functools.wraps(method)
    def wrapper(*args, **kwargs):
        if any(name in kwargs for name in names) or (len(args) > 1 and isinstance(args[1], int)):
            refuse(method, args, kwargs)
        return method(*args, **kwargs)

    return wrapper  # pyright: ignore[reportReturnType]


@checked
def check_key(key: PRNGKey | None) -> None:
    """Refuse what is no PRNG key, such as a bare seed, before jax meets it.

    Raises:
        TypeError: `key` is something else than `None`, `jax.random.key(seed)` or a legacy `jax.random.PRNGKey(seed)`.
    """


def _shortened(message: str, function: str) -> str:
    """The few useful lines of jaxtyping's long message."""
    argument = re.search(r"typechecking parameter '(\w+)'", message)
    got = re.search(r"Actual value: (.*)", message)
    expected = re.search(r"Expected type: (.*)", message)
    axes = re.search(r"axis annotation are as follows\.\n(.*)", message, re.DOTALL)
    where = f"argument `{argument[1]}` of `{function}`" if argument else f"the result of `{function}`"
    lines = [f"{where} has the wrong type, shape or dtype."]
    lines.append(f"  got:      {got[1][:200] if got else '?'}")
    lines.append(f"  expected: {_readable(expected[1]) if expected else '?'}")
    if axes:
        lines.append(
            "  axes:     " + ", ".join(axes[1].split("\n")[:8]).rstrip(", ") + " (from the arguments before it)"
        )
    return "\n".join(lines)


def _readable(annotation: str) -> str:
    """`Union[Integer[jaxlib._jax.Array, 'batch source'], NoneType]` as `Integer array (batch, source) or None`."""
    arrays = dict.fromkeys(
        f"{kind} array ({', '.join(axes.split())})" for kind, axes in _ARRAY_TYPE.findall(annotation)
    )
    if not arrays:
        return annotation.rstrip(".")[:300]
    return " or ".join([*arrays, *(["None"] if "NoneType" in annotation else [])])
