"""JSON of other people's making, read so that every refusal is one kind of error in one line.

Knows no file and no meaning. Python's `json` raises three kinds of errors for text that it cannot read, and the one for
a number of thousands of digits says nothing of JSON.
"""

import json
import sys
from collections.abc import Callable
from typing import Any


def loads(text: str | bytes, *, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """`json.loads`, the errors of which are sentences.

    Args:
        text: the JSON; bytes are UTF-8, a mark (BOM) in front of them aside.
        object_pairs_hook: as in `json.loads`; its own errors pass through.

    Raises:
        ValueError: the text is no JSON, is nested too deep, or holds a whole number of too many digits. Says which,
            for the caller to put behind the file's name.
    """
    pairs = None if object_pairs_hook is None else _Hook(object_pairs_hook)
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("it nests too deeply") from None
    except ValueError:
        if pairs is not None and pairs.failed:
            raise
        raise ValueError(too_many_digits()) from None


def too_many_digits() -> str:
    """What is said of a number that Python will not read; see `sys.set_int_max_str_digits`."""
    return f"it holds a whole number of more than {sys.get_int_max_str_digits()} digits"


class _Hook:
    """A hook that remembers whether an error is its own."""

    def __init__(self, hook: Callable[[list[tuple[str, Any]]], Any]):
        self._hook = hook
        self.failed = False

    def __call__(self, pairs: list[tuple[str, Any]]) -> Any:
        self.failed = True
        made = self._hook(pairs)
        self.failed = False
        return made
