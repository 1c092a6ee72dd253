"""Errors of the `tokenizers` library as ValueErrors.

It is written in Rust: its errors are bare `Exception`s, and a panic there is no `Exception` at all, so that a caller's
`except ValueError` would see neither.
"""

import contextlib
from collections.abc import Iterator

from .._quoting import printable


@contextlib.contextmanager
def as_value_error(what: str) -> Iterator[None]:
    """Raise a ValueError that begins with `what` where the block raises something of the Rust side's.

    Raises:
        ValueError: the block raised an `Exception`, or a panic.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{what}: {printable(str(error), 300)}") from None
