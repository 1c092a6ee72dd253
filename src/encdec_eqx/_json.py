"""JSON of other people's making, read so that every refusal is one kind of error in one line.

Python's `json` raises three kinds of errors for text that it cannot read, and the one for
a number of thousands of digits says nothing of JSON.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

PairsHook = Callable[[list[tuple[str, Any]]], Any]


def loads(text: str | bytes, *, object_pairs_hook: PairsHook | None = None) -> Any:
    """`json.loads`, the errors of which are of one kind and one line.

    Args:
        text: the JSON; bytes are UTF-8, a mark (BOM) in front of them aside.
        object_pairs_hook: as in `json.loads`; its own errors pass through.

    Raises:
        ValueError: the text is no JSON, nests too deeply, or holds a whole number of too many digits. Says which, for
            the caller to put behind the file's name.
    """
    pairs = None if object_pairs_hook is None else _Hook(object_pairs_hook)
    return _read(lambda: json.loads(text, object_pairs_hook=pairs), pairs)


class Decoder:
    """A `json.JSONDecoder` for many values, the errors of which are those of `loads`.

    Attributes:
        repeated: names that stood twice in an object, in what was decoded last; Python keeps the last value of each.
    """

    def __init__(self) -> None:
        self.repeated: list[str] = []
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)

    def decode(self, text: str) -> Any:
        """The value that a text holds.

        Raises:
            ValueError: see `loads`.
        """
        self.repeated = []
        return _read(lambda: self._decoder.decode(text))

    def value_at(self, text: str, start: int) -> tuple[Any, int]:
        """The value that begins at a place of a text, and the place behind it.

        Raises:
            ValueError: see `loads`.
        """
        self.repeated = []
        return _read(lambda: self._decoder.raw_decode(text, start))

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            seen: set[str] = set()
            self.repeated += [name for name, _ in pairs if name in seen or seen.add(name)]
        return made


def too_many_digits() -> str:
    """What is said of a number that Python will not read; see `sys.set_int_max_str_digits`."""
    return f"it holds a whole number of more than {sys.get_int_max_str_digits()} digits"


def _read(reading: Callable[[], Any], hook: "_Hook | None" = None) -> Any:
    try:
        return reading()
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("it nests too deeply") from None
    except ValueError:
        if hook is not None and hook.failed:
            raise
        raise ValueError(too_many_digits()) from None


class _Hook:
    """A hook that remembers whether an error is its own."""

    def __init__(self, hook: PairsHook):
        self._hook = hook
        self.failed = False

    def __call__(self, pairs: list[tuple[str, Any]]) -> Any:
        self.failed = True
        made = self._hook(pairs)
        self.failed = False
        return made
