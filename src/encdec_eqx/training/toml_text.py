"""TOML as text: read, with limits that no description of a run comes near. Knows nothing of what it says.

Python's parser takes time that grows with the square of a dotted key's parts, and recurses into nested values; so both
are counted first, in one pass over the text.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

from .._json import too_many_digits
from .._quoting import printable

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
