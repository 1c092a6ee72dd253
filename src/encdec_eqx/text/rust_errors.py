"""What the tokenizers library raises, as this library's errors. Knows no tokenizer and no file.

That library is written in Rust: its errors are bare `Exception`s, and where it panics it raises what is no `Exception`
at all, so that a caller's `except ValueError` would never see either.
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
