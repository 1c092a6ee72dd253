"""Values of a TOML file as settings take them, and what is said of those that are of another kind.

Knows kinds of values and how TOML writes them; must not know any setting.
"""

import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from .._quoting import quoted

_EXAMPLES = {"metrics": '["bleu"]', "learning_rates": "{cross_attention = 1e-4}", "train_file": '"train.jsonl"'}
"""What is written behind a name's equals sign, where its kind alone would be a poor example."""


def read_value(value: Any, kind: Any, name: str, where: str) -> Any:
    """The value as its setting takes it: lists become tuples, texts paths, whole numbers reals.

    Args:
        value: from the file.
        kind: the setting's annotation.
        name: the setting's name.
        where: what to put in front of it in an error.

    Raises:
        TypeError: it is of another kind; says what TOML writes.
    """
    options = _options(kind)
    for option in options:
        if _is_of(value, option):
            return _converted(value, option)
    wanted = " or ".join(dict.fromkeys(_described(option) for option in options if option is not types.NoneType))
    example = _EXAMPLES.get(name) or _example(options[0])
    raise TypeError(f"{where} {name} must be {wanted}, got {in_toml(value)}: write {name} = {example}.")


def in_toml(value: Any) -> str:
    """A value as a TOML file writes it, or nearly so, cut to a line."""
    if isinstance(value, bool | str):
        return quoted(value) if isinstance(value, str) else str(value).lower()
    if isinstance(value, Mapping):
        return f"a table with {', '.join(map(quoted, list(value)[:3])) or 'nothing in it'}"
    return quoted(value)


def _options(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)


def _is_of(value: Any, option: Any) -> bool:
    origin = typing.get_origin(option) or option
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in typing.get_args(option))
    if option is Path:
        return isinstance(value, str)
    if origin in (Sequence, tuple):
        inner = typing.get_args(option)[:1]
        return isinstance(value, list) and all(_is_of(one, kind) for one in value for kind in inner)
    if origin is Mapping:
        return isinstance(value, Mapping)
    if option is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return option in (str, int, bool) and type(value) is option


def _converted(value: Any, option: Any) -> Any:
    origin = typing.get_origin(option) or option
    if origin in (Sequence, tuple):
        [inner] = typing.get_args(option)[:1]
        return tuple(_converted(one, inner) for one in value)
    if origin is Mapping:
        return dict(value)
    if option is float:
        # beyond a real's range: kept, so that the setting's own check names it
        return float(value) if abs(value) < 2**1023 else value
    return Path(value) if option is Path else value


def _described(option: Any) -> str:
    origin = typing.get_origin(option) or option
    if origin is Literal:
        return f"one of {', '.join(repr(one) for one in typing.get_args(option))}"
    if origin in (Sequence, tuple):
        return f"a list, each {_described(typing.get_args(option)[0])}"
    if origin is Mapping:
        return "a table"
    names = {str: "a text in quotes", int: "a whole number", float: "a number", bool: "true or false"}
    return {**names, Path: "a path in quotes"}.get(option, str(option))


def _example(option: Any) -> str:
    origin = typing.get_origin(option) or option
    if origin is Literal:
        return f'"{typing.get_args(option)[0]}"'
    if origin in (Sequence, tuple):
        return f"[{_example(typing.get_args(option)[0])}]"
    return _KIND_EXAMPLES.get(origin, "...")


_KIND_EXAMPLES = {str: '"..."', int: "8", float: "1e-4", bool: "true", Path: '"folder"', Mapping: "{a = 1}"}
