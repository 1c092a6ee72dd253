"""Debian's package descriptions as pairs of a long description and its one-line synopsis.

Reads the text of a `Translation-en` file and cleans it. Must not know files, splits or models.

A stanza of the file holds `Package:` and `Description-en:`, whose first line is the synopsis; the lines below it, each
behind a space, are the long description, with ` .` for an empty line.
"""

import re
from collections import Counter
from dataclasses import dataclass

LEAST_WORDS = 20
LEAST_SYNOPSIS_WORDS = 3
COMMON = 20
"""A paragraph of as many descriptions says nothing of the single package."""

_HOLLOW = re.compile(r"\b(transitional|dummy|meta-?package|empty package|dependency package)\b", re.IGNORECASE)
_BULLET = re.compile(r"[*+o•\u2013-]\s+")
_LINK = re.compile(r"(see|homepage|website|web page|url|http|https|ftp)\b.{0,80}?(https?|ftp)://\S+\W*", re.IGNORECASE)
_PLAIN = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Stanza:
    """A package as the file has it.

    Attributes:
        package: its name.
        synopsis: the one line.
        paragraphs: the long description, wrapped lines joined, bullets and paragraphs of nothing but a link left out.
    """

    package: str
    synopsis: str
    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Description:
    """A pair to learn from.

    Attributes:
        package: the package's name.
        source: the long description in one line.
        target: the synopsis.
    """

    package: str
    source: str
    target: str


def parse(text: str) -> list[Stanza]:
    """All stanzas that have a description."""
    return [stanza for block in re.split(r"\n\n+", text) if (stanza := _stanza(block)) is not None]


def clean(stanzas: list[Stanza]) -> tuple[list[Description], Counter[str]]:
    """The descriptions that say something of their own, and how many were dropped for which reason."""
    spread = Counter(paragraph for stanza in stanzas for paragraph in set(stanza.paragraphs))
    kept, dropped = [], Counter()
    for stanza in stanzas:
        source = " ".join(paragraph for paragraph in stanza.paragraphs if spread[paragraph] < COMMON)
        if _HOLLOW.search(stanza.synopsis):
            dropped["transitional, dummy or meta package"] += 1
        elif len(source.split()) < LEAST_WORDS:
            dropped[f"fewer than {LEAST_WORDS} words of its own"] += 1
        elif len(stanza.synopsis.split()) < LEAST_SYNOPSIS_WORDS:
            dropped[f"synopsis of fewer than {LEAST_SYNOPSIS_WORDS} words"] += 1
        else:
            kept.append(Description(stanza.package, source, stanza.synopsis))
    return kept, dropped


def plain_words(text: str) -> list[str]:
    """Letters and digits in small letters: what is compared where two texts are held to be the same."""
    return _PLAIN.findall(text.lower())


def _stanza(block: str) -> Stanza | None:
    package, synopsis, lines = "", None, []
    for line in block.split("\n"):
        if line.startswith("Package: "):
            package = line.removeprefix("Package: ").strip()
        elif line.startswith("Description-en:"):
            synopsis = _joined([line.removeprefix("Description-en:")])
        elif synopsis is not None and line.startswith(" "):
            lines.append(line.strip())
    return Stanza(package, synopsis, tuple(_paragraphs(lines))) if synopsis else None


def _paragraphs(lines: list[str]) -> list[str]:
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if line == ".":
            paragraphs.append([])
        else:
            paragraphs[-1].append(_BULLET.sub("", line, count=1) if _BULLET.match(line) else line)
    joined = (_joined(paragraph) for paragraph in paragraphs)
    return [paragraph for paragraph in joined if paragraph and not _LINK.fullmatch(paragraph)]


def _joined(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())
