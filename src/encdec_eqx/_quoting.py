"""Values and names of other people's making, as messages quote them: one line, no longer than that, safe to print.

`repr` alone will not do: it is as long as the value, it fails on whole numbers of
thousands of digits, and the names of files are usually shown bare, where an escape sequence would reach the terminal.
"""

import os
import re
import reprlib
from collections.abc import Sequence
from typing import Any

LONGEST = 100
"""Most characters of a quoted value: what fits into a line of a message beside some words."""

_MOST_BITS = 200
"""Whole numbers up to this size are written out."""


class _Repr(reprlib.Repr):
    """`repr` that looks at no more of a value than it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxtuple = self.maxlist = self.maxarray = self.maxdict = self.maxset = self.maxfrozenset = 8
        self.maxdeque = 8
        self.maxstring = self.maxother = LONGEST

    def repr_int(self, x: int, level: int) -> str:
        """A whole number, or how long it is."""
        return repr(x) if x.bit_length() <= _MOST_BITS else f"a whole number of {x.bit_length()} bits"

    def repr_str(self, x: str | bytes, level: int) -> str:
        """The text or the bytes, or their beginning."""
        return repr(x) if len(x) <= self.maxstring else repr(x[: self.maxstring]) + "..."

    repr_bytes = repr_str

    def repr_ndarray(self, x: Any, level: int) -> str:
        """A small array as it is, a large one in words."""
        if x.size <= self.maxarray:
            return self.repr_instance(x, level)
        return f"an array of shape {tuple(x.shape)} and dtype {x.dtype}"

    repr_ArrayImpl = repr_ndarray  # noqa: N815 (the name of jax's arrays)


_REPR = _Repr()
_LINES = re.compile(r"\s*\n\s*")


def quoted(value: Any, longest: int = LONGEST) -> str:
    """`repr` of a value for a message: one line, cut, with no character that a terminal would obey.

    Args:
        value: anything, of any size.
        longest: most characters; what is cut off is marked by `...`.
    """
    return _cut(printable(_LINES.sub(" ", _REPR.repr(value))), longest)


def printable(name: str | os.PathLike, longest: int | None = None) -> str:
    """A name or a path as a message may show it bare: characters that do not print are escaped, as `repr` does it.

    That is every control character and line break, and marks that turn the direction of writing around.

    Args:
        name: the name.
        longest: most characters; default as many as there are, for a path that is to be copied.
    """
    text = os.fspath(name)
    text = text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if longest is None else _cut(text, longest)


def listed(texts: Sequence[str], most: int, between: str = ", ") -> str:
    """The first few of several texts, and how many more there are."""
    more = f"{between.rstrip(', ')} and {len(texts) - most} more" if len(texts) > most else ""
    return between.join(texts[:most]) + more


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."
