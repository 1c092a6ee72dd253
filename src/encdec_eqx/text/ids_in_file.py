"""The ids that a `tokenizer.json` gives its tokens, looked at before the tokenizers library meets them.

That library makes room for every id up to the largest one: a file of a few lines with one of 2³¹ ends the process.
Knows the layout of the file; must not know models.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .._json import loads
from .._quoting import printable, quoted

MOST_UNUSED = 1_000_000
"""Ids below the largest that no token has. Honest files have none or some hundreds; a million takes 4 MB of room."""


def check_ids(content: bytes, path: Path) -> None:
    """Raise where an id is far beyond the number of tokens.

    Raises:
        ValueError: the file is no JSON object, an id is no whole number, negative or too large, or two tokens have one.
    """
    try:
        file = loads(content)
    except ValueError as error:
        raise ValueError(f"{printable(path)} is no tokenizer.json: not JSON: {printable(str(error), 300)}.") from None
    if not isinstance(file, dict):
        raise ValueError(f"{printable(path)} is no tokenizer.json: it holds {quoted(file)}; expected an object.")
    vocabulary, added = _get(file.get("model"), "vocab"), file.get("added_tokens")
    tokens = sum(len(part) for part in (vocabulary, added) if isinstance(part, dict | list))
    for token, given in _ids(vocabulary, added, file.get("post_processor")):
        if type(given) is not int or not 0 <= given < tokens + MOST_UNUSED:
            raise ValueError(
                f"{printable(path)} gives the token {quoted(token)} the id {quoted(given)}; expected a whole number "
                f"from 0 to {tokens + MOST_UNUSED - 1} (the file has {tokens} tokens). Copy or make the file again."
            )
    if isinstance(vocabulary, dict):
        _check_distinct(vocabulary, path)


def _check_distinct(vocabulary: dict[str, int], path: Path) -> None:
    """Two tokens of one id: once such a tokenizer has been saved and read again, one of them is gone."""
    if len(set(vocabulary.values())) == len(vocabulary):
        return
    first: dict[int, str] = {}
    for token, given in vocabulary.items():
        if first.setdefault(given, token) != token:
            raise ValueError(
                f"{printable(path)} gives the tokens {quoted(first[given])} and {quoted(token)} one id, {given}; "
                "expected an id for each. Copy or make the file again."
            )


def _ids(vocabulary: Any, added: Any, processor: Any) -> Iterator[tuple[Any, Any]]:
    """Each token with its id, wherever the file has one; parts of an unknown form are left to the library."""
    if isinstance(vocabulary, dict):
        yield from vocabulary.items()
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and "id" in token:
            yield token.get("content"), token["id"]
    for pair in (_get(processor, "sep"), _get(processor, "cls")):
        if isinstance(pair, list) and len(pair) == 2:
            yield pair[0], pair[1]
    special = _get(processor, "special_tokens")
    for name, token in special.items() if isinstance(special, dict) else ():
        ids = _get(token, "ids")
        for one in ids if isinstance(ids, list) else ():
            yield name, one


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None
