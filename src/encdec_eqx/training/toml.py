"""TOML files of jobs: read within limits, their values as settings take them, and advice in the file's own words."""

import contextlib
import functools
import re
import tomllib
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
    (r"model = tokenizers\.configure\(model\)", "[model] tgt_lang"),
    (r"tokenizers\.with_languages\(", "in Python, tokenizers.with_languages("),
    (r"AutoTokenizer\.from_pretrained\(", "in Python, AutoTokenizer.from_pretrained("),
    (r"pass on_bad=\"report\" to go on without them", 'set [data] on_bad_records = "report" to go on without them'),
    (r"on_bad=\"report\"", '[data] on_bad_records = "report"'),
    (r'on_diagnosed_errors="report"', "--ignore-diagnosed-errors ([data] ignore_diagnosed_errors = true)"),
    (r"encdec_eqx\.training\.diagnose\(model, batch\) looks", "encdec-eqx doctor with the same file looks"),
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
    (r"(?<=\[mesh\]: )mesh\.", ""),
    (r"\bmesh\.(data|fsdp|tensor)\b", r"[mesh] \1"),
    (r"pass mesh=make_mesh\(data=(\d+)\), or any", r"set [mesh] data = \1, or any"),
    (r": change a size, or pass devices=\.", ": change a size in [mesh]."),
    (r"jax\.config\.update\('jax_num_cpu_devices', (\d+)\) before anything else",
     r"JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=\1 in the environment"),
    (r"Change the mesh, or keep what does not divide whole on every device: with_mesh\(.*RULES from .*sharding\.",
     "Change [mesh]; in Python, with_mesh(model, mesh, rules=...) keeps whole what does not divide."),
    (r"\bTrue or False\b", "true or false"),
    (r"(?<== )True\b", "true"),
    (r"(?<== )False\b", "false"),
    (r"\bis False\b", "is false"),
    (r"=(['\"])([^'\"]*)\1", r' = "\2"'),
    (r" a sequence of names such as \[([^]]*)\]", r" a list of names such as [\1]"),
)  # fmt: skip
"""Patterns and what becomes of them, in this order."""

_TABLE_OF: dict[str, str] = {}
"""By the name of a setting, its table: filled by `know_names`."""
_TYPED: ContextVar[Collection[str] | None] = ContextVar("typed", default=None)
"""Settings that the caller gave as options of a command."""
_ALONE = r"(?= (?:must|is|holds?|would|and|cannot)\b|\[)"
"""What follows a setting of one word, which may be an ordinary word too, where it is meant."""

_TABLE = tuple((re.compile(pattern), words) for pattern, words in _WORDS)


@contextlib.contextmanager
def speaking_toml(*, speaking: bool = True) -> Iterator[None]:
    """Within it errors and findings give advice in TOML, unless `speaking` is False."""
    token = _SPEAKING.set(speaking)
    try:
        with _words_of_errors(translated if speaking else None):
            yield
    finally:
        _SPEAKING.reset(token)


@contextlib.contextmanager
def _words_of_errors(words: Callable[[str], str] | None) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, ImportError, OSError, NotImplementedError, ArithmeticError) as error:
        if words is not None and len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (words(error.args[0]),)
        raise


@contextlib.contextmanager
def speaking_of_options(names: Collection[str]) -> Iterator[None]:
    """Within it these settings are called as a command's options are: `--learning-rate`."""
    token = _TYPED.set(names)
    try:
        yield
    finally:
        _TYPED.reset(token)


def in_the_callers_words(check: Callable[[Any], None]) -> Callable[[Any], None]:
    """A check of settings whose errors call them options, if it is a command that makes them."""

    @functools.wraps(check)
    def spoken_check(settings: Any) -> None:
        with _words_of_errors(None if _TYPED.get() is None or _SPEAKING.get() else _named):
            check(settings)

    return spoken_check


def know_names(tables: Mapping[str, Iterable[str]]) -> None:
    """Takes down which settings there are, by table."""
    _TABLE_OF.update({name: table for table, names in tables.items() for name in names})


def spoken(text: str) -> str:
    """A sentence as the user is to read it: as it is, or in TOML."""
    return translated(text) if _SPEAKING.get() else text


def translated(text: str) -> str:
    """The text with its Python in TOML's words."""
    for pattern, words in _TABLE:
        text = pattern.sub(words, text)
    return _named(text)


def _named(text: str) -> str:
    """The text with settings by their full names: with the table, or as an option where they came as one."""
    if not _TABLE_OF:
        return text
    typed = _TYPED.get() or ()
    told = set(re.findall(r"\[(model|data|train)\]", text))  # once is enough

    def named(found: re.Match) -> str:
        name, table = found["name"], _TABLE_OF[found["name"]]
        if name in typed:
            return f"--{name.replace('_', '-')}" + (" " if found["given"] else "")
        front = found["table"] or ("" if table in told else f"[{table}] ")
        told.add(table)
        return f"{front}{name}{' = ' if found['given'] else ''}"

    return _names_pattern().sub(named, text)


@functools.cache
def _names_pattern() -> re.Pattern:
    long = "|".join(name for name in _TABLE_OF if "_" in name)
    short = "|".join(name for name in _TABLE_OF if "_" not in name)
    # not within a word, a path, quotes or an option
    return re.compile(
        r"(?P<table>\[(?:model|data|train)\] )?(?<![\w./'\"-])"
        rf"(?P<name>(?:{long})(?![\w/'\"-]|\.\w)|(?:{short})(?:(?==[^= ])|{_ALONE}))"
        r"(?P<given>=(?=[^= ])| = )?"
    )


_EXAMPLES = {
    "metrics": '["bleu"]',
    "learning_rates": "{cross_attention = 1e-4}",
    "train_file": '"train.jsonl"',
    "report_to": '["tensorboard"]',
}
"""What is written behind a name's equals sign, where its kind alone would be a poor example."""


def read_value(value: Any, kind: Any, name: str, where: str) -> Any:
    """The value as a setting of this annotation takes it: lists become tuples, texts paths, whole numbers reals.

    Raises:
        TypeError: it is of another kind; says what TOML writes, `where` in front of the setting's name.
    """
    options = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    kinds = [_kind(option) for option in options if option is not types.NoneType]
    for one in kinds:
        if one.fits(value):
            return one.converted(value)
    wanted = " or ".join(dict.fromkeys(one.described for one in kinds))
    example = _EXAMPLES.get(name) or kinds[0].example
    raise TypeError(f"{where} {name} must be {wanted}, got {in_toml(value)}: write {name} = {example}.")


def in_toml(value: Any) -> str:
    """A value as a TOML file writes it, or nearly so, cut to a line."""
    if isinstance(value, bool | str):
        return quoted(value) if isinstance(value, str) else str(value).lower()
    if isinstance(value, Mapping):
        return f"a table with {', '.join(map(quoted, list(value)[:3])) or 'nothing in it'}"
    return quoted(value)


class _Kind(NamedTuple):
    """What a setting may be: in words, as a file writes it, whether a value is that, and what becomes of it."""

    described: str
    example: str
    fits: Callable[[Any], bool]
    converted: Callable[[Any], Any] = lambda value: value


_KINDS = {
    str: _Kind("a text in quotes", '"..."', lambda value: type(value) is str),
    int: _Kind("a whole number", "8", lambda value: type(value) is int),
    float: _Kind(
        "a number",
        "1e-4",
        lambda value: isinstance(value, int | float) and not isinstance(value, bool),
        # beyond a real's range: kept, so that the setting's own check names it
        lambda value: float(value) if abs(value) < 2**1023 else value,
    ),
    bool: _Kind("true or false", "true", lambda value: type(value) is bool),
    Path: _Kind("a path in quotes", '"folder"', lambda value: isinstance(value, str), Path),
    Mapping: _Kind("a table", "{a = 1}", lambda value: isinstance(value, Mapping), dict),
}


def _kind(option: Any) -> _Kind:
    origin, inside = typing.get_origin(option) or option, typing.get_args(option)
    if origin is Literal:
        return _Kind(
            f"one of {', '.join(map(repr, inside))}",
            f'"{inside[0]}"',
            lambda value: any(type(value) is type(one) and value == one for one in inside),
        )
    if origin in (Sequence, tuple):
        each = _kind(inside[0])
        return _Kind(
            f"a list, each {each.described}",
            f"[{each.example}]",
            lambda value: isinstance(value, list) and all(map(each.fits, value)),
            lambda value: tuple(map(each.converted, value)),
        )
    return _KINDS[origin]


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
