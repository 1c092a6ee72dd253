"""Whether what was given as texts is text that a tokenizer can read. Knows no tokenizer."""

from collections.abc import Iterable
from typing import Any

from .._quoting import quoted


def listed(texts: Iterable[Any]) -> list[str]:
    """The texts as a list.

    Raises:
        TypeError: they are one string, or no texts; says which, and how many.
        ValueError: one holds half a surrogate pair, which no tokenizer can read.
    """
    if isinstance(texts, str):
        raise TypeError("texts must be a list of strings, got one string; put it into a list.")
    if isinstance(texts, bytes | bytearray) or not isinstance(texts, Iterable):
        raise TypeError(f"texts must be a list of strings, got {_shown(texts)}.{_hint(texts)}")
    made = list(texts)
    others = [at for at, text in enumerate(made) if not isinstance(text, str)]
    if others:
        first = made[others[0]]
        raise TypeError(
            f"text {others[0]}{_of(others, made)} is {_shown(first)}; expected a string.{_hint(first)}"
            " Texts are counted from 0."
        )
    halves = [at for at, text in enumerate(made) if half_pair(text) is not None]
    if halves:
        first = made[halves[0]]
        raise ValueError(
            f"text {halves[0]}{_of(halves, made)} holds half a surrogate pair at letter {half_pair(first)}: "
            f"{quoted(first)}; expected text that UTF-8 can write. Texts are counted from 0. "
            "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace') joins pairs, and marks halves that are "
            "left."
        )
    return made


def half_pair(text: str) -> int | None:
    """Where a text holds a code point that UTF-8 has no bytes for: half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def _of(some: list[int], all_of_them: list[Any]) -> str:
    return f" (and {len(some) - 1} more of {len(all_of_them)})" if len(some) > 1 else ""


def _shown(value: Any) -> str:
    return "None" if value is None else f"{type(value).__name__} {quoted(value)}"


def _hint(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        return " Decode bytes: text.decode('utf-8')."
    if isinstance(value, list | tuple):
        return " Texts are one flat list."
    if isinstance(value, int | float):
        return " A number is written by str(number)."
    return ""
