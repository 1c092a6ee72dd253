"""TOML files of jobs: read within limits, their values as settings take them, and advice in the file's own words."""

import contextlib
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

from .._json import too_many_digits
from .._quoting import printable, quoted

_SPEAKING = ContextVar("speaking_toml", default=False)

_TOKENIZERS = "[model] source_tokenizer and target_tokenizer (each a folder, a tokenizer.json or a Hub id)"
_OWN_TOKENIZERS = "leave [model] source_tokenizer and target_tokenizer out: then those beside the pieces are read."

_WORDS: tuple[tuple[str, str], ...] = (
    (r"(?:model = )?model\.with_special_tokens\((\w+)=\.\.\.\)", r"[model] \1 = <id>"),
    (r"(?:model = )?model\.with_special_tokens\((\w+)=([^()]*)\)", r"[model] \1 = \2"),
    (r"(?:model = )?model\.with_special_tokens\(\.\.\.\)", r"[model] eos_token_id and the like"),
    (r"encode_pairs\(pairs, tokenizers\.for_model\(model\)(?:, \.\.\.)?\)", f"give {_TOKENIZERS}"),
    (r"encode_pairs\(\.\.\., (\w+)=([^()]*)\)", r"[train] \1 = \2"),
    (r"tokenizers\.for_model\(model\) takes it from a model, ", ""),
    (r"TokenizerPair\.from_pretrained\(encoder_folder, decoder_folder\) reads the pieces' own(?: tokenizers)?\.",
     _OWN_TOKENIZERS),
    (r"\(TokenizerPair\.from_pretrained(?: reads it)?\)", "([model] source_tokenizer, target_tokenizer)"),
    (r"\(TokenizerPair\.from_pretrained and data\.Batches do both\)", "(records of text are encoded so)"),
    (r"\(TokenizerPair\.encode_target(?: and data\.Batches do it| does| does it)\)",
     "(records of text are encoded so)"),
    (r": TokenizerPair\.encode_target does\.", ": records of text are ended so."),
    (r"AutoTokenizer\.from_pretrained\(", "in Python, AutoTokenizer.from_pretrained("),
    (r"pass on_bad=\"report\" to go on without them", 'set [data] on_bad_records = "report" to go on without them'),
    (r"on_bad=\"report\"", '[data] on_bad_records = "report"'),
    (r'on_diagnosed_errors="report"', "--ignore-diagnosed-errors ([data] ignore_diagnosed_errors = true)"),
    (r"resume=True \(--resume\)", "--resume ([train] resume = true)"),
    (r"pass eval_data= \(validation_file in a config file\)", "give [data] validation_file"),
    (r"add data=\.\.\. \(--data FILE\)", "add --data FILE, or [data] train_file"),
    (r"source=\.\.\. and target=\.\.\. \(source_column and target_column in a job\)",
     "[data] source_column and target_column"),
    (r"source='([^']*)', target='([^']*)'", r'[data] source_column = "\1", target_column = "\2"'),
    (r"encoding='([^']*)'", r'[data] encoding = "\1"'),
    (r"encoder and decoder in from_pieces", "[model] encoder_name_or_path and decoder_name_or_path"),
    (r"Decoder\.from_pretrained\(path, key=key\) initialises it anew",
     "naming the decoder as [model] decoder_name_or_path initialises it anew"),
    (r"\(Decoder\.from_pretrained\(path, key=key\)\)", "([model] decoder_name_or_path)"),
    (r"(decoder|encoder|model)\.resize_token_embeddings\(", r"in Python, \1.resize_token_embeddings("),
    (r"\bset lora\b", "set [train] lora"),
    (r"\bTrue or False\b", "true or false"),
    (r"(?<== )True\b", "true"),
    (r"(?<== )False\b", "false"),
    (r"\bis False\b", "is false"),
    (r"=(['\"])([^'\"]*)\1", r' = "\2"'),
    (r" a sequence of names such as \[([^]]*)\]", r" a list of names such as [\1]"),
)  # fmt: skip
"""Patterns and what becomes of them, in this order."""

_TABLE = tuple((re.compile(pattern), words) for pattern, words in _WORDS)


@contextlib.contextmanager
def speaking_toml(*, speaking: bool = True) -> Iterator[None]:
    """Within it errors and findings give advice in TOML.

    Args:
        speaking: False leaves everything as it is.
    """
    token = _SPEAKING.set(speaking)
    try:
        yield
    except (ValueError, TypeError, ImportError, OSError, NotImplementedError) as error:
        if speaking and len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (translated(error.args[0]),)
        raise
    finally:
        _SPEAKING.reset(token)


def spoken(text: str) -> str:
    """A sentence as the user is to read it: as it is, or in TOML."""
    return translated(text) if _SPEAKING.get() else text


def translated(text: str) -> str:
    """The text with its Python in TOML's words."""
    for pattern, words in _TABLE:
        text = pattern.sub(words, text)
    return text


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


MOST_BYTES = 2**20
"""A description of a run has a few kilobytes."""

MOST_DEPTH = 64
"""Parts of a dotted key, or lists and tables inside each other: two or three are of use."""

_TOKENS = re.compile(
    r"""
    (?P<text> \"{3} (?:\\.|[^\\])*? \"{3,5} | '{3} .*? '{3,5} | "(?:\\.|[^"\\\n])*" | '[^'\n]*' )
    | (?P<comment> \#[^\n]* ) | (?P<opens> [\[{] ) | (?P<closes> [\]}] ) | (?P<dot> \. ) | (?P<ends> [=,\n] )
    """,
    re.VERBOSE | re.DOTALL,
)


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a folder, no TOML, or beyond the limits; names the file.
    """
    name = printable(path)
    if path.is_dir():
        raise ValueError(f"{name} is a folder; give a TOML file.")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {name} (looked from {Path.cwd()}).")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{name} has more than {MOST_BYTES:,} bytes, which no description of a run needs.")
    try:
        text = content.decode("utf-8-sig")
        line = _too_deep(text)
        if line is not None:
            raise ValueError(
                f"{name}, line {line}: more than {MOST_DEPTH} names joined by dots, or lists and tables inside each "
                "other, which no description of a run needs."
            )
        return _parsed(text, name)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not TOML, which is UTF-8 text: {error}.") from None


def _parsed(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{name} is not TOML: {error}.") from None
    except RecursionError:
        raise ValueError(f"{name} is not TOML: its lists and tables are too deep inside each other.") from None
    except ValueError:  # the other is a ValueError too; this one comes from int()
        raise ValueError(f"{name} cannot be read: {too_many_digits()}.") from None


def _too_deep(text: str) -> int | None:
    """The line in which a dotted key or nested values pass the limit, if one does."""
    depth = dots = 0
    for token in _TOKENS.finditer(text):
        match token.lastgroup:
            case "opens":
                depth, dots = depth + 1, 0
            case "closes":
                depth = max(depth - 1, 0)
            case "dot":
                dots += 1
            case "ends":
                dots = 0
        if max(depth, dots) > MOST_DEPTH:
            return text.count("\n", 0, token.start()) + 1
    return None
