"""The options of `generate` as a command line has them: made from `GenerationConfig`, and named so in its errors."""

import argparse
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from .._json import loads
from ..generation.generation_config import GenerationConfig

_ENTRY = re.compile(r"^    (\w+): (.+?)(?=^    \w+: |^\w|\Z)", re.MULTILINE | re.DOTALL)
_OTHERS = ("assistant_model", "constraint", "src_lang", "tgt_lang", "batch_size", "max_source_length")
"""Arguments of Python's calls that are options by the same name, too."""

SENTENCES = {
    "A single encoder or decoder is loaded with Encoder.from_pretrained or Decoder.from_pretrained.": (
        "Generating needs both pieces, saved together."
    ),
    "Lower source.": "Lower --source.",
    "platforms must be": "--platforms must be",
}
_LITERALS = {"true": True, "false": False}


def add_generation_options(parser: argparse.ArgumentParser) -> None:
    """An option for every field of `GenerationConfig`, by its name: `num_beams` is `--num-beams`."""
    group = parser.add_argument_group(
        "generation",
        "As in Python; docs/generation.md explains them. What is not given is what the model's files say. Lists of ids "
        "are JSON: --bad-words-ids '[[5, 6], [9]]'.",
    )
    hints, told = typing.get_type_hints(GenerationConfig), _help()
    for name in option_names():
        kind = hints[name]
        told_so = in_options(told[name].replace("`", "")).replace("%", "%%")
        group.add_argument(_spelled(name), dest=name, help=told_so, **_reading(kind))


def option_names() -> list[str]:
    """The fields of `GenerationConfig` that a user sets."""
    return [field.name for field in dataclasses.fields(GenerationConfig) if field.name != "others"]


def given_options(chosen: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, each checked on its own.

    Raises:
        TypeError: one is of the wrong kind.
        ValueError: one is out of range, or two contradict each other.
    """
    given = {name: getattr(chosen, name) for name in option_names() if getattr(chosen, name) is not None}
    GenerationConfig(**given)
    return given


@contextmanager
def speaking_options() -> Iterator[None]:
    """Within it errors name options of the command line: `--num-beams 4` for `num_beams=4`."""
    try:
        yield
    except (ValueError, TypeError, NotImplementedError) as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (in_options(error.args[0]),)
        raise


def in_options(text: str) -> str:
    """A sentence with the names of options as they are typed."""
    for python, said in SENTENCES.items():
        text = text.replace(python, said)
    names = "|".join(sorted([*option_names(), *_OTHERS], key=len, reverse=True))
    text = re.sub(rf"(?<![\w.-])({names})=(True|False)\b", _as_switch, text)
    text = re.sub(rf"(?<![\w.-])({names})=(?=\S)", lambda found: f"{_spelled(found[1])} ", text)
    return re.sub(rf"(?<![\w.-])({names})\b(?!['\"(]|\.\w)", lambda found: _spelled(found[1]), text)


def _as_switch(found: re.Match[str]) -> str:
    return _spelled(found[1]) if found[2] == "True" else _spelled(f"no_{found[1]}")


def _spelled(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _help() -> dict[str, str]:
    """What the class's documentation says of each field."""
    _, _, attributes = (inspect.getdoc(GenerationConfig) or "").partition("Attributes:\n")
    return {name: " ".join(text.split()) for name, text in _ENTRY.findall(attributes)}


def _reading(kind: Any) -> dict[str, Any]:
    """What argparse is told of an annotation: a switch, a number, a word, or JSON."""
    kinds = [one for one in typing.get_args(kind) if one is not types.NoneType] or [kind]
    if kinds == [bool]:
        return {"action": argparse.BooleanOptionalAction}
    if kinds == [int]:
        return {"type": _number(int, "a whole number"), "metavar": "N"}
    if kinds == [float]:
        return {"type": _number(float, "a number"), "metavar": "X"}
    words = [word for one in kinds if typing.get_origin(one) is Literal for word in typing.get_args(one)]
    if words:
        return {"type": _word([*_LITERALS, *words]), "metavar": f"{{{','.join([*_LITERALS, *words])}}}"}
    return {"type": _from_json, "metavar": "JSON"}


def _number(kind: Callable[[str], Any], what: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not {what}") from None

    return read


def _word(words: list[str]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if text not in words:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not one of {', '.join(words)}")
        return _LITERALS.get(text, text)

    return read


def _from_json(text: str) -> Any:
    """A list of ids, an id, or what else JSON holds; pairs of ids and a number are lists of two."""
    try:
        return loads(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not JSON, such as 7, [7, 8] or [[7, 8], [9]]") from None
